"""A step is what it says: the gradient of the mean loss of these images, and the optimizer's step along it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from recipes import PLAIN
from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels, to_input
from steadylens.data.images import Preprocessing
from steadylens.models import fresh
from steadylens.training.loop import begin
from steadylens.training.optimizers import set_rate
from steadylens.training.regularize import Mixing, mix
from steadylens.training.state import Training
from steadylens.training.steps import learn, next_step

RNG = np.random.default_rng(0)
IMAGES = LabelledPixels(
    RNG.integers(0, 256, (40, 10, 10, 3), dtype=np.uint8), np.arange(40), np.repeat([0, 1], [30, 10])
)
FRAME = Preprocessing(10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RECIPE = replace(
    PLAIN, classes=("a", "b"), network="cnn-s", width=0.25, depth=1, image_size=10, batch_size=8, epochs=2,
    optimizer="muon", learning_rate=1e-2,
)  # fmt: skip
SOME = np.array([3, 35, 7, 38, 0])


def training_of(recipe: Recipe) -> Training:
    training = begin(fresh(recipe), IMAGES, recipe, FRAME, None, lambda _: None, str)
    set_rate(training.optimizer, recipe.learning_rate)
    training.network.train()
    return training


def weights(training: Training) -> list[Tensor]:
    return [p.detach().clone() for p in training.network.parameters()]


@pytest.mark.parametrize("mixing", [None, Mixing(cut=False, share=0.3), Mixing(True, 0.84, left=2, top=5, box=4)])
def test_a_step_goes_along_the_gradient_of_the_mean_loss(mixing: Mixing | None) -> None:
    ours, theirs = training_of(RECIPE), training_of(RECIPE)
    loss = learn(ours, torch.from_numpy(SOME), mixing, 0.0)

    pixels, labels = IMAGES.take(SOME)
    images, targets = to_input(pixels, FRAME.mean, FRAME.std), torch.from_numpy(labels)
    logits = theirs.network(images if mixing is None else mix(images, mixing))
    expected = F.cross_entropy(logits, targets)
    if mixing is not None:
        expected = mixing.share * expected + (1 - mixing.share) * F.cross_entropy(logits, targets.roll(1))
    expected.backward()  # type: ignore[no-untyped-call]
    theirs.optimizer.step()

    torch.testing.assert_close(loss, expected.detach())
    for one, other in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def states(recipe: Recipe, places: list[tuple[int, int]]) -> Iterator[list[Tensor]]:
    """The weights after a first step at each of these places, (epoch, step)."""
    for epoch, step in places:
        training = training_of(recipe)
        next_step(training, SOME, epoch, step, 0.0)
        yield weights(training)


@pytest.mark.parametrize("options", [{"augment": "light"}, {"mixup": 1.0}, {"dropout": 0.5}])
def test_what_is_random_depends_on_epoch_and_step_alone(options: dict[str, Any]) -> None:
    first, again, later = states(replace(RECIPE, **options), [(1, 0), (1, 0), (1, 1)])
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, later, strict=True))


def test_l1_shrinks_by_the_rate_times_its_coefficient() -> None:
    plain, shrunk = training_of(RECIPE), training_of(replace(RECIPE, l1=0.05))
    for training in (plain, shrunk):
        learn(training, torch.from_numpy(SOME), None, 0.0)
    amount = RECIPE.learning_rate * 0.05
    for (name, one), other in zip(plain.network.named_parameters(), weights(shrunk), strict=True):
        expected = torch.sign(one) * (one.abs() - amount).clamp(min=0) if one.requires_grad and one.ndim > 1 else one
        torch.testing.assert_close(other, expected.detach(), rtol=1e-5, atol=1e-7, msg=name)
