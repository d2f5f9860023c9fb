"""Mirror images are looked at where that is asked for, or where validation says that it is better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from recipes import PLAIN
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.metrics import balanced_accuracy, balanced_log_loss, softmax
from steadylens.models.inference import logits_of
from steadylens.models.mirrored import Mirrored
from steadylens.training.gain import tempered_log_loss
from steadylens.training.mirroring import mirror
from steadylens.training.state import Epoch, Fitted

SIDE = 10
PREPROCESSING = Preprocessing(SIDE, (0.4, 0.4, 0.4), (0.25, 0.25, 0.25))
RECIPE = replace(PLAIN, classes=("bright", "dark"), image_size=SIDE)
ROW = Epoch(3, 1.0, 0.1, 0.5, 0.9, 0.8, 0.3, 0.4, 0.35, 0.7, 100.0)


class LeftHalf(nn.Module):
    """Two logits: how bright the left half is, and how dark."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0))

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to (n, 2)."""
        bright: Tensor = images[..., : SIDE // 2].mean((1, 2, 3)) * self.scale
        return torch.stack([bright, -bright], 1)


def images(kind: str, n: int = 60) -> LabelledPixels:
    """Bright and dark images with noise in each half ("same"), or such that the right half shows the opposite."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    base = np.where(labels == 0, 140, 110)[:, None, None, None]
    noise = rng.normal(0, 40, (n, 1, 1, 2))
    left, right = base + noise[..., :1], (base if kind == "same" else 250 - base) + noise[..., 1:]
    halves = [np.broadcast_to(half, (n, SIDE, SIDE // 2, 3)) for half in (left, right)]
    pixels: NDArray[np.uint8] = np.concatenate(halves, 2).clip(0, 255).astype(np.uint8)
    return LabelledPixels(pixels, np.arange(n), labels)


def fitted() -> Fitted:
    return Fitted(LeftHalf().eval(), PREPROCESSING, (ROW,), 3, ROW, 3, "epochs", 1.0, 100.0)


@pytest.mark.parametrize(
    ("kind", "asked", "taken"),
    [
        ("same", "if-better", True),
        ("opposite", "if-better", False),
        ("opposite", "on", True),
        ("same", "off", False),
    ],
)
def test_validation_decides_unless_it_was_given(kind: str, asked: str, taken: bool) -> None:
    said = list[str]()
    recipe = replace(RECIPE, mirror=asked)
    found = mirror(fitted(), images("same"), images(kind), recipe, say=said.append)
    assert isinstance(found.network, Mirrored) == taken
    assert len(said) == (asked != "off")
    if not taken:
        assert found.kept == ROW


def test_the_figures_are_those_of_the_network_that_is_kept() -> None:
    train, validation = images("same", 80), images("same")
    found = mirror(fitted(), train, validation, replace(RECIPE, mirror="on"))
    unseen, seen = (logits_of(found.network, part, PREPROCESSING) for part in (validation, train))
    kept = found.kept
    assert kept.validation_balanced_accuracy == balanced_accuracy(validation.labels, unseen.argmax(1), 2)
    assert kept.validation_tempered_log_loss == pytest.approx(tempered_log_loss(unseen, validation.labels))
    assert kept.train_balanced_accuracy == balanced_accuracy(train.labels, seen.argmax(1), 2)
    assert kept.train_balanced_log_loss == pytest.approx(balanced_log_loss(train.labels, softmax(seen)))
    assert (kept.epoch, kept.seconds, found.best_epoch) == (3, 1.0, 3)
