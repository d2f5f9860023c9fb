"""The audit: each kind of finding, on an index in which exactly that is wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from steadylens.data import audit as auditing
from steadylens.data.audit import FEW_IMAGES, IMBALANCE, duplicate_count, leakage_count
from steadylens.data.duplicates import NearDuplicates
from steadylens.data.findings import AppliedFixes, Finding, Suggestion
from steadylens.data.sources import ImageIndex, RefusedImage, index_arrays


def index_of(contents: list[int], labels: list[str], splits: list[str] | None = None) -> ImageIndex:
    """An index of one-pixel images, equal where their contents are."""
    index = index_arrays(np.array(contents, np.uint8).reshape(-1, 1, 1), labels)
    return index if splits is None else replace(index, splits=tuple(splits))


def audit(index: ImageIndex, near: NearDuplicates | None = None) -> tuple[Finding, ...]:
    """The audit of an index, on pixels that have nothing odd about them."""
    pixels = np.random.default_rng(0).integers(0, 256, (len(index), 8, 8, 3), dtype=np.uint8)
    return auditing.audit(index, pixels, equal_only(index) if near is None else near)


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


def test_imbalance_is_told_from_where_accuracy_hides_a_class() -> None:
    rare = FEW_IMAGES
    for common, told in ((IMBALANCE * rare - 1, 0), (IMBALANCE * rare, 1)):
        findings = found(index_of([0] * (common + rare), ["common"] * common + ["rare"] * rare), "imbalance")
        assert len(findings) == told
    assert "'common' has 10 times the images of 'rare': 100 and 10" in findings[0].text
    assert "corrects for it" in findings[0].advice


def test_suggestions_on_copies_across_splits_leave_the_one_that_is_measured_on() -> None:
    splits = ["train", "validation", "test", "train", "train", "test"]
    index = index_of([1, 1, 1, 2, 3, 4], ["a", "a", "a", "b", "b", "b"], splits)
    dropped = {one.path for finding in audit(index) for one in finding.suggestions if one.action == "drop"}
    assert dropped == {"array[0]", "array[1]"}


def test_the_most_serious_comes_first() -> None:
    labels = ["a"] * 12 + ["b"] * 3
    splits = ["train", "test", *[""] * 13]
    index = replace(index_of([1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 9, 10, 3, 11, 12], labels, splits), stray_files=("x.txt",))
    kinds = [finding.kind for finding in audit(index)]
    assert kinds == ["leakage", "conflicting-label", "tiny-class", "duplicate", "stray-file"]


def test_what_fixes_keep_is_not_found_again() -> None:
    index = index_of([1, 1, 1, 2, 2, 3], ["a", "a", "a", "a", "a", "b"])
    kept = frozenset({("array[1]", "duplicate"), ("array[4]", "duplicate"), ("array[0]", "leakage")})
    (finding,) = found(replace(index, fixes=AppliedFixes("fixes.csv", 0, 0, kept)), "duplicate")
    assert finding.sets == (("array[0]", "array[2]"),)  # of the other two, one is left, with nothing to compare it to
    assert finding.paths == ("array[0]", "array[2]")
    assert finding.suggestions == (Suggestion("array[2]", "drop"),)
    assert "2 of these files are kept" in finding.text


def test_images_with_further_frames() -> None:
    index = replace(index_of([1, 2], ["a", "b"]), animated=("array[1]",))
    (finding,) = found(index, "animated")
    assert (finding.paths, finding.sure) == (("array[1]",), "certain")
    assert "1 image with further frames or pages" in finding.text
