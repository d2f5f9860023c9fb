"""The recipe once more, from fresh weights, on train and validation together: more to learn from, nothing to choose.

What there was to choose, the first training has chosen: how many epochs, and of a pretrained backbone how much of the
fine-tuned weights to keep. The schedule goes by those epochs, so that the learning rate is at zero when they end. There
are no unseen images left but those of test: what is measured meanwhile is measured on images that are learned from, and
only shows that the training has not diverged.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from steadylens import interruption
from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.models.pretrained import Backbone
from steadylens.training.checkpoint import Checkpoint, Checkpoints, copied
from steadylens.training.finetune import between, rates_of, thaw, weights_of
from steadylens.training.loop import fit
from steadylens.training.probe import Features, Probe, features_of, fit_probe
from steadylens.training.state import Fitted, Step

# So much longer than predicted a second training may take, and still be begun: the first speed was measured while the
# machine did what else it does. Where the time is short, the schedule follows the clock and ends with fewer epochs.
SLACK = 1.15
_GLANCE = 200  # images that the training looks at to see that it has not diverged


@dataclass(frozen=True)
class First:
    """What the first training has chosen, and what it took.

    Attributes:
        epochs: that its best weights had seen; 0 where a probe is kept.
        share: of the fine-tuned weights that is kept; 1 without a pretrained backbone.
        views: of each image, for the probe: 1, or 2 with mirror images.
        images_per_second: of training alone.
        probe_s: seconds that the probe took.
    """

    epochs: int
    share: float
    views: int
    images_per_second: float
    probe_s: float


@dataclass(frozen=True)
class Second:
    """What the second training took: epochs, of fine-tuning where there is a backbone, and seconds of wall time."""

    epochs: int
    seconds: float


def first_of(fitted: Fitted, account: dict[str, object] | None) -> First:
    """What a training has chosen; `account` is that of a pretrained backbone (see `finetune.Adapted`)."""
    if account is None:
        return First(fitted.best_epoch, 1.0, 1, fitted.images_per_second, 0.0)
    views, share, probe = account["views"], account["blend"], account["probe"]
    if not isinstance(views, int) or not isinstance(share, float | int) or not isinstance(probe, dict):
        raise TypeError(f"no account of a pretrained backbone: {account}")
    return First(fitted.best_epoch, float(share), views, fitted.images_per_second, float(probe["seconds"]))


def seconds_for(first: First, images: int, trained_on: int) -> float:
    """Seconds that training again on so many images will take, where the first training had `trained_on`."""
    tuning = first.epochs * images / first.images_per_second if first.epochs else 0.0
    return tuning + first.probe_s * images / trained_on


def share_of_first(images: int, trained_on: int) -> float:
    """The share of the time that the first training may take, so that as many epochs on `images` fit into the rest."""
    return trained_on / (trained_on + SLACK * images)


def refit(
    network: nn.Module,
    images: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    first: First,
    *,
    seconds: float | None,
    checkpoints: Checkpoints,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Second:
    """Train a fresh network from scratch, in place.

    Args:
        network: with fresh weights.
        images: all that may be learned from.
        recipe: what to do; its epochs, its budget and its early stopping do not count here.
        preprocessing: how pixels become input, as in the first training.
        first: what that has chosen.
        seconds: of wall time; None where the epochs alone decide.
        checkpoints: where the training is kept, and gone on from.
        on_step: told after each step.

    Raises:
        ConfigError: the loss is no longer a number.
    """
    fitted = fit(
        network, images, images.sample(_GLANCE, recipe.seed), _again(recipe, first), preprocessing,
        seconds=seconds, seen=0, checkpoints=checkpoints, stage="refitting", on_step=on_step,
    )  # fmt: skip
    return Second(fitted.epochs, fitted.seconds)


def readapt(
    network: Backbone,
    parts: tuple[LabelledPixels, LabelledPixels],
    recipe: Recipe,
    preprocessing: Preprocessing,
    first: First,
    *,
    seconds: float | None,
    cache: Path | None,
    clusters: NDArray[np.int64] | None = None,
    checkpoints: Checkpoints,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Second:
    """Fit the probe of a pretrained backbone on all images, and fine-tune and blend as the first time, in place.

    Args:
        network: holding its pretrained weights.
        parts: train and validation, whose features are in the cache.
        recipe: what to do; its epochs, its budget and its early stopping do not count here.
        preprocessing: that of the weights.
        first: what the first training has chosen.
        seconds: of wall time for everything done here; None where the epochs alone decide.
        cache: the folder of the cache, for the features.
        clusters: (n,) number of the set of near-duplicates of each image, of train and then of validation; None: each
            its own.
        checkpoints: where probe and training are kept, and gone on from.
        on_step: told after each step of fine-tuning.

    Raises:
        ConfigError: the loss is no longer a number.
    """
    begin, images = time.perf_counter(), together(*parts)
    kept = checkpoints.outcome("refit-probe")
    if kept is None:
        views = [_features(network, parts, recipe, preprocessing, cache, mirrored=bool(v)) for v in range(first.views)]
        probe = fit_probe(
            views, images.labels, len(recipe.classes), remedy=recipe.imbalance, seed=recipe.seed, clusters=clusters
        )
        tensors = {"weight": torch.from_numpy(probe.weight), "bias": torch.from_numpy(probe.bias)}
        kept = Checkpoint(
            {"strength": probe.strength, "folds": probe.folds, "seconds": time.perf_counter() - begin}, copied(tensors)
        )
        checkpoints.keep("refit-probe", kept)
    weight, bias = (kept.tensors[name].numpy() for name in ("weight", "bias"))
    Probe(weight, bias, kept.state["strength"], kept.state["folds"]).write_into(network.head)
    if not first.epochs:
        return Second(0, kept.state["seconds"])
    left = None if seconds is None else seconds - (time.perf_counter() - begin)
    before = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    thaw(network)
    fitted = fit(
        network, images, images.sample(_GLANCE, recipe.seed), _again(recipe, first), preprocessing,
        seconds=left, rates=rates_of(network), seen=0, checkpoints=checkpoints, stage="refit-tuning",
        on_step=on_step,
    )  # fmt: skip
    after = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    network.load_state_dict(between(before, after, first.share))
    return Second(fitted.epochs, kept.state["seconds"] + fitted.seconds)


def together(train: LabelledPixels, validation: LabelledPixels) -> LabelledPixels:
    """The images of both."""
    rows, labels = ([getattr(part, name) for part in (train, validation)] for name in ("rows", "labels"))
    return LabelledPixels(train.pixels, np.concatenate(rows), np.concatenate(labels))


def _again(recipe: Recipe, first: First) -> Recipe:
    return replace(recipe, epochs=first.epochs, budget=None, early_stopping=0)


def _features(
    network: Backbone,
    parts: tuple[LabelledPixels, LabelledPixels],
    recipe: Recipe,
    preprocessing: Preprocessing,
    cache: Path | None,
    *,
    mirrored: bool,
) -> Features:
    """The features of all images, or of their mirror images; most of them are in the cache."""

    def told(_images: int) -> None:
        if interruption.asked():
            interruption.leave()

    return np.concatenate(
        [
            features_of(
                network, part, preprocessing,
                weights=weights_of(recipe), mirrored=mirrored, precision=recipe.precision, cache=cache, advance=told,
            )
            for part in parts
        ]
    )  # fmt: skip
