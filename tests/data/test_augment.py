"""Augmentation changes what it is told to change, as far as it is told to, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from steadylens.data.augment import (
    GREATEST_STRENGTH,
    LEVELS,
    Augmentation,
    augment,
    base_strength,
    different_copies,
    policy_of,
)


def noise(n: int, side: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def augmented(images: Tensor, policy: Augmentation, strength: Tensor | float, seed: int = 0) -> Tensor:
    strengths = strength if isinstance(strength, Tensor) else torch.full((len(images),), strength)
    return augment(images, policy, strengths, torch.Generator().manual_seed(seed))


def shifts_of(image: NDArray[np.float32], limit: int) -> dict[tuple[int, int, bool], NDArray[np.float32]]:
    """Every (down, right, mirrored) version of one image, (3, side, side), its border reflected."""
    side = image.shape[1]
    padded = np.pad(image, ((0, 0), (limit, limit), (limit, limit)), mode="symmetric")
    places = [(y, x) for y in range(2 * limit + 1) for x in range(2 * limit + 1)]
    plain = {(y, x, False): padded[:, y : y + side, x : x + side] for y, x in places}
    return plain | {(y, x, True): view[:, :, ::-1] for (y, x, _), view in plain.items()}


@pytest.mark.parametrize("side", [8, 17, 64])
@pytest.mark.parametrize("level", ["off", "light"])
def test_strength_0_leaves_an_image_as_it_is_to_the_bit(level: str, side: int) -> None:
    images = noise(5, side)
    assert torch.equal(augmented(images, policy_of(level, flip=True, minority_only=False), 0.0), images)


@pytest.mark.parametrize("level", LEVELS)
def test_strength_0_changes_nothing_that_could_be_seen(level: str) -> None:
    images = noise(8, 33)
    result = augmented(images, policy_of(level, flip=True, minority_only=False), 0.0)
    assert (result - images).abs().max() < 1e-4


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("side", [8, 9, 32, 64])
@pytest.mark.parametrize("strength", [0.3, 1.0, 100.0])
def test_shape_and_type_stay_and_every_value_is_a_number(level: str, side: int, strength: float) -> None:
    images = noise(6, side)
    before = images.clone()
    result = augmented(images, policy_of(level, flip=True, minority_only=False), strength)
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert result.isfinite().all()
    assert torch.equal(images, before), "the images that came in are changed"


@pytest.mark.parametrize("level", LEVELS)
def test_channels_last_images_stay_channels_last(level: str) -> None:
    images = noise(6, 16).contiguous(memory_format=torch.channels_last)
    result = augmented(images, policy_of(level, flip=True, minority_only=False), 1.0)
    assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("level", ["light", "medium", "strong"])
def test_the_generator_alone_decides(level: str) -> None:
    images, policy = noise(8, 16), policy_of(level, flip=True, minority_only=False)
    first = augmented(images, policy, 1.0, seed=3)
    torch.manual_seed(99)
    assert torch.equal(augmented(images, policy, 1.0, seed=3), first)
    assert not torch.equal(augmented(images, policy, 1.0, seed=4), first)


@pytest.mark.parametrize("level", ["light", "medium", "strong"])
def test_a_larger_strength_changes_more(level: str) -> None:
    coarse = torch.nn.functional.interpolate(noise(200, 4), size=32, mode="bilinear")
    policy = policy_of(level, flip=False, minority_only=False)
    changes = [float((augmented(coarse, policy, s) - coarse).abs().mean()) for s in (0.0, 0.5, 1.0, 2.0)]
    assert changes == sorted(changes)
    assert changes[3] > 1.5 * changes[1]


def test_a_stronger_level_changes_more() -> None:
    coarse = torch.nn.functional.interpolate(noise(200, 4), size=32, mode="bilinear")
    changes = [float((augmented(coarse, policy, 1.0) - coarse).abs().mean()) for policy in LEVELS.values()]
    assert changes == sorted(changes)
    assert len(set(changes)) == len(changes)


def test_no_strength_counts_for_more_than_the_greatest() -> None:
    images = noise(8, 16)
    greatest = augmented(images, LEVELS["strong"], GREATEST_STRENGTH)
    assert torch.equal(augmented(images, LEVELS["strong"], 1e6), greatest)
    assert torch.equal(augmented(images, LEVELS["strong"], -1.0), augmented(images, LEVELS["strong"], 0.0))


@given(
    side=st.integers(8, 16), shift=st.sampled_from([0.0, 0.1, 0.25]), flip=st.booleans(), seed=st.integers(0, 2**32 - 1)
)
@settings(max_examples=30)
def test_a_shift_is_whole_pixels_within_its_limit_with_the_border_reflected(
    side: int, shift: float, flip: bool, seed: int
) -> None:
    images = noise(4, side, seed)
    limit = round(shift * side)
    results = augmented(images, Augmentation(shift=shift, flip=flip), 1.0, seed)
    for image, result in zip(images.numpy(), results.numpy(), strict=True):
        found = [key for key, view in shifts_of(image, limit).items() if np.array_equal(view, result)]
        assert len(found) == 1
        assert flip or not found[0][2]


def test_every_shift_and_the_mirror_are_drawn_as_often_as_they_should_be() -> None:
    image = noise(1, 8)
    views = shifts_of(image[0].numpy(), 2)
    results = augmented(image.expand(2000, -1, -1, -1), Augmentation(shift=0.25, flip=True), 1.0)
    drawn = [next(key for key, view in views.items() if np.array_equal(view, r)) for r in results.numpy()]
    assert set(drawn) == set(views)
    assert np.mean([mirrored for _, _, mirrored in drawn]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([y for y, _, _ in drawn]) == pytest.approx(2, abs=0.15)
    assert np.mean([x for _, x, _ in drawn]) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("level", ["medium", "strong"])
def test_without_flip_no_image_is_mirrored_at_any_level(level: str) -> None:
    # Bright on the left, dark on the right: no small shift, turn or zoom makes the right half the brighter one.
    images = torch.linspace(1, -1, 32).expand(200, 3, 32, 32).contiguous()
    brighter_left = images[..., :16].mean((1, 2, 3)) > images[..., 16:].mean((1, 2, 3))
    assert brighter_left.all()
    for flip, share in ((False, 0.0), (True, 0.5)):
        result = augmented(images, replace(LEVELS[level], flip=flip), 1.0)
        mirrored = result[..., :16].mean((1, 2, 3)) < result[..., 16:].mean((1, 2, 3))
        assert float(mirrored.float().mean()) == pytest.approx(share, abs=0.1 if flip else 0.0)


@pytest.mark.parametrize("level", ["light", "medium", "strong"])
def test_the_strength_of_an_image_is_its_own(level: str) -> None:
    images, policy = noise(9, 16), policy_of(level, flip=True, minority_only=False)
    strength = torch.tensor([0.0, 1.0, 2.0] * 3)
    result = augmented(images, policy, strength)
    change = (result - images).abs().amax((1, 2, 3))
    assert (change[strength == 0] < 1e-4).all()
    assert (change[strength > 0] > 1e-2).sum() >= 4, "a light change may be a shift by no pixel"
    raised = strength.clone()
    raised[4] = 3.0
    others = torch.arange(9) != 4
    assert torch.equal(augmented(images, policy, raised)[others], result[others])


def test_cutout_greys_out_a_square_of_its_size_and_no_more() -> None:
    side, share = 20, 0.5
    images = torch.ones(300, 3, side, side)
    grey = augmented(images, Augmentation(cutout=share), 1.0) == 0
    assert torch.equal(grey.all(1), grey.any(1))
    rows, columns = grey[:, 0].any(2).sum(1), grey[:, 0].any(1).sum(1)
    assert torch.equal(grey[:, 0].sum((1, 2)), rows * columns)
    assert rows.max() == columns.max() == side * share
    assert rows.min() >= side * share / 2, "a square around a pixel of the image is at least a quarter inside"


def test_colour_changes_stay_within_their_share() -> None:
    images = torch.zeros(500, 3, 8, 8)
    brightness = augmented(images, Augmentation(colour=0.2), 1.0)[:, 0, 0, 0]
    assert brightness.abs().max() <= 0.2
    assert brightness.std() == pytest.approx(0.2 / 3**0.5, rel=0.1)
    # A grey image has no saturation to change: only contrast is left, the same for all its pixels.
    grey = torch.tensor([-1.0, 1.0]).repeat(4).expand(500, 3, 8, 8)
    span = augmented(grey, Augmentation(colour=0.2), 1.0)
    contrast = (span.amax((1, 2, 3)) - span.amin((1, 2, 3))) / 2
    assert 0.8 - 1e-5 <= float(contrast.min()) < 0.85
    assert 1.15 < float(contrast.max()) <= 1.2 + 1e-5


def test_minority_classes_are_augmented_even_where_augmentation_is_off() -> None:
    assert policy_of("off", flip=False, minority_only=True) == LEVELS["medium"]
    assert policy_of("off", flip=False, minority_only=False) == Augmentation()
    assert policy_of("strong", flip=True, minority_only=True) == replace(LEVELS["strong"], flip=True)


@pytest.mark.parametrize(
    ("level", "flip", "minority_only", "strength"),
    [
        ("off", False, False, 0),
        ("off", True, False, 1),
        ("off", True, True, 0),
        ("off", False, True, 0),
        ("light", False, False, 1),
        ("strong", True, True, 1),
    ],
)
def test_the_largest_class_has_a_strength_where_something_is_asked_for_all(
    level: str, flip: bool, minority_only: bool, strength: float
) -> None:
    assert base_strength(level, flip=flip, minority_only=minority_only) == strength


@pytest.mark.parametrize(
    ("shift", "strength", "flip"), [(0.0, 1.0, True), (0.1, 1.0, False), (0.1, 2.0, True), (0.1, 0.0, True)]
)
def test_one_image_becomes_as_many_as_is_said(shift: float, strength: float, flip: bool) -> None:
    policy = Augmentation(shift=shift, flip=flip)
    copies = augmented(noise(1, 8).expand(3000, -1, -1, -1), policy, strength).reshape(3000, -1)
    assert len(torch.unique(copies, dim=0)) == different_copies(policy, strength, 8)


def test_what_turns_or_colours_never_gives_the_same_twice() -> None:
    for level in ("medium", "strong"):
        policy = policy_of(level, flip=False, minority_only=False)
        assert different_copies(policy, 0.5, 32) == float("inf")
        copies = augmented(noise(1, 32).expand(200, -1, -1, -1), policy, 0.5).reshape(200, -1)
        assert len(torch.unique(copies, dim=0)) == 200
    assert different_copies(LEVELS["strong"], 0.0, 32) == 1
    assert different_copies(LEVELS["light"], 99.0, 32) == different_copies(LEVELS["light"], GREATEST_STRENGTH, 32)
