"""Two pictures laid over each other: the shift, stretch and brightness between them, and what then still differs.

The method is that of Lucas & Kanade 1981 (An iterative image registration technique with an application to stereo
vision): Gauss-Newton steps on the sum of squared differences, here with a shift and a stretch along each axis, and a
gain and an offset of the grey values. It is done for many pairs at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]  # single precision throughout

LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
# A photo that was brightened is cut off at white; nothing is compared where one of the two is above this.
NEARLY_WHITE = 250.0
_STEPS = 3  # of Gauss-Newton on each of the two sharpnesses; more change nothing
_LONGEST_STEP = 0.08  # of half a side: the linearisation holds no further
_FARTHEST = 0.25  # of half a side; a picture that lost two of 32 pixels on both sides is stretched by 0.14


@dataclass(frozen=True)
class Likeness:
    """How much alike two pictures are once they lie over each other; the fields have shape (m,), for m pairs.

    `detail` is the correlation of their fine detail, 1.0 where they are equal; `broad` that of their grey values.
    `strength` is the standard deviation of the fine detail in grey levels, of the weaker one: where it is small there
    is nothing to compare. `spread` is the number of pixels that carry the fine detail. `difference` is the mean
    absolute difference of their colours, in levels of 255, with one gain and one offset for all three channels.
    `motion` (m, 4) is the shift and the stretch down, then across, that brought the first over the second, in halves
    of a side.
    """

    detail: Floats
    broad: Floats
    strength: Floats
    spread: Floats
    difference: Floats
    motion: Floats


def compare(first: Floats, second: Floats, motion: Floats | None = None) -> Likeness:
    """Lay each of `first` over its partner in `second`, both (m, side, side, 3), values 0 to 255, and compare.

    `motion`, where it is roughly known from smaller versions of both, saves half of the work.
    """
    a, b = blur(first @ LUMINANCE), blur(second @ LUMINANCE)
    if motion is None:
        motion = _register(blur(a), blur(b), np.zeros((len(a), 4), np.float32))
    motion = _register(a, b, motion)
    return _likeness(*_warp(first, motion), second, motion)


def blur(images: Floats) -> Floats:
    """Smooth (m, side, side, ...) with the binomial filter 1 2 1 along both axes."""
    for axis in (1, 2):
        x = np.moveaxis(images, axis, 1)
        x = np.concatenate([x[:, :1], x, x[:, -1:]], axis=1)
        images = np.moveaxis((x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]) / 4, 1, axis)
    return images


def shrink(images: NDArray[np.uint8] | Floats, side: int) -> Floats:
    """Images (m, s, s, 3) at no more than side x side, each new pixel the mean of the area it covers."""
    s = images.shape[1]
    if s <= side:
        return images.astype(np.float32)
    edges, pixel = np.arange(side + 1) * s / side, np.arange(s)
    covered = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
    weights = (np.maximum(covered, 0) * side / s).astype(np.float32)
    rows = np.matmul(weights, images.reshape(len(images), s, -1).astype(np.float32)).reshape(-1, side, s, 3)
    small: Floats = np.matmul(weights, rows)
    return small


def _register(a: Floats, b: Floats, motion: Floats) -> Floats:
    """Refine the motion (m, 4), shift and stretch down and across in half sides, that brings `a` over `b`."""
    m, side = a.shape[:2]
    place = _places(side)
    diagonal = np.arange(6)
    for _ in range(_STEPS):
        moved, inside = _warp(a, motion)
        down, across = (np.gradient(moved, axis=axis) * (side / 2) for axis in (1, 2))
        counts = inside * (moved < NEARLY_WHITE) * (b < NEARLY_WHITE)
        counts[:, [0, -1]] = counts[:, :, [0, -1]] = 0  # a gradient at the edge is one-sided
        gain, offset = (z[:, None, None] for z in _gain(moved, b, counts))
        centred = _centred(moved, moved.mean((1, 2)))
        columns = [gain * down, gain * down * place[:, None], gain * across, gain * across * place, centred]
        slopes = np.stack([*columns, np.ones_like(moved)], 1).reshape(m, 6, side * side) * counts.reshape(
            m, 1, side * side
        )
        rest = ((b - gain * moved - offset) * counts).reshape(m, side * side, 1)
        normal = slopes @ slopes.transpose(0, 2, 1)
        # Damped as by Marquardt 1963, which also keeps it solvable where a picture is plain.
        normal[:, diagonal, diagonal] = normal[:, diagonal, diagonal] * 1.001 + 0.01
        step = np.linalg.solve(normal, slopes @ rest)[:, :4, 0]
        motion = np.clip(motion + np.clip(step, -_LONGEST_STEP, _LONGEST_STEP), -_FARTHEST, _FARTHEST)
    return motion


def _warp(images: Floats, motion: Floats) -> tuple[Floats, Floats]:
    """Move images (m, side, side, ...), with linear interpolation; the second value is 1 where something is shown."""
    m, side = images.shape[:2]
    down, seen_down = _interpolation(motion[:, :2], side)
    across, seen_across = _interpolation(motion[:, 2:], side)
    channels = math.prod(images.shape[3:])
    moved = np.matmul(down, images.reshape(m, side, side * channels)).reshape(m, side, side, channels)
    moved = np.matmul(across[:, None], moved).reshape(images.shape)
    return moved, seen_down[:, :, None] * seen_across[:, None, :]


def _interpolation(motion: Floats, side: int) -> tuple[Floats, Floats]:
    """Matrices (m, side, side) that shift and stretch one axis, and which pixels (m, side) then lie in the picture."""
    place = _places(side)
    at = (place + motion[:, :1] + motion[:, 1:] * place + 1) * (side / 2) - 0.5
    inside = (at >= -0.5) & (at <= side - 0.5)
    weights = 1 - np.abs(np.clip(at, 0, side - 1)[:, :, None] - np.arange(side, dtype=np.float32))
    return np.maximum(weights, 0), inside.astype(np.float32)


def _places(side: int) -> Floats:
    """Where the pixels of an axis lie, from -1 to 1."""
    return ((np.arange(side, dtype=np.float32) + 0.5) * (2 / side) - 1).astype(np.float32)


def _gain(x: Floats, y: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """The gain and the offset (m,) by which x comes closest to y where `counts` is 1."""
    axes = tuple(range(1, x.ndim))
    n = counts.sum(axes) + 1e-6
    mean_x, mean_y = (x * counts).sum(axes) / n, (y * counts).sum(axes) / n
    dx, dy = _centred(x, mean_x) * counts, _centred(y, mean_y) * counts
    gain = np.clip((dx * dy).sum(axes) / ((dx * dx).sum(axes) + 1e-3), 0.5, 2.0)
    return gain, mean_y - gain * mean_x


def _likeness(moved: Floats, inside: Floats, other: Floats, motion: Floats) -> Likeness:
    open_ = inside * (moved.max(-1) < NEARLY_WHITE) * (other.max(-1) < NEARLY_WHITE)
    x, y = blur(moved @ LUMINANCE), blur(other @ LUMINANCE)
    broad, _, _ = _correlation(x, y, open_)
    detail, strength, spread = _correlation(x - blur(blur(blur(x))), y - blur(blur(blur(y))), open_)
    return Likeness(detail, broad, strength, spread, _difference(moved, other, inside, open_), motion)


def _correlation(x: Floats, y: Floats, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """The correlation (m,), the standard deviation of the weaker one, and in how many pixels its variation lies."""
    n = counts.sum((1, 2)) + 1e-6
    dx, dy = (_centred(z, (z * counts).sum((1, 2)) / n) * counts for z in (x, y))
    xx, yy, xy = (dx * dx).sum((1, 2)), (dy * dy).sum((1, 2)), (dx * dy).sum((1, 2))
    strength = np.sqrt(np.minimum(xx, yy) / n)
    return xy / np.sqrt(xx * yy + 1e-6), strength, xy * xy / ((dx * dy) ** 2).sum((1, 2)).clip(1e-6)


def _difference(moved: Floats, other: Floats, inside: Floats, open_: Floats) -> Floats:
    """The mean absolute difference of the colours, both cut off where either is white."""
    weights = np.repeat(open_[..., None], 3, axis=-1)
    gain, offset = (z[:, None, None, None] for z in _gain(moved, other, weights))
    ceiling = np.minimum(NEARLY_WHITE, gain * NEARLY_WHITE + offset)
    apart = np.abs(np.minimum(gain * moved + offset, ceiling) - np.minimum(other, ceiling)).mean(-1)
    difference: Floats = (apart * inside).sum((1, 2)) / (inside.sum((1, 2)) + 1e-6)
    return difference


def _centred(x: Floats, mean: Floats) -> Floats:
    return x - mean.reshape(-1, *[1] * (x.ndim - 1))
