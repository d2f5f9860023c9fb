"""Which images in which order: a pure function of (seed, epoch, step), never of what was drawn before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steadylens.data.images import Preprocessing

_ORDER, _STEP, _SAMPLE = 0, 1, 2  # keep the uses of a seed apart
_PIECE_BYTES = 2**25  # of pixels in memory at a time, where all are gone through


@dataclass(frozen=True, slots=True)
class LabelledPixels:
    """The images of one split: rows of the store, and their labels.

    Attributes:
        pixels: uint8, (all images, side, side, 3), the whole store.
        rows: (n,) which of them belong here.
        labels: (n,) label of each of `rows`.
    """

    pixels: NDArray[np.uint8]
    rows: NDArray[np.int64]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        """How many images there are."""
        return len(self.rows)

    def __getitem__(self, which: slice | int | np.integer) -> NDArray[np.uint8]:
        """A copy of the pixels of some of the images, (n, side, side, 3), or of one, (side, side, 3)."""
        return np.array(self.pixels[self.rows[which]])

    def take(self, positions: NDArray[np.int64]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """The pixels and labels at some positions."""
        return self.pixels[self.rows[positions]], self.labels[positions]

    def pieces(self) -> Iterator[NDArray[np.uint8]]:
        """Copies of the pixels of a few images at a time, in order: the store may be larger than memory."""
        n = max(1, _PIECE_BYTES // max(1, math.prod(self.pixels.shape[1:])))
        yield from (self[start : start + n] for start in range(0, len(self), n))

    def sample(self, size: int, seed: int) -> LabelledPixels:
        """About `size` of the images, from every class as many as there are or an equal part of what is left."""
        rng = np.random.default_rng([seed, _SAMPLE])
        members = [rng.permutation(np.flatnonzero(self.labels == c)) for c in np.unique(self.labels)]
        chosen: list[NDArray[np.int64]] = []
        for i, rows in enumerate(sorted(members, key=len)):
            left = size - sum(map(len, chosen))
            chosen.append(rows[: max(1, left // (len(members) - i))])
        positions = np.sort(np.concatenate(chosen))
        return LabelledPixels(self.pixels, self.rows[positions], self.labels[positions])


def colours(images: LabelledPixels) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean and the standard deviation of each colour over all pixels / 255, (3,) and (3,)."""
    n, total, squares = 0, np.zeros(3), np.zeros(3)
    for piece in images.pieces():
        values = piece.reshape(-1, 3)
        n += len(values)
        total += values.sum(0, dtype=np.uint64)
        squares += np.square(values, dtype=np.uint16).sum(0, dtype=np.uint64)  # whole numbers: exact
    mean = total / n / 255.0
    return mean, np.sqrt(np.maximum(squares / n / 255.0**2 - mean**2, 0.0))


def preprocessing_of(images: LabelledPixels) -> Preprocessing:
    """How pixels become input for networks trained on these images: mean and deviation of up to 5,000 of them."""
    mean, std = colours(images.sample(5000, 0))
    return Preprocessing(images.pixels.shape[1], _three(mean), _three(std.clip(min=1e-3)))


def epoch_order(labels: NDArray[np.int64], shares: NDArray[np.float64], seed: int, epoch: int) -> NDArray[np.int64]:
    """The images of one epoch, in order.

    An epoch always holds as many images as there are. Class c gets `shares[c]` of them (rounded by largest
    remainder); within a class every image comes equally often, give or take one.

    Args:
        labels: (n,) label of each image.
        shares: (classes,) share of the epoch for each class, summing to 1; the classes' own shares give a plain
            shuffle in which every image comes once.
        seed: of the run.
        epoch: counted from 0.

    Returns:
        (n,) positions in `labels`.
    """
    rng = np.random.default_rng([seed, epoch, 0, _ORDER])
    drawn: list[NDArray[np.int64]] = []
    for label, quota in enumerate(quotas(shares, len(labels))):
        members = np.flatnonzero(labels == label)
        if quota:
            whole, rest = divmod(int(quota), len(members))
            drawn += [np.repeat(members, whole), rng.permutation(members)[:rest]]
    return rng.permutation(np.concatenate(drawn))


def quotas(shares: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """How many of the n images of an epoch each class gets: its share, rounded by largest remainder, n in all."""
    return _round_to_sum(shares * n, n)


def batches(order: NDArray[np.int64], batch_size: int) -> list[NDArray[np.int64]]:
    """Cut an epoch into batches whose sizes differ by one at most; none holds a single image, which has no variance."""
    return np.array_split(order, max(1, min(round(len(order) / batch_size), len(order) // 2)))


def step_seed(seed: int, epoch: int, step: int) -> int:
    """The seed of everything random in one step: augmentation, mixing and dropout."""
    return int(np.random.SeedSequence([seed, epoch, step, _STEP]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def to_input(pixels: NDArray[np.uint8] | Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """Turn stored pixels into a network's input, on the device on which they are.

    Args:
        pixels: uint8, (n, side, side, 3).
        mean: of each colour, of pixels / 255.
        std: of each colour, of pixels / 255.

    Returns:
        float32, (n, 3, side, side), channels last in memory.
    """
    stored = pixels if isinstance(pixels, Tensor) else torch.from_numpy(pixels)
    scale, offset = _normalisation(mean, std, stored.device)
    return (stored.float() / scale - offset).permute(0, 3, 1, 2)


@cache
def _normalisation(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    """What pixels are divided by, and what is taken off then; kept, since copies to a device cannot be recorded."""
    scale = torch.tensor(std, dtype=torch.float32) * 255.0
    offset = torch.tensor(mean, dtype=torch.float32) * 255.0 / scale
    return scale.to(device), offset.to(device)


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(v), 6) for v in values)
    return red, green, blue


def _round_to_sum(values: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    whole = np.floor(values).astype(np.int64)
    largest = np.argsort(whole - values, kind="stable")
    whole[largest[: total - int(whole.sum())]] += 1
    return whole
