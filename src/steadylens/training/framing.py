"""How a photograph becomes square: squashed, or padded with the background; in neither is anything cut away."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from steadylens.config import TIMM, Config
from steadylens.data import images
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing, Refusal
from steadylens.data.reading import in_threads
from steadylens.data.sources import ImageIndex
from steadylens.models.inference import logits_of
from steadylens.models.pretrained import Backbone
from steadylens.training.backbones import BackboneChoice
from steadylens.training.gain import gain_of
from steadylens.training.probe import CrossValidated, Features, View, cross_validate
from steadylens.training.resolution import choose_device

MOST_COMPARED = 600
SHARE_OF_COMPARING = 0.08  # of the time; where it would take more, images are squashed
SQUARE = 1.1  # where nine images in ten are no more elongated than this, it makes no difference worth a measurement


def choose_fit(
    config: Config,
    choice: BackboneChoice,
    index: ImageIndex,
    train: LabelledPixels,
    squashed: Preprocessing,
    *,
    units: NDArray[np.int64] | None = None,
    seconds: float | None,
) -> tuple[str, str]:
    """Squash or pad, and why.

    Args:
        config: what was asked for.
        choice: the backbone that will look at the images; without one they are squashed.
        index: of which `train.rows` are rows.
        train: training images, squashed.
        squashed: the preprocessing with which they are.
        units: a number for each row of the index; images of one number stay together. None where each is its own.
        seconds: left of the budget; None where there is none.
    """
    if config.image_fit != "auto":
        return config.image_fit, "given"
    if choice.pretrained is None:
        return "squash", "the whole image, and every pixel of the square is of it"
    widths, heights = index.widths[train.rows], index.heights[train.rows]
    ratios = np.maximum(widths / heights, heights / widths)
    if np.quantile(ratios, 0.9) <= SQUARE:
        return "squash", "the images are nearly square"
    compared = min(len(train), MOST_COMPARED)
    # Both are looked at, and where padding wins, everything is decoded anew.
    cost = 2 * compared / choice.images_per_second + (compared + len(index)) / choice.decode_per_second
    if seconds is not None and cost > SHARE_OF_COMPARING * seconds:
        return "squash", f"comparing it with padding would take about {cost:.0f} s, too much of the time there is"
    weights = choice.pretrained
    network = Backbone(weights.network.removeprefix(TIMM), len(index.classes), 0.0, weights.arguments)
    network.take_in(weights)
    device = torch.device(choose_device(config.device)[0])
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return compare(network, index, train, squashed, config.seed, choice.precision, units)


def compare(
    network: Backbone,
    index: ImageIndex,
    train: LabelledPixels,
    squashed: Preprocessing,
    seed: int,
    precision: str,
    units: NDArray[np.int64] | None = None,
) -> tuple[str, str]:
    """Squash or pad, whichever a cross-validated probe of some training images says, and its figures.

    Args:
        network: holding its pretrained weights.
        index: of which `train.rows` are rows.
        train: training images, squashed.
        squashed: the preprocessing with which they are.
        seed: of the sample and of the folds.
        precision: in which images are looked at.
        units: as for `choose_fit`.
    """
    sample = train.sample(MOST_COMPARED, seed)
    padded = replace(squashed, fit="pad")
    shown = list(in_threads(partial(_decoded, index, padded), [int(row) for row in sample.rows]))
    rows = np.array([i for i, image in enumerate(shown) if not isinstance(image, Refusal)])
    pixels = np.stack([image for image in shown if not isinstance(image, Refusal)])
    labels = sample.labels[rows]
    clusters = None if units is None else units[sample.rows[rows]]
    view = View(network, mirrored=False)
    of_squash, of_pad = (
        _judged(logits_of(view, some, how, precision=precision), labels, seed, clusters)
        for some, how in ((sample.take(rows)[0], squashed), (pixels, padded))
    )
    if not len(of_squash.rows):
        return "squash", "no class has two training images to compare squashing and padding on"
    gain = gain_of(of_pad.logits, of_squash.logits, labels[of_squash.rows])
    figures = (
        f"on {len(of_squash.rows)} training images left out in turn, padding changes the probe's balanced log-loss by "
        f"{gain.difference:+.3f}, and {-gain.margin:+.3f} would be more than chance"
    )
    return ("pad" if gain.is_sure else "squash"), figures


def _judged(
    features: Features, labels: NDArray[np.int64], seed: int, clusters: NDArray[np.int64] | None
) -> CrossValidated:
    classes = int(labels.max()) + 1
    return cross_validate(features, labels, classes, remedy="logit-adjust", seed=seed, clusters=clusters)


def _decoded(index: ImageIndex, how: Preprocessing, row: int) -> NDArray[np.uint8] | Refusal:
    if index.arrays is not None:
        return images.fit_array(index.arrays[row], how.image_size, fit=how.fit, interpolation=how.interpolation)
    content = index.read(index.paths[row])
    if isinstance(content, Refusal):
        return content
    return images.decode(content, how.image_size, fit=how.fit, interpolation=how.interpolation)
