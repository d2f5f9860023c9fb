"""Which images are trained on, which choose, and which only report: stratified, and copies never straddle.

Images of one group, and images of the same content, form a *unit* that stays together. Within a
class, units are put in the order of a hash of (seed, content): which split an image comes to
depends neither on its name nor on the order of reading, and images that are added later move few
of the old ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from steadylens.data.sources import ImageIndex
from steadylens.errors import ConfigError, DataError

# A small class gives up to this many images to a split, but no more than one in five: recall on one or two
# images says next to nothing, and training needs the rest.
_ENOUGH, _ONE_IN = 5, 5


@dataclass(frozen=True)
class Splits:
    """Row numbers into the index, ascending, of each split; the notes say which classes are short of images."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    notes: tuple[str, ...]


def split(index: ImageIndex, seed: int, *, validation_share: float = 0.1, test_share: float = 0.15) -> Splits:
    """Cut the splits that the index does not give out of its training images, class by class.

    Given splits are kept as they are, even where they share content, which `leakage_count` counts.
    A class of n units gives max(round(share x n), min(5, n // 5)) to a split, and at least one
    where it has three or more; with two it gives one to the first split to be cut, with one none.
    A unit of several classes counts for the rarest of them.

    Raises:
        ConfigError: the shares are not above 0 and together below 1.
        DataError: validation or test would be empty, or a class would have nothing to train on.
    """
    if not (validation_share > 0 and test_share > 0 and validation_share + test_share < 1):
        raise ConfigError(
            f"The shares for validation and test must be above 0 and together below 1. Got {validation_share} "
            f"and {test_share} instead."
        )
    given = np.array(index.splits)
    to_cut = {"validation": validation_share, "test": test_share}
    to_cut = {name: share for name, share in to_cut.items() if not np.any(given == name)}
    pool = np.flatnonzero((given == "") | (given == "train"))
    rows = {name: np.flatnonzero(given == name) for name in ("validation", "test")}
    cut = _cut(index, pool, seed, to_cut)
    rows |= {name: pool[cut == name] for name in to_cut}
    splits = Splits(pool[cut == "train"], rows["validation"], rows["test"], ())
    _require_usable(index, splits)
    return Splits(splits.train, splits.validation, splits.test, tuple(_shortages(index, splits)))


def _cut(index: ImageIndex, pool: NDArray[np.int64], seed: int, shares: dict[str, float]) -> NDArray[np.str_]:
    """The split of every row of the pool."""
    unit_of = _units(index, pool)
    class_of, key_of = _classes_and_keys(index, pool, unit_of)
    split_of = np.full(len(key_of), "train", dtype="<U10")
    for label in range(len(index.classes)):
        units = sorted(np.flatnonzero(class_of == label), key=lambda unit: _place(seed, key_of[unit]))
        counts = dict(zip(shares, _counts(len(units), list(shares.values())), strict=True))
        # From both ends of the order, so that a count that grows never pushes units out of the other split.
        split_of[units[: counts.get("test", 0)]] = "test"
        split_of[units[len(units) - counts.get("validation", 0) :]] = "validation"
    return split_of[unit_of]


def _units(index: ImageIndex, pool: NDArray[np.int64]) -> NDArray[np.int64]:
    """Number the units of the pool: the connected components of rows that share content or a group."""
    n = len(pool)
    content = np.unique([index.sha256[row] for row in pool], return_inverse=True)[1]
    grouped = np.array([i for i, row in enumerate(pool) if index.groups[row]], np.int64)
    group = np.unique([index.groups[pool[i]] for i in grouped], return_inverse=True)[1]
    nodes = np.concatenate([n + content, n + n + group]).astype(np.int64)
    edges = (np.ones(len(nodes), np.int8), (np.concatenate([np.arange(n), grouped]), nodes))
    components = connected_components(coo_array(edges, shape=(3 * n, 3 * n)), directed=False)[1][:n]
    return np.unique(components, return_inverse=True)[1].astype(np.int64)


def _classes_and_keys(
    index: ImageIndex, pool: NDArray[np.int64], unit_of: NDArray[np.int64]
) -> tuple[NDArray[np.int64], list[str]]:
    """The class of every unit, the rarest of its images' classes, and its key, the smallest SHA-256 in it."""
    labels = index.labels[pool]
    rank = np.empty(len(index.classes), np.int64)  # 0 for the rarest class; equal ones by label
    by_rarity = np.argsort(np.bincount(labels, minlength=len(index.classes)), kind="stable")
    rank[by_rarity] = np.arange(len(index.classes))
    lowest = np.full(int(unit_of.max(initial=-1)) + 1, len(index.classes), np.int64)
    np.minimum.at(lowest, unit_of, rank[labels])
    keys = [""] * len(lowest)
    for unit, row in zip(unit_of.tolist(), pool.tolist(), strict=True):
        keys[unit] = min(keys[unit] or index.sha256[row], index.sha256[row])
    return by_rarity[lowest], keys


def _place(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode()).digest()


def _counts(n: int, shares: Sequence[float]) -> list[int]:
    """How many of a class's n units each split to be cut gets; at least one unit stays for training."""
    if n <= len(shares):
        return [1 if i < n - 1 else 0 for i in range(len(shares))]
    counts = [max(1, round(share * n), min(_ENOUGH, n // _ONE_IN)) for share in shares]
    while sum(counts) >= n:
        counts[counts.index(max(counts))] -= 1
    return counts


def _require_usable(index: ImageIndex, splits: Splits) -> None:
    for name, rows in (("validation", splits.validation), ("test", splits.test)):
        if len(rows) == 0:
            raise DataError(
                f"There are too few images to cut a {name} split: no class has enough different ones (or groups). "
                f"Add images, at least three of each class, or give a {name} split."
            )
    missing = sorted(set(range(len(index.classes))) - set(index.labels[splits.train].tolist()))
    if missing:
        names = ", ".join(repr(index.classes[label]) for label in missing)
        raise DataError(
            f"Nothing is left to train on for these classes: {names}. Their images are in given splits only, or tied "
            "to images of other classes (same content or same group). Add training images, or take the classes out."
        )


def _shortages(index: ImageIndex, splits: Splits) -> list[str]:
    notes = []
    for name, rows in (("validation", splits.validation), ("test", splits.test)):
        present = set(index.labels[rows].tolist())
        notes += [
            f"The class {class_name!r} has no image in the {name} split: it says nothing about this class."
            for label, class_name in enumerate(index.classes)
            if label not in present
        ]
    return notes
