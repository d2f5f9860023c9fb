"""Squash or pad: obeyed where it is given, measured where there is time, and said either way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steadylens.config import parse
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import fit_array
from steadylens.data.sources import ImageIndex, index_arrays
from steadylens.models.pretrained import from_file
from steadylens.training import framing
from steadylens.training.backbones import BackboneChoice
from steadylens.training.framing import choose_fit
from steadylens.training.gain import Gain
from steadylens.training.probe import cross_validate

MakeWeights = Callable[..., Path]


def index_of(width: int, height: int, number: int = 40) -> ImageIndex:
    rng = np.random.default_rng(0)
    return index_arrays(rng.integers(0, 256, (number, height, width, 3), np.uint8), ["bolt", "nut"] * (number // 2))


@pytest.fixture
def choice(make_weights: MakeWeights) -> BackboneChoice:
    return BackboneChoice(from_file(make_weights()), 32, 100.0, 1000.0, {})


def chosen(choice: BackboneChoice, index: ImageIndex, seconds: float | None = None, **options: Any) -> tuple[str, str]:  # noqa: ANN401
    assert index.arrays is not None
    pixels = np.stack([fit_array(image, 32) for image in index.arrays])
    train = LabelledPixels(pixels, np.arange(len(pixels)), index.labels)
    config = parse({"device": "cpu", **options})
    return choose_fit(config, choice, index, train, choice.frame(config.image_fit, 32), seconds=seconds)


@pytest.mark.parametrize("fit", ["squash", "pad"])
def test_what_is_given_is_obeyed(choice: BackboneChoice, fit: str) -> None:
    assert chosen(choice, index_of(30, 60), image_fit=fit) == (fit, "given")


def test_a_network_from_scratch_squashes(choice: BackboneChoice) -> None:
    assert chosen(replace(choice, pretrained=None), index_of(30, 60))[0] == "squash"


def test_square_images_need_no_comparison(choice: BackboneChoice) -> None:
    assert chosen(choice, index_of(42, 40)) == ("squash", "the images are nearly square")


def test_a_comparison_that_takes_too_long_is_left_out_and_said(choice: BackboneChoice) -> None:
    fit, why = chosen(choice, index_of(30, 60), seconds=10.0)
    assert fit == "squash"
    assert "would take about 1 s, too much" in why


@pytest.mark.parametrize(("difference", "fit"), [(-0.2, "pad"), (-0.05, "squash"), (0.2, "squash")])
def test_padding_wins_where_the_probe_is_surely_better(
    choice: BackboneChoice, monkeypatch: pytest.MonkeyPatch, difference: float, fit: str
) -> None:
    monkeypatch.setattr(framing, "gain_of", lambda *_: Gain(0.5, difference, 0.1))
    found, why = chosen(choice, index_of(30, 60))
    assert found == fit
    assert f"by {difference:+.3f}" in why
    assert "on 40 training images" in why


def test_units_stay_together_and_only_training_images_are_looked_at(
    choice: BackboneChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = list[Any]()

    def noted(features: Any, labels: Any, classes: int, *, clusters: Any, **more: Any) -> Any:  # noqa: ANN401
        given.append(clusters)
        return cross_validate(features, labels, classes, clusters=clusters, **more)

    monkeypatch.setattr(framing, "cross_validate", noted)
    index = index_of(30, 60)
    assert index.arrays is not None
    pixels, rows = np.stack([fit_array(image, 32) for image in index.arrays]), np.arange(10, 40)
    train = LabelledPixels(pixels, rows, index.labels[rows])
    arguments = parse({"device": "cpu"}), choice, index, train, choice.frame("auto", 32)
    choose_fit(*arguments, units=np.arange(40) // 2, seconds=None)
    assert [sorted(clusters.tolist()) for clusters in given] == [sorted((rows // 2).tolist())] * 2
    index.widths[rows] = index.heights[rows]  # the others are as elongated as before
    assert choose_fit(*arguments, seconds=None) == ("squash", "the images are nearly square")


def test_a_class_that_only_its_shape_tells_apart_is_padded(choice: BackboneChoice) -> None:
    """Wide and tall stripes of the same colours look alike squashed, and not padded."""
    rng = np.random.default_rng(0)
    images = rng.integers(100, 160, (80, 64, 64, 3), np.uint8)
    labels = ["tall", "wide"] * 40
    index = index_arrays(images, labels)
    shapes = [(16, 64) if label == "tall" else (64, 16) for label in labels]
    index = replace(
        index, widths=np.array([w for w, _ in shapes], np.int32), heights=np.array([h for _, h in shapes], np.int32)
    )
    cut = [image[:h, :w] for image, (w, h) in zip(images, shapes, strict=True)]
    pixels = np.stack([fit_array(image, 32) for image in cut])
    train = LabelledPixels(pixels, np.arange(80), index.labels)
    object.__setattr__(index, "arrays", cut)  # images of several sizes, as files have them
    fit, why = choose_fit(parse({"device": "cpu"}), choice, index, train, choice.frame("auto", 32), seconds=None)
    assert fit == "pad", why
