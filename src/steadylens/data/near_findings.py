"""What near-duplicates mean for a training and its figures, as findings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import chain, combinations

import numpy as np

from steadylens.data.duplicates import NearDuplicates
from steadylens.data.findings import Finding, Suggestion, on_sets, surplus
from steadylens.data.folders import counted
from steadylens.data.sources import ImageIndex

# So many different files of one photograph are rarely copies: more likely, they are frames of a film or a burst.
MANY_FRAMES = 5


def near_leakage(index: ImageIndex, near: NearDuplicates) -> Iterator[Finding]:
    """Different files of one photograph in two given splits."""
    photographs = _photographs(index, near)
    for first, second in combinations(("train", "validation", "test"), 2):
        sets = []
        for rows in photographs:
            here, there = ([row for row in rows if index.split_of(row) == name] for name in (first, second))
            if here and {index.sha256[row] for row in there} - {index.sha256[row] for row in here}:
                sets.append((here, there))
        if sets:
            leaked = [row for _, there in sets for row in there]
            text = (
                f"{counted(leaked, 'image')} of {second} also in {first}, re-encoded, resized, slightly cropped or "
                f"otherwise little changed: figures on {second} come out too good."
            )
            advice = f"Look at them, and remove them from one of the two; suggested is {first}."
            drop = tuple(Suggestion(index.paths[row], "drop") for here, _ in sets for row in here)
            yield on_sets(
                index.paths, "near-leakage", text, "likely", advice, [here + there for here, there in sets], drop
            )


def near_conflicts(index: ImageIndex, near: NearDuplicates) -> Iterator[Finding]:
    """Different files of one photograph that have different labels."""
    found: dict[tuple[int, ...], list[list[int]]] = defaultdict(list)
    for rows in _photographs(index, near):
        labels = tuple(sorted({int(index.labels[row]) for row in rows}))
        if len(labels) > 1 and len({index.labels[row] for row in _one_each(index, rows)}) > 1:
            found[labels].append(rows)
    for labels, sets in sorted(found.items()):
        names = " and ".join(repr(index.classes[label]) for label in labels)
        text = (
            f"{counted(sets, 'photograph')} labelled both {names}, in files that hardly differ: all labels but one are "
            "wrong."
        )
        yield on_sets(
            index.paths, "conflicting-label", text, "likely", "Keep each in the class where it belongs.", sets
        )


def near_copies(index: ImageIndex, near: NearDuplicates) -> Iterator[Finding]:
    """Different files of one photograph in one class and one split, class by class."""
    found: dict[int, list[list[int]]] = defaultdict(list)
    for rows in _photographs(index, near):
        if len(_one_each(index, rows)) < MANY_FRAMES:
            parts: dict[tuple[int, str], list[int]] = defaultdict(list)
            for row in _one_each(index, rows):
                parts[int(index.labels[row]), index.split_of(row)].append(row)
            for (label, _), part in parts.items():
                if len(part) > 1:
                    found[label].append(part)
    for label, sets in sorted(found.items()):
        more = sum(len(rows) - 1 for rows in sets)
        text = (
            f"{counted(sets, 'photograph')} in several files of {index.classes[label]!r}, re-encoded, resized, "
            f"slightly cropped or otherwise little changed: {more} surplus. They weigh more in training; splits that "
            "are cut here keep them together."
        )
        drop = surplus([[index.paths[row] for row in rows] for rows in sets])
        yield on_sets(
            index.paths, "near-duplicate", text, "likely", "Look at them, and remove the surplus.", sets, drop
        )


def frames(index: ImageIndex, near: NearDuplicates) -> Iterator[Finding]:
    """Long chains of near-duplicates, as the frames of a film are."""
    sets = [rows for rows in _photographs(index, near) if len(_one_each(index, rows)) >= MANY_FRAMES]
    if sets:
        images = list(chain(*sets))
        text = (
            f"{counted(images, 'image')} in {counted(sets, 'chain')} of at least {MANY_FRAMES} that hardly differ from "
            "one to the next: these look like frames of one scene. Splits that are cut here keep each chain together."
        )
        advice = (
            "Where scenes, patients or pieces were photographed many times, name them in a group column, so that those "
            "frames stay together too that look different."
        )
        yield on_sets(index.paths, "frames", text, "likely", advice, sets)


def near_duplicate_count(index: ImageIndex, near: NearDuplicates) -> int:
    """How many images repeat another without being an equal file: all distinct contents less the photographs."""
    return len(set(index.sha256)) - len(np.unique(near.clusters))


def _photographs(index: ImageIndex, near: NearDuplicates) -> list[list[int]]:
    """The rows of every cluster that holds different files, in the order of the index."""
    order = np.argsort(near.clusters, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(near.clusters[order])) + 1)
    several = [part.tolist() for part in parts if len(part) > 1 and len({index.sha256[row] for row in part}) > 1]
    return sorted(several)


def _one_each(index: ImageIndex, rows: Iterable[int]) -> list[int]:
    """The first row of each content under each label."""
    return list({(index.sha256[row], int(index.labels[row])): row for row in reversed(list(rows))}.values())[::-1]
