"""Splitting: complete, disjoint, stratified, and a function of the seed and the content alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steadylens.data.sources import ImageIndex
from steadylens.data.split import Splits, split
from steadylens.errors import ConfigError, DataError
from steadylens.files import sha256

NAMES = ("train", "validation", "test")


def index_of(
    rows: list[tuple[int, int]], splits: list[str] | None = None, groups: list[str] | None = None
) -> ImageIndex:
    """An index of (label, content) rows; label numbers are class names."""
    n = len(rows)
    labels = sorted({label for label, _ in rows})
    return ImageIndex(
        root=None,
        classes=tuple(str(label) for label in labels),
        paths=tuple(f"array[{row}]" for row in range(n)),
        labels=np.array([labels.index(label) for label, _ in rows], np.int64),
        splits=tuple(splits or [""] * n),
        groups=tuple(groups or [""] * n),
        sha256=tuple(sha256(str(content).encode()) for _, content in rows),
        widths=np.ones(n, np.int32),
        heights=np.ones(n, np.int32),
        refusals=(),
        notes=(),
    )


def classes_of(sizes: dict[int, int]) -> list[tuple[int, int]]:
    """Rows of so many different images of each class."""
    return [(label, 1000 * label + i) for label, size in sizes.items() for i in range(size)]


def sizes_of(index: ImageIndex, splits: Splits) -> dict[str, dict[int, int]]:
    return {name: dict(Counter(index.labels[getattr(splits, name)].tolist())) for name in NAMES}


def contents_of(index: ImageIndex, splits: Splits) -> dict[str, Counter[str]]:
    return {name: Counter(index.sha256[row] for row in getattr(splits, name)) for name in NAMES}


@pytest.mark.parametrize(
    ("n", "validation", "test"),
    [(3, 1, 1), (4, 1, 1), (5, 1, 1), (10, 2, 2), (25, 5, 5), (40, 5, 6), (100, 10, 15), (1000, 100, 150)],
)
def test_how_many_images_of_a_class_go_where(n: int, validation: int, test: int) -> None:
    index = index_of(classes_of({0: n, 1: 30}))
    sizes = sizes_of(index, split(index, 1))
    assert (sizes["validation"][0], sizes["test"][0], sizes["train"][0]) == (validation, test, n - validation - test)


def test_a_class_of_one_or_two_images_and_what_is_said() -> None:
    index = index_of(classes_of({0: 1, 1: 2, 2: 30}))
    splits = split(index, 1)
    assert sizes_of(index, splits) == {"train": {0: 1, 1: 1, 2: 20}, "validation": {1: 1, 2: 5}, "test": {2: 5}}
    assert len(splits.notes) == 3
    assert "'0' has no image in the validation split" in splits.notes[0]


def test_given_splits_are_respected_even_where_they_leak() -> None:
    rows = [(0, 1), (1, 2), (0, 1), (1, 3), (0, 4), (1, 2)]
    index = index_of(rows, ["train", "train", "validation", "validation", "test", "test"])
    splits = split(index, 1)
    assert [getattr(splits, name).tolist() for name in NAMES] == [[0, 1], [2, 3], [4, 5]]


@pytest.mark.parametrize("given_split", ["validation", "test"])
def test_the_split_that_is_missing_is_cut_from_train(given_split: str) -> None:
    rows = classes_of({0: 20, 1: 22})
    index = index_of(rows, [given_split if i % 10 == 0 else ("train", "")[i % 2] for i in range(42)])
    splits = split(index, 1)
    assert getattr(splits, given_split).tolist() == [0, 10, 20, 30, 40]
    other = {"validation": splits.test, "test": splits.validation}[given_split]
    assert Counter(index.labels[other].tolist()) == ({0: 3, 1: 3})
    assert len(splits.train) == 42 - 5 - len(other)


def test_with_one_split_to_cut_a_class_of_two_images_gives_it_one() -> None:
    index = index_of([*classes_of({0: 2, 1: 9}), (0, 77)], [""] * 11 + ["validation"])
    assert sizes_of(index, split(index, 1))["test"][0] == 1


def test_a_unit_of_two_classes_counts_for_the_rarer() -> None:
    # Every image of the rare class shares a group with images of the common one, as photos of one patient do.
    rows = [(0, i) for i in range(60)] + [(1, 100 + i) for i in range(6)]
    index = index_of(rows, groups=[f"g{i % 6}" for i in range(66)])
    sizes = sizes_of(index, split(index, 1))
    assert [sizes[name][1] for name in NAMES] == [4, 1, 1]


@pytest.mark.parametrize(
    ("sizes", "message"), [({0: 1, 1: 1}, "cut a validation split"), ({0: 2, 1: 1}, "cut a test split")]
)
def test_too_few_images_to_split(sizes: dict[int, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        split(index_of(classes_of(sizes)), 1)


def test_a_class_without_training_images_is_named() -> None:
    rows = classes_of({0: 9, 1: 2})
    with pytest.raises(DataError, match=r"Nothing is left to train on .*: '1'"):
        split(index_of(rows, [""] * 9 + ["test"] * 2), 1)


@pytest.mark.parametrize("shares", [(0.0, 0.2), (0.5, 0.5), (0.2, -1.0)])
def test_shares_that_make_no_sense(shares: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="above 0 and together below 1"):
        split(index_of(classes_of({0: 9, 1: 9})), 1, validation_share=shares[0], test_share=shares[1])


def test_large_shares_still_leave_something_to_train_on() -> None:
    index = index_of(classes_of({0: 3, 1: 50}))
    sizes = sizes_of(index, split(index, 1, validation_share=0.49, test_share=0.49))
    assert [sizes[name][0] for name in NAMES] == [1, 1, 1]


def test_another_seed_gives_another_split() -> None:
    index = index_of(classes_of({0: 50, 1: 50}))
    assert split(index, 1).test.tolist() != split(index, 2).test.tolist()


def test_added_images_move_few_of_the_old_ones() -> None:
    old, new = index_of(classes_of({0: 200, 1: 200})), index_of(classes_of({0: 220, 1: 200}))
    before = {content: name for name, found in contents_of(old, split(old, 3)).items() for content in found}
    after = {content: name for name, found in contents_of(new, split(new, 3)).items() for content in found}
    assert sum(before[content] != after[content] for content in before) <= 10


rows_and_groups = st.lists(
    # Content 0-40 decides the label but for a few, so that most copies agree and some conflict.
    st.tuples(st.integers(0, 40), st.integers(0, 19), st.sampled_from(["", "", "", "g1", "g2", "g3"])),
    min_size=12,
    max_size=80,
)


def drawn(data: list[tuple[int, int, str]]) -> ImageIndex:
    rows = [(content % 3 if noise else (content + 1) % 3, content) for content, noise, _ in data]
    return index_of(rows, groups=[group for _, _, group in data])


def split_or_skip(index: ImageIndex, seed: int) -> Splits:
    try:
        return split(index, seed)
    except DataError:
        assume(False)
        raise


def units_of(index: ImageIndex) -> list[set[int]]:
    """Rows that content or group ties together, found the slow way."""
    units: list[set[int]] = []
    keys: list[set[str]] = []
    for row in range(len(index)):
        own = {index.sha256[row], f"group {index.groups[row]}"} - {"group "}
        tied = [i for i, key in enumerate(keys) if key & own]
        units, keys = (
            [u for i, u in enumerate(units) if i not in tied] + [set.union({row}, *(units[i] for i in tied))],
            [k for i, k in enumerate(keys) if i not in tied] + [set.union(own, *(keys[i] for i in tied))],
        )
    return units


@settings(deadline=None, max_examples=100)
@given(rows_and_groups, st.integers(0, 5))
def test_splits_are_complete_disjoint_and_never_divide_a_unit(data: list[tuple[int, int, str]], seed: int) -> None:
    index = drawn(data)
    splits = split_or_skip(index, seed)
    rows = np.concatenate([splits.train, splits.validation, splits.test])
    assert sorted(rows.tolist()) == list(range(len(index)))
    for name in NAMES:
        here = set(getattr(splits, name).tolist())
        assert getattr(splits, name).tolist() == sorted(here)
        assert all(unit <= here or not unit & here for unit in units_of(index))


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=12, max_size=60), st.integers(0, 5))
def test_every_class_of_three_units_is_in_every_split(rows: list[tuple[int, int]], seed: int) -> None:
    index = index_of([(label, 100 * label + content) for label, content in rows])
    splits = split_or_skip(index, seed)
    for label in range(len(index.classes)):
        if len({index.sha256[row] for row in np.flatnonzero(index.labels == label)}) >= 3:
            assert all(label in index.labels[getattr(splits, name)] for name in NAMES)


@settings(deadline=None, max_examples=60)
@given(rows_and_groups, st.integers(0, 5), st.randoms(use_true_random=False))
def test_order_and_names_do_not_matter(data: list[tuple[int, int, str]], seed: int, random: object) -> None:
    index = drawn(data)
    splits = split_or_skip(index, seed)
    assert [getattr(split(index, seed), name).tolist() for name in NAMES] == [
        getattr(splits, name).tolist() for name in NAMES
    ]
    shuffled = list(data)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    other = replace(drawn(shuffled), paths=tuple(f"renamed {row}" for row in range(len(data))))
    assert contents_of(other, split(other, seed)) == contents_of(index, splits)
