"""Alignment: the motion between two pictures, and how much alike they are once it is undone."""

from __future__ import annotations

import numpy as np
import pytest
from photos import brightened, photo, photos, resized

from steadylens.data.alignment import compare, shrink


def test_a_picture_is_like_itself() -> None:
    pixels = shrink(photos(range(3)), 32)
    found = compare(pixels, pixels)
    assert found.detail == pytest.approx(np.ones(3), abs=1e-3)
    assert found.broad == pytest.approx(np.ones(3), abs=1e-3)
    assert found.motion == pytest.approx(np.zeros((3, 4)), abs=1e-3)
    assert found.difference == pytest.approx(np.zeros(3), abs=0.1)


def test_shift_and_stretch_are_found() -> None:
    wide = resized(photo(4, 64), 320)
    whole, part = (resized(image, 32)[None] for image in (wide[:300, :300], wide[10:300, :280]))
    found = compare(shrink(whole, 32), shrink(part, 32))
    # In halves of the side of 300: the centre moves by 5 down and 10 up; the side shrinks to 290 and 280.
    assert found.motion[0] == pytest.approx([5 / 150, -10 / 300, -10 / 150, -20 / 300], abs=0.01)
    assert found.detail[0] > 0.97


def test_brightness_does_not_count_and_white_is_left_out() -> None:
    dark = photos(range(1))
    found = compare(shrink(dark, 32), shrink(brightened(dark[0], 1.4)[None], 32))
    assert found.detail[0] > 0.98
    assert found.difference[0] < 3


def test_other_pictures_differ() -> None:
    found = compare(shrink(photos(range(20)), 32), shrink(photos(range(20, 40)), 32))
    assert found.detail.max() < 0.6


def test_a_picture_without_detail_has_none_to_compare() -> None:
    plain = np.full((1, 32, 32, 3), 90.0, np.float32)
    found = compare(plain, plain)
    assert (found.strength[0], found.spread[0]) == pytest.approx((0, 0), abs=1e-3)


@pytest.mark.parametrize(("side", "to"), [(64, 32), (50, 32), (33, 32)])
def test_shrinking_keeps_the_mean(side: int, to: int) -> None:
    image = photos(range(2), side)
    small = shrink(image, to)
    assert small.shape == (2, to, to, 3)
    assert small.mean((1, 2)) == pytest.approx(image.mean((1, 2)), rel=1e-4)


def test_small_pictures_stay_as_they_are() -> None:
    assert np.array_equal(shrink(photos(range(1), 16), 32), photos(range(1), 16))
