"""The audit: each kind of finding, on an index in which exactly that is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steadylens.data.audit import audit, duplicate_count, leakage_count
from steadylens.data.duplicates import NearDuplicates
from steadylens.data.findings import Finding, Suggestion
from steadylens.data.sources import ImageIndex, RefusedImage, index_arrays


def index_of(contents: list[int], labels: list[str], splits: list[str] | None = None) -> ImageIndex:
    """An index of one-pixel images, equal where their contents are."""
    index = index_arrays(np.array(contents, np.uint8).reshape(-1, 1, 1), labels)
    return index if splits is None else replace(index, splits=tuple(splits))


def equal_only(index: ImageIndex) -> NearDuplicates:
    """No near-duplicates but equal files."""
    clusters = np.unique(index.sha256, return_inverse=True)[1].astype(np.int64)
    return NearDuplicates(clusters, np.zeros((0, 2), np.int64), np.zeros(0))


def found(index: ImageIndex, kind: str) -> list[Finding]:
    return [finding for finding in audit(index, equal_only(index)) if finding.kind == kind]


def leaks(index: ImageIndex) -> int:
    return leakage_count(index, equal_only(index))


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    index = index_of(list(range(20)), ["a", "b"] * 10)
    assert audit(index, equal_only(index)) == ()
    assert (duplicate_count(index), leaks(index)) == (0, 0)


def test_copies_within_a_class() -> None:
    index = index_of([1, 2, 1, 3, 1, 4], ["a", "a", "a", "b", "a", "b"])
    (finding,) = found(index, "duplicate")
    assert finding.paths == ("array[0]", "array[2]", "array[4]")
    assert finding.sets == (finding.paths,)
    assert finding.suggestions == (Suggestion("array[2]", "drop"), Suggestion("array[4]", "drop"))
    assert "1 image occurring more than once in 'a': 2 surplus" in finding.text
    assert duplicate_count(index) == 2
    assert not found(index, "conflicting-label")


def test_one_content_under_two_labels() -> None:
    index = index_of([1, 2, 1, 3], ["a", "a", "b", "b"])
    (finding,) = found(index, "conflicting-label")
    assert finding.paths == ("array[0]", "array[2]")
    assert "'a' and 'b'" in finding.text
    assert not found(index, "duplicate")
    assert duplicate_count(index) == 1


def test_one_content_in_two_given_splits() -> None:
    contents = [1, 1, 2, 2, 3, 3, 4, 4]
    splits = ["train", "test", "train", "validation", "validation", "test", "train", "train"]
    index = index_of(contents, ["a", "a", "b", "b", "a", "a", "b", "b"], splits)
    leakage = found(index, "leakage")
    assert [leak.paths for leak in leakage] == [
        ("array[2]", "array[3]"),
        ("array[0]", "array[1]"),
        ("array[4]", "array[5]"),
    ]
    assert ["train and validation" in leakage[0].text, "train and test" in leakage[1].text] == [True, True]
    assert leakage[0].suggestions == (Suggestion("array[2]", "drop"),)
    assert leaks(index) == 3


def test_leakage_counts_images_once_each_and_ungiven_splits_as_train() -> None:
    index = index_of([1, 1, 1, 1, 2], ["a", "a", "a", "a", "b"], ["", "validation", "test", "test", ""])
    assert leaks(index) == 3
    assert duplicate_count(index) == 3
    assert leaks(index_of([1, 1, 2], ["a", "a", "b"])) == 0


def test_classes_with_few_images() -> None:
    labels = ["a"] * 1 + ["b"] * 2 + ["c"] * 9 + ["d"] * 10
    texts = [finding.text for finding in found(index_of(list(range(22)), labels), "tiny-class")]
    assert len(texts) == 3
    assert "'a' has 1 image: it can only be trained on" in texts[0]
    assert "'b' has 2 images" in texts[1]
    assert "'c' has 9 images: figures on it will be loose" in texts[2]


def test_empty_classes_and_refusals_and_stray_files() -> None:
    refusals = (
        RefusedImage("a/1", "a", "empty file"),
        RefusedImage("e/1", "e", "empty file"),
        RefusedImage("b/2", "b", "too large"),
    )
    index = replace(
        index_of(list(range(20)), ["a", "b"] * 10),
        refusals=refusals,
        empty_classes=("e", "f"),
        stray_files=("a/x.txt",),
    )
    assert [finding.paths for finding in found(index, "refused")] == [("a/1", "e/1"), ("b/2",)]
    assert "2 images refused: empty file" in found(index, "refused")[0].text
    empty = found(index, "empty-class")
    assert [finding.paths for finding in empty] == [("e/1",), ()]
    assert "all 1 of its images were refused" in empty[0].text
    assert "holds no images" in empty[1].text
    assert [finding.paths for finding in found(index, "stray-file")] == [("a/x.txt",)]
