"""Where a single split says too little of a class, further ones hold out other images of it, and units stay whole."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadylens.data.batches import LabelledPixels
from steadylens.training.folds import ENOUGH, MOST, Fold, folds_of

PIXELS = np.zeros((1, 8, 8, 3), np.uint8)


def part(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> LabelledPixels:
    return LabelledPixels(PIXELS, rows, labels)


def split(labels: list[int], judged: list[bool]) -> tuple[LabelledPixels, LabelledPixels]:
    """The images that are not judged, and those that are."""
    every, which = np.array(labels, np.int64), np.array(judged)
    rows = np.arange(len(every))
    return part(rows[~which], every[~which]), part(rows[which], every[which])


def even(train: int, validation: int, classes: int = 3) -> tuple[LabelledPixels, LabelledPixels]:
    labels = np.repeat(np.arange(classes), train + validation).tolist()
    return split(labels, ([False] * train + [True] * validation) * classes)


def test_where_there_are_enough_validation_images_there_is_one_fold() -> None:
    train, validation = even(40, ENOUGH)
    assert folds_of(train, validation, None, 0) == (Fold(train, validation),)


def test_the_fewer_there_are_the_more_folds_and_all_hold_out_as_many() -> None:
    for each, folds in ((ENOUGH - 1, 2), (ENOUGH // 2, 2), (ENOUGH // 2 - 1, MOST), (1, MOST)):
        train, validation = even(40, each)
        found = folds_of(train, validation, None, 0)
        assert len(found) == folds
        assert found[0] == Fold(train, validation)
        for fold in found[1:]:
            assert np.bincount(fold.held_out.labels).tolist() == [each] * 3
            assert len(fold.train) == len(train)


def test_another_seed_holds_out_other_images() -> None:
    train, validation = even(40, 5)
    first, same, other = (folds_of(train, validation, None, seed)[1].held_out.rows.tolist() for seed in (0, 0, 1))
    assert first == same != other


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 30)), min_size=2, max_size=80).filter(
        lambda images: {judged for _, judged, _ in images} == {False, True}
    ),
    st.integers(0, 5),
)
def test_every_class_is_held_out_somewhere_and_never_all_of_it(images: list[tuple[int, bool, int]], seed: int) -> None:
    # A unit is of one split: its number and whether it is judged name it.
    units = np.array([2 * unit + judged for _, judged, unit in images])
    labels, judged = np.array([label for label, _, _ in images]), np.array([judged for _, judged, _ in images])
    train, validation = split(labels.tolist(), judged.tolist())
    found = folds_of(train, validation, units, seed)
    assert 1 <= len(found) <= MOST
    everything = set(range(len(images)))
    for fold in found[1:]:
        assert set(fold.train.rows) | set(fold.held_out.rows) <= everything
        assert not set(units[fold.train.rows]) & set(units[fold.held_out.rows])
        assert set(fold.train.labels) == set(labels)
        assert not judged[fold.held_out.rows].any()
    held = np.concatenate([fold.held_out.rows for fold in found])
    assert len(held) == len(set(held))
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        alone = all(len(np.unique(labels[units == unit])) == 1 for unit in np.unique(units[own]))
        if alone and len(np.unique(units[own])) > 1:
            assert label in labels[held]
