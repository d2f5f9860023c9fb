"""What is wrong with the images, before anything is trained on them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from steadylens.data.duplicates import NearDuplicates
from steadylens.data.findings import Finding, Suggestion, by_seriousness, on_sets, surplus, without_kept
from steadylens.data.folders import counted, shown
from steadylens.data.names import groups_in_names, similar_classes
from steadylens.data.near_findings import frames, near_conflicts, near_copies, near_leakage
from steadylens.data.odd_images import odd_images
from steadylens.data.sources import ImageIndex

# Of fewer than ten images, the default shares leave at most one in the validation and one in the test split.
FEW_IMAGES = 10
# From here on, always answering with the larger of two classes is right on 91 % of the images: accuracy hides the rest.
IMBALANCE = 10


def audit(index: ImageIndex, pixels: NDArray[np.uint8], near: NearDuplicates) -> tuple[Finding, ...]:
    """Look for what spoils a training or its figures.

    Args:
        index: of the images.
        pixels: uint8, (n, side, side, 3), of the images in the index.
        near: which of them show the same photograph.

    Returns:
        Findings, the most serious first, without what fixes keep; files that belong together are a finding's sets.
    """
    found = (
        *_refused(index),
        *_leakage(index),
        *near_leakage(index, near),
        *_conflicting_labels(index),
        *near_conflicts(index, near),
        *_duplicates(index),
        *near_copies(index, near),
        *frames(index, near),
        *_empty_classes(index),
        *similar_classes(index),
        *_tiny_classes(index),
        *_imbalance(index),
        *groups_in_names(index),
        *odd_images(index, pixels),
        *_animated(index),
        *_stray_files(index),
    )
    return by_seriousness(unless_kept(found, index))


def unless_kept(findings: Iterable[Finding], index: ImageIndex) -> Iterator[Finding]:
    """The findings without what the index's fixes keep."""
    kept = index.fixes.kept if index.fixes is not None else frozenset()
    return without_kept(findings, kept, lambda path: shown(path, index.root))


def duplicate_count(index: ImageIndex) -> int:
    """How many images repeat the content of another: all images less the distinct contents, whatever class or split."""
    return len(index) - len(set(index.sha256))


def leakage_count(index: ImageIndex, near: NearDuplicates) -> int:
    """How many images of given splits were seen before their turn, in equal files or in near-duplicates.

    These are the validation images of which a cluster of near-duplicates has another in train, and the test images of
    which one has another in train or validation. Each counts once; images without a given split count as train.
    """
    found: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for row, cluster in enumerate(near.clusters.tolist()):
        found[index.split_of(row)].append(cluster)
    train, validation = set(found["train"]), set(found["validation"])
    leaked = sum(cluster in train for cluster in found["validation"])
    return leaked + sum(cluster in train or cluster in validation for cluster in found["test"])


def _refused(index: ImageIndex) -> Iterator[Finding]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for refusal in index.refusals:
        reasons[refusal.reason].append(refusal.path)
    dropped = reasons.pop(index.fixes.drop_reason, []) if index.fixes is not None else []
    for reason, paths in sorted(reasons.items()):
        text = f"{counted(paths, 'image')} refused: {reason}."
        yield Finding("refused", text, "certain", "Repair or remove; nothing is put in its place.", tuple(paths))
    if dropped and index.fixes is not None:
        text = f"{counted(dropped, 'image')} left out, as {index.fixes.file} says."
        yield Finding("dropped", text, "certain", "Nothing: you decided so.", tuple(dropped))


def _leakage(index: ImageIndex) -> Iterator[Finding]:
    rows_of = _rows_by_content(index)
    for first, second in combinations(("train", "validation", "test"), 2):
        shared = [rows for rows in rows_of.values() if {first, second} <= {index.split_of(row) for row in rows}]
        if shared:
            sets = [[row for row in group if index.split_of(row) in (first, second)] for group in shared]
            text = (
                f"The same file is in {first} and {second}, {len(shared)} times over: figures on {second} come out too "
                "good."
            )
            drop = [Suggestion(index.paths[row], "drop") for row in chain(*sets) if index.split_of(row) == first]
            advice = f"Remove the copies from one of the two; suggested is {first}."
            yield on_sets(index.paths, "leakage", text, "certain", advice, sets, tuple(drop))


def _conflicting_labels(index: ImageIndex) -> Iterator[Finding]:
    groups: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    for rows in _rows_by_content(index).values():
        labels = tuple(sorted({int(index.labels[row]) for row in rows}))
        if len(labels) > 1:
            groups[labels].append(rows)
    for labels, found in sorted(groups.items()):
        names = " and ".join(repr(index.classes[label]) for label in labels)
        text = (
            f"{counted(found, 'image')} labelled both {names}. The contents are equal, so all labels but one are wrong."
        )
        yield on_sets(
            index.paths, "conflicting-label", text, "certain", "Keep each in the class where it belongs.", found
        )


def _duplicates(index: ImageIndex) -> Iterator[Finding]:
    copies: dict[int, list[list[int]]] = defaultdict(list)
    for rows in _rows_by_content(index).values():
        for label in sorted({int(index.labels[row]) for row in rows}):
            same = [row for row in rows if index.labels[row] == label]
            if len(same) > 1:
                copies[label].append(same)
    for label, found in sorted(copies.items()):
        more = sum(len(rows) - 1 for rows in found)
        text = (
            f"{counted(found, 'image')} occurring more than once in {index.classes[label]!r}: {more} surplus. They "
            "weigh more in training; splits that are cut here keep them together."
        )
        drop = surplus([_paths(index, _last_split_first(index, rows)) for rows in found])
        yield on_sets(
            index.paths, "duplicate", text, "certain", "Remove the surplus, unless that weight is meant.", found, drop
        )


def _empty_classes(index: ImageIndex) -> Iterator[Finding]:
    for name in index.empty_classes:
        refused = tuple(refusal.path for refusal in index.refusals if refusal.class_name == name)
        why = f"all {len(refused)} of its images were refused" if refused else "it holds no images"
        text = f"The class {name!r} is left out: {why}."
        yield Finding("empty-class", text, "certain", "Add images, or remove it.", refused)


def _tiny_classes(index: ImageIndex) -> Iterator[Finding]:
    rows, tested = index.but_test(), "test" in index.splits
    sizes = np.bincount(index.labels[rows], minlength=len(index.classes))
    for label in np.flatnonzero(sizes < FEW_IMAGES):
        size = int(sizes[label])
        if tested:
            what = f"{size} image{'s' * (size != 1)} beside those of the test split: it will hardly be learned"
        elif size == 1:
            what = "1 image: it can only be trained on, and nothing can be said about how well it is recognised"
        elif size == 2:
            what = "2 images: one to train on and one to check with, and none is left to test with"
        else:
            what = f"{size} images: figures on it will be loose"
        paths = _paths(index, rows[index.labels[rows] == label].tolist())
        yield Finding("tiny-class", f"The class {index.classes[label]!r} has {what}.", "certain", "Add images.", paths)


def _imbalance(index: ImageIndex) -> Iterator[Finding]:
    sizes = np.bincount(index.labels[index.but_test()], minlength=len(index.classes))
    factor = sizes.max() / max(sizes.min(), 1)
    if len(sizes) > 1 and factor >= IMBALANCE:
        large, small = int(sizes.argmax()), int(sizes.argmin())
        text = (
            f"The class {index.classes[large]!r} has {factor:,.0f} times the images of {index.classes[small]!r}: "
            f"{sizes[large]:,} and {sizes[small]:,}."
        )
        advice = (
            "Training corrects for it unless told otherwise (--imbalance), and judges by balanced accuracy, in which "
            "every class counts the same. More images of the small classes help most."
        )
        yield Finding("imbalance", text, "certain", advice)


def _animated(index: ImageIndex) -> Iterator[Finding]:
    if index.animated:
        text = f"{counted(index.animated, 'image')} with further frames or pages: only the first of each is used."
        advice = "Nothing, unless what matters is in another frame: then save that one as an image of its own."
        yield Finding("animated", text, "certain", advice, index.animated)


def _stray_files(index: ImageIndex) -> Iterator[Finding]:
    if index.stray_files:
        text = f"{counted(index.stray_files, 'file')} in class folders passed over: not images, by their extension."
        advice = "Nothing, unless one of them is an image: then give it an image's extension."
        yield Finding("stray-file", text, "certain", advice, index.stray_files)


def _rows_by_content(index: ImageIndex) -> dict[str, list[int]]:
    """The rows of every content that occurs more than once."""
    often = {content for content, count in Counter(index.sha256).items() if count > 1}
    rows: dict[str, list[int]] = defaultdict(list)
    for row, content in enumerate(index.sha256):
        if content in often:
            rows[content].append(row)
    return rows


def _last_split_first(index: ImageIndex, rows: list[int]) -> list[int]:
    """Rows in the order in which copies are worth keeping: those to measure on first, so that no leak stays."""
    return sorted(rows, key=lambda row: -("train", "validation", "test").index(index.split_of(row)))


def _paths(index: ImageIndex, rows: Iterable[int]) -> tuple[str, ...]:
    return tuple(index.paths[row] for row in rows)
