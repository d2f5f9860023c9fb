"""A step that is replayed does what the step as it is written does, to the bit; on a GPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from recipes import PLAIN
from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.models import fresh
from steadylens.training.clock import Clock
from steadylens.training.loop import begin, train_epoch
from steadylens.training.recorder import recorded
from steadylens.training.source import FromStore, Resident

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RNG = np.random.default_rng(0)
IMAGES = LabelledPixels(
    RNG.integers(0, 256, (150, 12, 12, 3), dtype=np.uint8), np.arange(150), np.repeat([0, 1, 2], [90, 45, 15])
)
FRAME = Preprocessing(12, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RECIPE = replace(
    PLAIN, classes=("a", "b", "c"), network="cnn-s", width=0.5, depth=1, image_size=12, batch_size=16, epochs=4,
    optimizer="muon", augment="medium", flip=True, mixup=0.6, imbalance="logit-adjust", minority_augment=0.5,
    precision="bf16", device="cuda", averaging=0.9,
)  # fmt: skip


def trained(recipe: Recipe, *, record: bool = True) -> tuple[list[torch.Tensor], list[float]]:
    """The weights and their average after some epochs, and the losses of the last."""
    training = begin(fresh(recipe), IMAGES, recipe, FRAME, None, lambda _: None, str)
    assert training.recorder is not None
    training = training if record else replace(training, recorder=None)
    clock, losses, stopped = Clock(None, recipe.epochs), list[float](), ""
    while not stopped:
        _, stopped = train_epoch(training, clock, losses)
    return [*training.network.state_dict().values(), *training.average.averaged], losses


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"augment": "light", "mixup": 0.0},
        {"augment": "strong", "dropout": 0.3},
        {"imbalance": "ldam-drw"},
        {"l1": 1e-3, "l2": 1.0},
        {"optimizer": "adamw", "label_smoothing": 0.1},
    ],
)
def test_replayed_steps_are_those_that_are_written(options: dict[str, Any]) -> None:
    recipe = replace(RECIPE, **options)
    (weights, losses), (plain, others) = trained(recipe), trained(recipe, record=False)
    assert losses == others
    assert all(torch.equal(one, other) for one, other in zip(weights, plain, strict=True))


def test_the_same_seed_gives_the_same_bits_and_another_others() -> None:
    first, again, other = trained(RECIPE), trained(RECIPE), trained(replace(RECIPE, seed=1))
    assert first[1] == again[1]
    assert all(torch.equal(one, two) for one, two in zip(first[0], again[0], strict=True))
    assert first[1] != other[1]


def test_where_images_do_not_fit_into_the_gpu_they_come_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    resident = begin(fresh(RECIPE), IMAGES, RECIPE, FRAME, None, lambda _: None, str)
    assert isinstance(resident.source, Resident)
    monkeypatch.setattr("steadylens.training.source.RESIDENT_SHARE", 0.0)
    training = begin(fresh(RECIPE), IMAGES, RECIPE, FRAME, None, lambda _: None, str)
    assert isinstance(training.source, FromStore)
    assert training.recorder is None
    some = torch.tensor([3, 149, 0])
    assert all(torch.equal(one, two) for one, two in zip(training.source(some), resident.source(some), strict=True))
    assert np.isfinite(train_epoch(training, Clock(None, 4))[0])


def test_work_without_arguments_is_recorded_whole() -> None:
    count = torch.zeros(3, device="cuda")
    replay = recorded(lambda: count.add_(1))
    before = count.clone()
    replay()
    replay()
    assert torch.equal(count, before + 2)
