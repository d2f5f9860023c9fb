"""Splitting: complete, disjoint, stratified, and a function of the seed and the content alone."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from steadylens.data.sources import ImageIndex
from steadylens.data.split import Splits, read_splits, split
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


@settings(max_examples=100)
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


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 12)), min_size=12, max_size=60), st.integers(0, 5))
def test_every_class_of_three_units_is_in_every_split(rows: list[tuple[int, int]], seed: int) -> None:
    index = index_of([(label, 100 * label + content) for label, content in rows])
    splits = split_or_skip(index, seed)
    for label in range(len(index.classes)):
        if len({index.sha256[row] for row in np.flatnonzero(index.labels == label)}) >= 3:
            assert all(label in index.labels[getattr(splits, name)] for name in NAMES)


@settings(max_examples=60)
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


def with_earlier(index: ImageIndex, seed: int, **options: object) -> dict[str, str]:
    """The split of every content."""
    splits = split(index, seed, **options)  # type: ignore[arg-type]
    return {index.sha256[row]: name for name in NAMES for row in getattr(splits, name)}


def added(index: ImageIndex, more: ImageIndex) -> ImageIndex:
    """An index with the rows of another behind its own; both have the same classes."""
    return replace(
        index,
        labels=np.concatenate([index.labels, more.labels]),
        **{name: getattr(index, name) + getattr(more, name) for name in ("paths", "splits", "groups", "sha256")},
    )


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(0, 14)), min_size=30, max_size=70),
    st.integers(9, 29),
    st.integers(0, 3),
)
def test_added_images_move_no_old_one_where_its_split_is_known(
    data: list[tuple[int, int, int]], kept: int, seed: int
) -> None:
    index = index_of([(0, 900), (1, 901), (2, 902), *((label, 100 * label + content) for label, content, _ in data)])
    clusters = np.array([90, 91, 92, *(cluster for _, _, cluster in data)], np.int64)
    old = replace(
        index,
        labels=index.labels[:kept],
        **{name: getattr(index, name)[:kept] for name in ("paths", "splits", "groups", "sha256")},
    )
    try:
        before = with_earlier(old, seed, clusters=clusters[:kept])
        splits = split(index, seed + 1, clusters=clusters, earlier=before)
    except DataError:
        assume(False)
        raise
    after = {index.sha256[row]: name for name in NAMES for row in getattr(splits, name)}
    assert {content: after[content] for content in before} == before
    assert sorted(np.concatenate([splits.train, splits.validation, splits.test]).tolist()) == list(range(len(index)))
    for unit in units_of(replace(index, groups=tuple(f"c{cluster}" for cluster in clusters))):
        names = {after[index.sha256[row]] for row in unit}
        old_names = {before[index.sha256[row]] for row in unit if index.sha256[row] in before}
        assert len(names) == 1 or len(old_names) > 1  # new images join the old ones of their unit


def test_new_images_fill_the_splits_up_to_their_shares() -> None:
    old, more = index_of(classes_of({0: 100, 1: 100})), index_of(classes_of({2: 100, 3: 100}))
    more = replace(more, classes=old.classes)
    both = added(old, more)
    splits = split(both, 5, earlier=with_earlier(old, 1))
    sizes = sizes_of(both, splits)
    assert (sizes["validation"], sizes["test"]) == ({0: 20, 1: 20}, {0: 30, 1: 30})
    assert splits.notes == ()


def test_clusters_stay_together() -> None:
    index = index_of(classes_of({0: 60, 1: 60}))
    clusters = np.arange(120) // 4
    splits = split(index, 1, clusters=clusters)
    names = [{clusters[row] for row in getattr(splits, name)} for name in NAMES]
    assert sum(map(len, names)) == 30
    assert sizes_of(index, splits)["test"] == {0: 12, 1: 12}


def test_where_all_images_are_near_duplicates_splits_are_cut_all_the_same_and_it_is_said() -> None:
    index = index_of(classes_of({0: 40, 1: 20}))
    splits = split(index, 0, clusters=np.array([0] * 40 + [1] * 20))
    assert sizes_of(index, splits) == sizes_of(index, split(index, 0))
    assert "figures on them may be too good" in splits.notes[0]
    assert not split(index, 0, clusters=np.arange(60)).notes


def test_a_cluster_with_most_of_a_class_is_trained_on_and_said() -> None:
    index = index_of(classes_of({0: 50, 1: 50}))
    clusters = np.array([0] * 46 + list(range(1, 55)))
    for seed in range(5):
        splits = split(index, seed, clusters=clusters)
        assert set(range(46)) <= set(splits.train.tolist())
        assert sizes_of(index, splits)["test"][0] == 1
        assert "46 of the 50 images of '0' belong together" in splits.notes[0]
    whole = split(index, 1, clusters=np.array([0] * 50 + list(range(1, 51))))
    assert len(whole.notes) == 3  # and that neither validation nor test has this class


@pytest.mark.parametrize("cut", ["validation", "test"])
def test_of_a_large_and_a_small_unit_the_large_one_is_trained_on(cut: str) -> None:
    rows = classes_of({0: 10, 1: 30})
    other = {"validation": "test", "test": "validation"}[cut]
    index = index_of([*rows, (0, 5000), (1, 5001)], [""] * 40 + [other] * 2)
    clusters = np.array([0] * 9 + list(range(1, 34)))
    assert getattr(split(index, 1, clusters=clusters), cut).tolist()[0] == 9


def test_where_the_source_gives_a_split_it_counts_and_the_change_is_noted() -> None:
    index = index_of(classes_of({0: 20, 1: 20}), ["test" if row % 5 == 0 else "train" for row in range(40)])
    before = dict.fromkeys(index.sha256, "train") | {index.sha256[1]: "test", index.sha256[2]: "validation"}
    splits = split(index, 1, earlier=before)
    assert splits.test.tolist() == list(range(0, 40, 5))
    assert (1 in splits.train, 2 in splits.validation) == (True, True)
    assert "9 images now in another split than in the earlier run" in splits.notes[0]


def test_a_cluster_that_now_ties_old_splits_stays_as_it_was_and_is_noted() -> None:
    index = index_of(classes_of({0: 30, 1: 30}))
    before = with_earlier(index, 1)
    splits = split(index, 1)
    train, test = splits.train[0], splits.test[0]
    more = added(index, replace(index_of([(0, 7777), (1, 7778)]), classes=index.classes))
    clusters = np.arange(62)
    clusters[[test, 60]] = clusters[train]
    after = split(more, 1, clusters=clusters, earlier=before)
    assert (train in after.train, test in after.test, 60 in after.train) == (True, True, True)
    assert "1 set of images that belong together were in different splits of the earlier run" in after.notes[0]


def parquet(path: Path, rows: dict[str, list[str]]) -> Path:
    pq.write_table(pa.table(rows), path)
    return path


def test_the_splits_of_a_run_are_read_from_its_folder_or_its_index(tmp_path: Path) -> None:
    rows = {"sha256": ["a", "b", "c", "c", ""], "split": ["train", "test", "test", "train", ""], "path": list("vwxyz")}
    path = parquet(tmp_path / "index.parquet", rows)
    assert read_splits(path) == read_splits(tmp_path) == {"a": "train", "b": "test", "c": "train"}


def test_what_is_no_index_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no table")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "text.parquet", parquet(tmp_path / "p", {"path": ["x"]})):
        with pytest.raises(ConfigError, match=r"cannot be read from .* Name the folder of a run"):
            read_splits(path)
