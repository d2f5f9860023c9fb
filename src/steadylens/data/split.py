"""Which images are trained on, which choose, and which only report: stratified, and copies never straddle.

Images of one group, of the same content, or of one cluster of near-duplicates form a *unit* that stays together. Within
a class, units are put in the order of a hash of (seed, content): which split an image comes to depends neither on its
name nor on the order of reading, and images that are added later move few of the old ones. Where the splits of an
earlier run are given, they move none.

A unit is never cut, however large it is: of two frames of one scene in two splits, one tells the answer to the other,
and no figure at all is better than a wrong one. A unit with more than a third of a class goes to train where the class
has others for the other splits. What a class then lacks is said in the notes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from steadylens.data.folders import counted
from steadylens.data.sources import ImageIndex
from steadylens.errors import ConfigError, DataError

# A small class gives up to this many images to a split, but no more than one in five: recall on one or two
# images says next to nothing, and training needs the rest.
_ENOUGH, _ONE_IN = 5, 5
_ALL_ALIKE = (
    "So many images hardly differ that no class could be split without tearing near-duplicates apart. The splits cut "
    "here therefore keep only equal files and groups together, and figures on them may be too good. Give splits, or a "
    "group column, that tell what is really another object."
)


@dataclass(frozen=True)
class Splits:
    """Row numbers into the index, ascending, of each split; the notes say what is short, tied or in conflict."""

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]
    notes: tuple[str, ...]


def split(
    index: ImageIndex,
    seed: int,
    *,
    clusters: NDArray[np.int64] | None = None,
    earlier: Mapping[str, str] | None = None,
    validation_share: float = 0.1,
    test_share: float = 0.15,
) -> Splits:
    """Cut the splits that the index does not give out of its training images, class by class.

    Given splits are kept as they are, even where they share content, which `leakage_count` counts.
    A class of n units gives max(round(share x n), min(5, n // 5)) to a split, and at least one
    where it has three or more; with two it gives one to the first split to be cut, with one none.
    A unit of several classes counts for the rarest of them.

    An image whose content is in `earlier` keeps the split that it had, unless its source gives another; a new image in
    a unit with such images joins them, and where they are in two splits, it joins train.

    Args:
        index: the images.
        seed: of the order within each class.
        clusters: (n,) numbers; images with the same one stay together, unless nothing could be cut then, which a note
            says. None where only copies and groups stay together.
        earlier: splits by SHA-256, from `read_splits`.
        validation_share: of each class, where the source gives no validation split.
        test_share: of each class, where the source gives no test split.

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
    for name in to_cut:
        if name in index.given and not np.any(given == name):
            raise DataError(
                f"A {name} split was given, but none of its images can be used. See why they were refused, or leave "
                "that split out: then one is cut from the training images."
            )
    to_cut = {name: share for name, share in to_cut.items() if not np.any(given == name)}
    known, conflicts = _known(index, given, earlier or {}, to_cut)
    pool = np.flatnonzero((given == "") | (given == "train"))
    unit_of = units_of(index, pool, clusters)
    unit_split, tied = _splits_of_units(unit_of, known[pool])
    _cut(index, pool, unit_of, unit_split, seed, to_cut)
    final = known.copy()
    final[pool] = np.where(known[pool] == "", unit_split[unit_of], known[pool])
    train, validation, test = (np.flatnonzero(final == name) for name in ("train", "validation", "test"))
    splits = Splits(train, validation, test, ())
    if clusters is not None and 0 in (len(validation), len(test)):
        apart = split(
            index, seed, earlier=earlier, validation_share=validation_share, test_share=test_share
        )  # fmt: skip
        return replace(apart, notes=(_ALL_ALIKE, *apart.notes))
    _require_usable(index, splits)
    notes = (*conflicts, *tied, *_large_units(index, pool, unit_of), *_shortages(index, splits))
    return replace(splits, notes=notes)


def read_splits(source: Path) -> dict[str, str]:
    """The split of every content in an earlier run, by SHA-256, from its folder or its index.parquet.

    A content that was in several splits counts as trained on.

    Raises:
        ConfigError: there is no such file, or it is not the index of a run.
    """
    path = source / "index.parquet" if source.is_dir() else source
    try:
        table = pq.read_table(path, columns=["sha256", "split"])
    except (OSError, pa.ArrowException) as error:
        why = str(error).splitlines()[0]
        raise ConfigError(
            f"The splits of an earlier run cannot be read from {path}: {why}. Name the folder of a run, or its "
            "index.parquet."
        ) from error
    found: dict[str, str] = {}
    for content, name in zip(table["sha256"].to_pylist(), table["split"].to_pylist(), strict=True):
        if content and name in ("train", "validation", "test"):
            found[content] = min(found.get(content, name), name, key=["train", "validation", "test"].index)
    return found


def _known(
    index: ImageIndex, given: NDArray[np.str_], earlier: Mapping[str, str], to_cut: Mapping[str, float]
) -> tuple[NDArray[np.str_], list[str]]:
    """The split of every row that needs no cutting, else "", and a note where source and earlier run disagree."""
    known, moved = np.full(len(index), "", dtype="<U10"), 0
    for row, content in enumerate(index.sha256):
        before = earlier.get(content, "")
        may_keep = given[row] == "" or (given[row] == "train" and (before in to_cut or before == "train"))
        known[row] = before if may_keep or (before == "" and given[row] == "train") else given[row]
        moved += bool(before) and known[row] != before
    if not moved:
        return known, []
    images = counted(range(moved), "image")
    return known, [f"{images} now in another split than in the earlier run, because the source gives a split for them."]


def _splits_of_units(unit_of: NDArray[np.int64], known: NDArray[np.str_]) -> tuple[NDArray[np.str_], list[str]]:
    """The split of every unit that has an earlier one, else "", and a note on units with several."""
    unit_split = np.full(int(unit_of.max(initial=-1)) + 1, "", dtype="<U10")
    several = set()
    for unit, name in zip(unit_of.tolist(), known.tolist(), strict=True):
        if name and unit_split[unit] not in ("", name):
            several.add(unit)
        unit_split[unit] = name or unit_split[unit]
    unit_split[list(several)] = "train"
    if not several:
        return unit_split, []
    return unit_split, [
        f"{counted(list(several), 'set')} of images that belong together were in different splits of the earlier run. "
        "They stay there, so that figures can be compared, and what is new of them is trained on: figures come out too "
        "good."
    ]


def _cut(
    index: ImageIndex,
    pool: NDArray[np.int64],
    unit_of: NDArray[np.int64],
    unit_split: NDArray[np.str_],
    seed: int,
    shares: dict[str, float],
) -> None:
    """Fill in the split of every unit that has none."""
    class_of, key_of = _classes_and_keys(index, pool, unit_of)
    sizes = np.bincount(unit_of, minlength=len(key_of))
    for label in range(len(index.classes)):
        units = np.flatnonzero(class_of == label)
        counts = dict(zip(shares, _counts(len(units), list(shares.values())), strict=True))
        counts = {name: max(0, count - int(np.sum(unit_split[units] == name))) for name, count in counts.items()}
        free = sorted(units[unit_split[units] == ""], key=lambda unit: _place(seed, key_of[unit]))
        small = [unit for unit in free if 3 * sizes[unit] <= sizes[units].sum()]
        large = [unit for unit in free if 3 * sizes[unit] > sizes[units].sum()]
        # From both ends of the order, so that a count that grows never pushes units out of the other split; the large
        # ones in the middle, where it is train that reaches them.
        middle = (len(small) + ("validation" not in shares)) // 2
        free = small[:middle] + large + small[middle:]
        unit_split[free] = "train"
        unit_split[free[: counts.get("test", 0)]] = "test"
        rest = [unit for unit in free if unit_split[unit] == "train"]
        unit_split[rest[max(0, len(rest) - counts.get("validation", 0)) :]] = "validation"


def units_of(index: ImageIndex, pool: NDArray[np.int64], clusters: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Number the units of the pool: the connected components of rows that share content, a group or a cluster."""
    n = len(pool)
    content = np.unique([index.sha256[row] for row in pool], return_inverse=True)[1]
    grouped = np.array([i for i, row in enumerate(pool) if index.groups[row]], np.int64)
    group = np.unique([index.groups[pool[i]] for i in grouped], return_inverse=True)[1]
    cluster = content if clusters is None else np.unique(clusters[pool], return_inverse=True)[1]
    nodes = np.concatenate([n + content, n + n + group, n + n + n + cluster]).astype(np.int64)
    edges = (np.ones(len(nodes), np.int8), (np.concatenate([np.arange(n), grouped, np.arange(n)]), nodes))
    components = connected_components(coo_array(edges, shape=(4 * n, 4 * n)), directed=False)[1][:n]
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
            "to images of other classes (same content, near-duplicates or same group). Add training images, or take "
            "the classes out."
        )


def _large_units(index: ImageIndex, pool: NDArray[np.int64], unit_of: NDArray[np.int64]) -> list[str]:
    """Say where a unit holds so much of a class that figures on the class rest on few others, or on none."""
    notes, labels = [], index.labels[pool]
    for label, name in enumerate(index.classes):
        units, sizes = np.unique(unit_of[labels == label], return_counts=True)
        if len(units) and sizes.max() > max(_ENOUGH, sizes.sum() / 2):
            notes.append(
                f"{sizes.max()} of the {sizes.sum()} images of {name!r} belong together (one group, or near-duplicates "
                "of each other) and stay in one split: all that is said about this class rests on the others."
            )
    return notes


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
