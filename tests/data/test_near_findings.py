"""What near-duplicates mean: each kind of finding, on an index in which exactly that is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steadylens.data.audit import audit, leakage_count
from steadylens.data.duplicates import NearDuplicates
from steadylens.data.findings import Finding, Suggestion
from steadylens.data.near_findings import MANY_FRAMES, near_duplicate_count
from steadylens.data.sources import ImageIndex, index_arrays


def index_of(contents: list[int], labels: str, splits: list[str] | None = None) -> ImageIndex:
    """An index of one-pixel images, equal where their contents are."""
    index = index_arrays(np.array(contents, np.uint8).reshape(-1, 1, 1), list(labels))
    return index if splits is None else replace(index, splits=tuple(splits))


def clusters(*numbers: int) -> NearDuplicates:
    """Images with the same number show one photograph; the findings look at nothing else."""
    return NearDuplicates(np.array(numbers, np.int64), np.zeros((0, 2), np.int64), np.zeros(0))


def found(index: ImageIndex, near: NearDuplicates, kind: str) -> list[Finding]:
    pixels = np.random.default_rng(0).integers(0, 256, (len(index), 8, 8, 3), dtype=np.uint8)
    return [finding for finding in audit(index, pixels, near) if finding.kind == kind]


def rows(finding: Finding) -> list[list[int]]:
    return [[int(path[6:-1]) for path in one] for one in finding.sets]


def dropped(finding: Finding) -> list[int]:
    assert all(suggestion.action == "drop" for suggestion in finding.suggestions)
    return [int(suggestion.path[6:-1]) for suggestion in finding.suggestions]


def test_near_duplicates_within_a_class() -> None:
    index = index_of([0, 1, 2, 3, 4, 5], "aaabbb")
    near = clusters(0, 1, 0, 2, 2, 3)
    one, other = found(index, near, "near-duplicate")
    assert (rows(one), dropped(one)) == ([[0, 2]], [2])
    assert (rows(other), dropped(other)) == ([[3, 4]], [4])
    assert one.sure == "likely"
    assert "1 photograph in several files of 'a'" in one.text
    assert near_duplicate_count(index, near) == 2


def test_equal_files_are_another_finding_and_no_file_is_named_twice() -> None:
    index = index_of([0, 0, 1, 1, 2, 2], "aaaabb")
    near = clusters(0, 0, 0, 0, 1, 1)
    (finding,) = found(index, near, "near-duplicate")
    assert (rows(finding), dropped(finding)) == ([[0, 2]], [2])
    equal = {suggestion for one in found(index, near, "duplicate") for suggestion in one.suggestions}
    assert equal == {Suggestion(f"array[{row}]", "drop") for row in (1, 3, 5)}
    assert near_duplicate_count(index, near) == 1


def test_near_duplicates_under_two_labels() -> None:
    index = index_of([0, 1, 2, 3], "abab")
    (finding,) = found(index, clusters(0, 0, 1, 2), "conflicting-label")
    assert (rows(finding), finding.sure, finding.suggestions) == ([[0, 1]], "likely", ())
    assert "'a' and 'b'" in finding.text
    assert not found(index, clusters(0, 0, 1, 2), "near-duplicate")
    assert not found(index, clusters(0, 1, 0, 1), "conflicting-label")


def test_near_leakage_is_named_apart_from_equal_files_and_counted_with_them() -> None:
    splits = ["train", "test", "train", "test", "validation", "train", "train", "test"]
    index = index_of([0, 1, 2, 2, 3, 4, 5, 6], "aabbabab", splits)
    near = clusters(0, 0, 1, 1, 2, 3, 2, 4)
    validation, test = found(index, near, "near-leakage")
    assert (rows(validation), dropped(validation)) == ([[6, 4]], [6])
    assert (rows(test), dropped(test)) == ([[0, 1]], [0])
    assert "1 image of test also in train" in test.text
    assert [rows(finding) for finding in found(index, near, "leakage")] == [[[2, 3]]]
    assert leakage_count(index, near) == 3
    assert not found(index, near, "near-duplicate")  # there is nothing surplus in one split


def test_splits_that_are_not_given_cannot_leak() -> None:
    index = index_of([0, 1, 2, 3], "abab")
    near = clusters(0, 1, 0, 1)
    assert not found(index, near, "near-leakage")
    assert leakage_count(index, near) == 0


def test_long_chains_look_like_frames() -> None:
    n = MANY_FRAMES
    index = index_of(list(range(n + 4)), "a" * n + "bbbb")
    near = clusters(*[0] * n, 1, 1, 2, 3)
    (finding,) = found(index, near, "frames")
    assert (rows(finding), finding.suggestions) == ([list(range(n))], ())
    assert "group column" in finding.advice
    (copies,) = found(index, near, "near-duplicate")  # frames are not called surplus
    assert rows(copies) == [[n, n + 1]]
    assert not found(index, clusters(*[0] * (n - 1), 4, 1, 1, 2, 3), "frames")
