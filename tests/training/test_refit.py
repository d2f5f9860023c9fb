"""Training again takes what the first training chose, and nothing else; it learns from train and validation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.models import build, spec_of
from steadylens.models.pretrained import Backbone, from_file
from steadylens.training.checkpoint import Checkpoints
from steadylens.training.loop import fit
from steadylens.training.probe import features_of, fit_probe
from steadylens.training.refit import SLACK, First, readapt, refit, seconds_for, share_of_first, together
from steadylens.training.state import Step

MakeWeights = Callable[..., Path]
SIDE = 24
PREPROCESSING = Preprocessing(SIDE, (0.5,) * 3, (0.25,) * 3)
BACKBONE = Recipe(
    classes=("bolt", "nut", "washer"), network="timm:test_efficientnet", depth=0, width=1.0, image_size=SIDE,
    imbalance="logit-adjust", minority_augment=0.0, augment="off", flip=False, l1=0.0, l2=0.0, dropout=0.0,
    label_smoothing=0.0, mixup=0.0, early_stopping=5, epochs=40, budget=None, batch_size=16, learning_rate=5e-3,
    averaging=0.5, precision="fp32", seed=0, device="cpu", transfer="fine-tune", refit=True,
)  # fmt: skip
SCRATCH = replace(BACKBONE, network="cnn-s", depth=1, width=0.2, transfer="none", imbalance="none", budget=1e-3)


def parts() -> tuple[LabelledPixels, LabelledPixels]:
    """Train and validation of one store."""
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(3), (40, 30, 20)))
    pixels = rng.integers(0, 200, (len(labels), SIDE, SIDE, 3))
    pixels[np.arange(len(labels)), :, :, labels] += 25
    store, rows = pixels.astype(np.uint8), np.arange(len(labels))
    return LabelledPixels(store, rows[::2], labels[::2]), LabelledPixels(store, rows[1::2], labels[1::2])


TRAIN, VALIDATION = parts()
ALL = together(TRAIN, VALIDATION)


def fresh() -> nn.Module:
    torch.manual_seed(0)
    return build(spec_of(SCRATCH))


def backbone(weights: Path) -> Backbone:
    torch.manual_seed(0)
    network = Backbone("test_efficientnet", 3, 0.0, {})
    network.take_in(from_file(weights))
    return network


def readapted(network: Backbone, first: First) -> dict[str, torch.Tensor]:
    readapt(
        network, (TRAIN, VALIDATION), BACKBONE, PREPROCESSING, first,
        seconds=None, cache=None, checkpoints=Checkpoints(None),
    )  # fmt: skip
    return network.state_dict()


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, b[name]) for name, tensor in a.items())


def test_the_images_of_both_are_together_with_their_labels() -> None:
    assert sorted(ALL.rows) == sorted([*TRAIN.rows, *VALIDATION.rows])
    where = {row: label for part in (TRAIN, VALIDATION) for row, label in zip(part.rows, part.labels, strict=True)}
    assert [where[row] for row in ALL.rows] == list(ALL.labels)


def test_from_scratch_it_is_the_recipe_on_all_images_for_the_epochs_that_were_chosen() -> None:
    network, plain, steps = fresh(), fresh(), list[Step]()
    done = refit(
        network, ALL, SCRATCH, PREPROCESSING, First(3, 1.0, 1, 100.0, 0.0),
        seconds=None, checkpoints=Checkpoints(None), on_step=steps.append,
    )  # fmt: skip
    fit(plain, ALL, VALIDATION, replace(SCRATCH, epochs=3, early_stopping=0), PREPROCESSING)
    assert equal(network.state_dict(), plain.state_dict())
    assert done.epochs == 3
    assert done.seconds > 0
    assert {step.epoch for step in steps} == {1, 2, 3}
    assert not network.training


def test_where_the_time_is_short_the_schedule_ends_with_the_clock() -> None:
    done = refit(
        fresh(), ALL, SCRATCH, PREPROCESSING, First(10_000, 1.0, 1, 100.0, 0.0),
        seconds=1.0, checkpoints=Checkpoints(None),
    )  # fmt: skip
    assert done.epochs < 10_000
    assert done.seconds < 2.0


def test_where_the_probe_was_kept_only_the_probe_is_fitted_and_to_all_images(make_weights: MakeWeights) -> None:
    network = backbone(make_weights())
    before = {name: tensor.clone() for name, tensor in network.body.state_dict().items()}
    features = [features_of(network, part, PREPROCESSING, weights="") for part in (TRAIN, VALIDATION)]
    probe = fit_probe([np.concatenate(features)], ALL.labels, 3, remedy=BACKBONE.imbalance, seed=0)
    after = readapted(network, First(0, 0.0, 1, 100.0, 1.0))
    assert equal(before, network.body.state_dict())
    assert torch.equal(after["head.weight"], torch.from_numpy(probe.weight))
    assert torch.equal(after["head.bias"], torch.from_numpy(probe.bias))


def test_fine_tuned_weights_are_blended_by_the_share_that_was_chosen(make_weights: MakeWeights) -> None:
    weights = make_weights()
    probe, third, whole = (
        readapted(backbone(weights), First(epochs, share, 1, 100.0, 1.0))
        for epochs, share in ((0, 0.0), (2, 1 / 3), (2, 1.0))
    )
    assert not equal(probe, whole)
    for name, tensor in third.items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor, torch.lerp(probe[name], whole[name], 1 / 3))


def test_mirror_images_are_looked_at_where_they_were_the_first_time(make_weights: MakeWeights) -> None:
    weights = make_weights()
    once, twice = (readapted(backbone(weights), First(0, 0.0, views, 100.0, 1.0)) for views in (1, 2))
    assert not equal(once, twice)


@given(
    st.integers(10, 10**6), st.integers(1, 10**5), st.floats(1, 10**4), st.floats(1, 10**5),
)  # fmt: skip
def test_what_is_set_aside_suffices_for_as_many_epochs(
    trained_on: int, unseen: int, seconds: float, images_per_second: float
) -> None:
    images = trained_on + unseen
    time = share_of_first(images, trained_on) * seconds
    epochs = int(time * images_per_second / trained_on)
    needed = seconds_for(First(epochs, 1.0, 1, images_per_second, 0.0), images, trained_on)
    assert SLACK * needed <= (seconds - time) * (1 + 1e-9)
    assert time < seconds / 2


@pytest.mark.parametrize("probe_s", [0.0, 5.0])
def test_a_probe_takes_time_in_proportion_to_the_images(probe_s: float) -> None:
    assert seconds_for(First(0, 0.0, 1, 0.0, probe_s), 120, 100) == pytest.approx(1.2 * probe_s)
