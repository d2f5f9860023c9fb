"""Which form a source has, and what it holds: folders, archives, manifests, frames, lists of paths with labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from steadylens.data.archives import archive_tree, is_archive
from steadylens.data.folders import FORMS, Candidate, Scan, is_tabular, is_unicode, printable, scan_tree, unwrapped
from steadylens.data.manifests import (
    candidates_of,
    is_frame,
    manifest_in,
    names_of,
    require_labels,
    scan_frame,
    scan_manifest,
)
from steadylens.data.trees import Tree, disk_tree
from steadylens.errors import DataError


def scan_source(
    source: Any,  # noqa: ANN401 - frames have no common type
    *,
    needs_train: bool = True,
    found: Callable[[int], None] = lambda _count: None,
) -> Scan:
    """What a source holds: the path of a folder, an archive or a manifest; a frame; or a pair (paths, labels).

    `found` is told how many files or members were found so far. Without `needs_train`, a test split alone will do.

    Raises:
        DataError: it is none of these, or cannot be read as what it is.
    """
    if isinstance(source, tuple):
        return scan_paths(*source)
    if is_frame(source):
        return scan_frame(source, disk_tree(Path.cwd()))
    path = _existing(source)
    if path.is_dir():
        return scan_tree(disk_tree(path), needs_train=needs_train, found=found)
    if is_tabular(path.name):
        return scan_manifest(disk_tree(path.parent), str(path))
    if is_archive(path):
        return _scan_archive(archive_tree(path, found), needs_train, found)
    raise DataError(f"{printable(str(path))} is a file of another kind. {FORMS}.")


def scan_paths(paths: Sequence[str | os.PathLike[str]], labels: Sequence[object]) -> Scan:
    """What a list of paths with a label each holds, in its order.

    Raises:
        DataError: the lengths differ, a label is missing, or there are no paths.
    """
    names = labels_as_names(labels, len(paths), "paths")
    if not names:
        raise DataError("There are no images: the list of paths is empty.")
    full = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - resolve() would follow links
    home = Path(os.path.commonpath([os.path.dirname(path) for path in full]))  # noqa: PTH120 - a str
    candidates = candidates_of(map(Candidate, full, names))
    classes = {name: {""} for name in names_of(labels)}
    return Scan(home, printable(str(home)), {}, classes, candidates)


def labels_as_names(labels: Sequence[object], n: int, what: str) -> list[str]:
    """The labels as class names.

    Raises:
        DataError: there are not n of them, or one is missing.
    """
    if len(labels) != n:
        raise DataError(f"There are {n} {what} and {len(labels)} labels. Give one label for each.")
    require_labels(labels)
    return [str(label) for label in labels]


def as_test(scan: Scan) -> Scan:
    """The same with everything in the test split: its own test split where it gives splits.

    Raises:
        DataError: it gives splits, but no test split.
    """
    part = only_test(scan) or scan
    given = {split for splits in part.classes.values() for split in splits}
    if "train" in given or "validation" in given:
        raise DataError(f"{scan.where} gives splits but no test split. Name what is to be tested on.")
    return replace(
        part,
        classes={name: {"test"} for name in part.classes},
        candidates=[row._replace(split="test") for row in part.candidates],
    )


def only_test(scan: Scan) -> Scan | None:
    """What a source holds in its test split alone; None where it gives none."""
    classes = {name: {"test"} for name, splits in scan.classes.items() if "test" in splits}
    if not classes:
        return None
    return replace(scan, classes=classes, candidates=[row for row in scan.candidates if row.split == "test"])


def joined(scan: Scan, test: Scan) -> Scan:
    """A source and what it is to be tested on, whose rows come last; that may be the source's own test split.

    Raises:
        DataError: the source has another test split, or the test has classes that are not learned.
    """
    own = {row.path for row in scan.candidates if row.split == "test"}
    if not test.candidates:
        raise DataError(f"There are no images in {test.where}, which was given to test on. {FORMS}.")
    if own == {row.path for row in test.candidates}:
        return scan
    if own:
        raise DataError(
            f"There are two test splits, in {scan.where} and in {test.where}. Leave out the second, or move the first "
            "away."
        )
    require_known(set(test.classes) - set(learned_classes(scan)), test.where)
    return replace(
        scan,
        archives=scan.archives | test.archives,
        classes={name: splits | ({"test"} & test.classes.get(name, set())) for name, splits in scan.classes.items()},
        candidates=scan.candidates + test.candidates,
        stray_files=scan.stray_files + test.stray_files,
        notes=scan.notes + test.notes,
    )


def learned_classes(scan: Scan) -> list[str]:
    """The classes that can be learned, in order: those with a training split, or with none given."""
    return [name for name, splits in scan.classes.items() if splits & {"", "train"}]


def require_known(unknown: Iterable[str], where: str) -> None:
    """Raise a DataError if there are classes with nothing to train on."""
    names = sorted(unknown)
    if names:
        raise DataError(
            f"{where} has classes without a usable training image: {', '.join(repr(name) for name in names)}. "
            "Rename them to the names used in training, add training images, or take them out."
        )


def _scan_archive(tree: Tree, needs_train: bool, found: Callable[[int], None]) -> Scan:
    """A manifest directly in an archive, or in the one folder in which everything lies, wins over class folders."""
    manifest = manifest_in(tree)
    if manifest is None:
        tree = unwrapped(tree)
        manifest = manifest_in(tree)
    if manifest is not None:
        return scan_manifest(tree, manifest)
    return scan_tree(tree, needs_train=needs_train, found=found)


def _existing(source: str | os.PathLike[str]) -> Path:
    path = Path(os.path.abspath(source))  # noqa: PTH100 - resolve() would replace links by where they lead
    if not path.exists():
        raise DataError(f"{printable(str(path))} does not exist. Check the spelling; {FORMS}.")
    if not is_unicode(str(path)):
        raise DataError(f"{printable(str(path))} is not valid Unicode, and no report could hold it. Rename it.")
    if not path.is_dir() and not path.is_file():
        raise DataError(f"{printable(str(path))} is neither a folder nor a file. {FORMS}.")
    return path
