"""On which images trials are judged: the run's own split, and further ones where a class has few validation images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steadylens.data.batches import LabelledPixels

ENOUGH = 10  # held-out images of each class, below which a single split says too little
MOST = 3  # folds: each gets a part of a trial's time
_FOLDS = 4  # keeps this use of a seed apart from those of data.batches and of cross-fitting


@dataclass(frozen=True, slots=True)
class Fold:
    """What is learned from, and what it is judged on."""

    train: LabelledPixels
    held_out: LabelledPixels


def folds_of(
    train: LabelledPixels, validation: LabelledPixels, units: NDArray[np.int64] | None, seed: int
) -> tuple[Fold, ...]:
    """The run's own split first; others beside it where a class has fewer than `ENOUGH` validation images.

    The others hold out as many training images of each class as the split has validation images, at least one of each
    class in at least one of them, and each image at most once. Units stay whole. A class is held out only where other
    images of it are left to learn from.

    Args:
        train: images of the run's split to learn from.
        validation: its images to judge on.
        units: a number for each row of the store; images of one number stay together. None where each is its own.
        seed: of what is held out together.
    """
    own = Fold(train, validation)
    rows = np.concatenate([train.rows, validation.rows])
    labels = np.concatenate([train.labels, validation.labels])
    unit_of = np.unique(rows if units is None else units[rows], return_inverse=True)[1]
    is_train = np.arange(len(rows)) < len(train)
    wanted = _to_hold_out(labels, unit_of, is_train)
    others = _count(labels, unit_of, is_train) - 1
    fold_of_unit = _dealt(labels, unit_of, is_train, wanted, others, seed)
    folds = [own]
    for fold in range(others):
        held = _without_last(labels, unit_of, fold_of_unit[unit_of] == fold)
        if held.any():
            folds.append(Fold(_part(train, rows, labels, ~held), _part(train, rows, labels, held & is_train)))
    return tuple(folds)


def _count(labels: NDArray[np.int64], unit_of: NDArray[np.int64], is_train: NDArray[np.bool_]) -> int:
    """How many folds give each class about `ENOUGH` images, up to `MOST`; classes of one unit can never be held out."""
    judged = [c for c in np.unique(labels) if len(np.unique(unit_of[labels == c])) > 1]
    fewest = min((int(np.sum((labels == c) & ~is_train)) for c in judged), default=ENOUGH)
    return MOST if not fewest else min(MOST, math.ceil(ENOUGH / fewest))


def _to_hold_out(
    labels: NDArray[np.int64], unit_of: NDArray[np.int64], is_train: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """How many units of each class a further fold holds out: as many as the run's own split, and at least one."""
    counts = [len(np.unique(unit_of[(labels == c) & ~is_train])) for c in range(int(labels.max()) + 1)]
    return np.maximum(1, np.array(counts, np.int64))


def _dealt(
    labels: NDArray[np.int64],
    unit_of: NDArray[np.int64],
    is_train: NDArray[np.bool_],
    wanted: NDArray[np.int64],
    folds: int,
    seed: int,
) -> NDArray[np.int64]:
    """The fold of each unit, -1 for those that are in none; a unit of several classes counts for the rarest of them."""
    support = np.bincount(labels)
    rarest_first = np.lexsort((labels, support[labels]))
    first = np.unique(unit_of[rarest_first], return_index=True)[1]
    class_of = labels[rarest_first[first]]
    learned_only = np.ones(len(class_of), np.bool_)
    learned_only[unit_of[~is_train]] = False  # what is judged in the run's own split is judged there
    order = np.random.default_rng([seed, _FOLDS]).permutation(len(class_of))
    fold_of = np.full(len(class_of), -1)
    for label in np.unique(labels):
        mine = order[(class_of[order] == label) & learned_only[order]]
        if folds and len(np.unique(unit_of[labels == label])) > 1:
            each = max(1, min(int(wanted[label]), len(mine) // (folds + 1)))
            for fold in range(folds):
                fold_of[mine[fold * each : (fold + 1) * each]] = fold
    return fold_of


def _without_last(labels: NDArray[np.int64], unit_of: NDArray[np.int64], held: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is held out, less the units without which nothing of a class would be left to learn from."""
    gone = np.setdiff1d(labels, labels[~held])
    return held & ~np.isin(unit_of, unit_of[np.isin(labels, gone)])


def _part(
    images: LabelledPixels, rows: NDArray[np.int64], labels: NDArray[np.int64], which: NDArray[np.bool_]
) -> LabelledPixels:
    return LabelledPixels(images.pixels, rows[which], labels[which])
