"""Folders, archives, manifests, frames, lists and arrays become an index: what images there are, what is refused."""

from __future__ import annotations

import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadylens.data import folders
from steadylens.data.findings import AppliedFixes
from steadylens.data.folders import Candidate, Scan
from steadylens.data.forms import (
    as_test,
    joined,
    labels_as_names,
    learned_classes,
    only_test,
    require_known,
    scan_source,
)
from steadylens.data.images import Header, Refusal, read_header
from steadylens.data.manifests import names_of
from steadylens.data.reading import in_threads, read_content, read_from
from steadylens.data.trees import Read
from steadylens.errors import DataError
from steadylens.files import sha256

Tally = Callable[[int, int], None]
_ADVANCE_EVERY = 64  # images between two reports of progress


def _nowhere(_done: int, _found: int) -> None:
    """Progress that nobody follows."""


@dataclass(frozen=True)
class RefusedImage:
    """An image that is not used: its path relative to the root ("/" between parts), its class, and why."""

    path: str
    class_name: str
    reason: str


@dataclass(frozen=True)
class ImageIndex:
    """What images there are: row i of every field below describes image i, for n images.

    `classes` is sorted, and a label is a position in it. `splits` holds "" where the source does
    not give one, `groups` "" where there is none. `sha256` is of the file's bytes, or of the shape
    and pixels of an array. Widths and heights are in pixels, as displayed. `arrays` has shape
    (n, height, width, 3) or (n, height, width) when the source is an array, and `root` is None then.
    `animated` holds the paths of images with further frames or pages behind the first, the one that is
    used. `empty_classes` (no usable image) and `stray_files` (not images, by their extension) are left
    out, and `notes` say so. To learn from, two classes are needed; to measure on, one will do.
    `read` gives the bytes of an image by its path, or a Refusal; the paths of an archive's members
    begin with the archive's own, and only `read` can open them.
    `fixes` tells what a file of fixes changed. `given` are the splits that there are, their images usable or not.
    """

    root: Path | None
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    sha256: tuple[str, ...]
    widths: NDArray[np.int32]
    heights: NDArray[np.int32]
    refusals: tuple[RefusedImage, ...]
    notes: tuple[str, ...]
    arrays: NDArray[np.uint8] | None = None
    empty_classes: tuple[str, ...] = ()
    stray_files: tuple[str, ...] = ()
    animated: tuple[str, ...] = ()
    fewest_classes: int = 2
    read: Read = read_content
    fixes: AppliedFixes | None = None
    given: frozenset[str] = frozenset()

    def __len__(self) -> int:
        """The number of usable images."""
        return len(self.paths)

    def split_of(self, row: int) -> str:
        """The split that the source gives an image; one without counts as train."""
        return self.splits[row] or "train"

    def but_test(self) -> NDArray[np.int64]:
        """The rows of the images by which something may be chosen: all but a test split that the source gives."""
        return np.flatnonzero(np.array(self.splits) != "test")


def read_index(
    source: Any,  # noqa: ANN401 - frames have no common type
    *,
    test: Any = None,  # noqa: ANN401 - as source
    advance: Tally = _nowhere,
) -> ImageIndex:
    """Read labelled images: a folder, an archive or a manifest by its path; a frame; or a pair (paths, labels).

    The forms are described in docs/data.md. Every file is read once, and is either in the index or
    refused. Rows are sorted by class, then by path; those of a table or a list keep its order.
    `test` is a further source, whose images are the test split; where it gives splits, its test
    split. `advance` is called with how many files are read and how many were found.

    Raises:
        DataError: the source cannot be read as one of these, or has fewer than two usable classes.
    """
    found = partial(advance, 0)
    scan = scan_source(source, found=found)
    if test is not None:
        first = len(scan.candidates)
        more = scan_source(test, needs_train=False, found=lambda count: found(first + count))
        scan = joined(scan, as_test(more))
    return _index_of(scan, advance, fewest=2)


def read_index_to_measure(source: Any, *, advance: Tally = _nowhere) -> ImageIndex:  # noqa: ANN401 - as above
    """Read labelled images to measure a finished model on; where the source gives splits, the test split alone.

    Raises:
        DataError: the source cannot be read, or has no usable image.
    """
    scan = scan_source(source, needs_train=False, found=partial(advance, 0))
    test = only_test(scan)
    note = f"Only the test split of {scan.where} is measured on."
    scan = as_test(scan) if test is None else replace(test, notes=[*scan.notes, note])
    candidates = [row._replace(split="") for row in scan.candidates]
    return _index_of(
        replace(scan, classes={name: {""} for name in scan.classes}, candidates=candidates), advance, fewest=1
    )


def index_paths(paths: Sequence[str | Path], labels: Sequence[object]) -> ImageIndex:
    """Index image files with a label each, in the given order; a file that cannot be read is refused.

    Raises:
        DataError: the lengths differ, a label is missing, or there are fewer than two usable classes.
    """
    return read_index((paths, labels))


def index_arrays(
    images: NDArray[np.uint8],
    labels: Sequence[object],
    *,
    test: tuple[NDArray[np.uint8], Sequence[object]] | None = None,
) -> ImageIndex:
    """Index images held in an array of shape (n, height, width, 3) or (n, height, width), dtype uint8, in its order.

    `test` is a further pair of images and labels, which become the test split. Numeric labels are
    put in numeric order, others in alphabetical order.

    Raises:
        DataError: a shape, dtype, length or label cannot be used, or there are fewer than two classes.
    """
    _check_images(images, "images")
    names, classes, splits = labels_as_names(labels, len(images), "images"), names_of(labels), [""] * len(images)
    _require_classes(classes, "the labels", [], 2)
    if test is not None:
        more, more_names = _test_arrays(images, classes, *test)
        images, names, splits = np.concatenate([images, more]), names + more_names, splits + ["test"] * len(more)
    label_of = {name: label for label, name in enumerate(classes)}
    n, height, width = images.shape[:3]
    shape = repr(images.shape[1:]).encode()  # the same bytes in another shape are another image
    return ImageIndex(
        root=None,
        classes=tuple(classes),
        paths=tuple(f"array[{row}]" for row in range(n)),
        labels=np.array([label_of[name] for name in names], np.int64),
        splits=tuple(splits),
        groups=("",) * n,
        sha256=tuple(sha256(shape + image.tobytes()) for image in images),
        widths=np.full(n, width, np.int32),
        heights=np.full(n, height, np.int32),
        refusals=(),
        notes=(),
        arrays=images,
        given=frozenset() if test is None else frozenset({"test"}),
    )


def drop_refused(index: ImageIndex, refused: Mapping[int, str]) -> ImageIndex:
    """Take rows, with the reason for each, out of the index and add them to its refusals.

    A class that loses all its images leaves `classes`, the labels are renumbered, and it is added
    to `empty_classes`.

    Raises:
        DataError: fewer than two classes are left.
    """
    if not refused:
        return index
    kept = np.array([row for row in range(len(index)) if row not in refused], np.int64)
    more = tuple(
        RefusedImage(folders.shown(index.paths[row], index.root), index.classes[index.labels[row]], refused[row])
        for row in sorted(refused)
    )
    gone = {index.paths[row] for row in refused}
    present = set(index.labels[kept].tolist())
    classes = [name for label, name in enumerate(index.classes) if label in present]
    lost = [name for label, name in enumerate(index.classes) if label not in present]
    refusals = index.refusals + more
    _require_classes(classes, str(index.root or "the array"), refusals, index.fewest_classes)
    left = np.array([classes.index(name) if name in classes else -1 for name in index.classes], np.int64)
    return replace(
        index,
        classes=tuple(classes),
        paths=tuple(index.paths[row] for row in kept),
        labels=left[index.labels[kept]],
        splits=tuple(index.splits[row] for row in kept),
        groups=tuple(index.groups[row] for row in kept),
        sha256=tuple(index.sha256[row] for row in kept),
        widths=index.widths[kept],
        heights=index.heights[kept],
        refusals=refusals,
        notes=(*index.notes, *_empty_notes(lost, refusals)),
        arrays=None if index.arrays is None else index.arrays[kept],
        empty_classes=tuple(sorted((*index.empty_classes, *lost))),
        animated=tuple(path for path in index.animated if path not in gone),
    )


def _index_of(scan: Scan, advance: Tally, fewest: int) -> ImageIndex:
    """Open every candidate, and keep those that are images."""
    read = partial(read_from, scan.archives)
    rows, learned = scan.candidates, learned_classes(scan)
    require_known(set(scan.classes) - set(learned), scan.where)
    digests, widths, heights, animated, refused = _opened(rows, read, advance)
    refusals = tuple(
        RefusedImage(folders.shown(rows[row].path, scan.home), rows[row].class_name, why)
        for row, why in refused.items()
    )
    usable = [candidate for row, candidate in enumerate(rows) if row not in refused] if refused else rows
    trained = {candidate.class_name for candidate in usable if candidate.split in ("", "train")}
    classes = [name for name in learned if name in trained]
    _require_classes(classes, scan.where, refusals, fewest)
    require_known({candidate.class_name for candidate in usable} - trained, scan.where)
    label_of = {name: label for label, name in enumerate(classes)}
    empty = [name for name in learned if name not in trained]
    strays = tuple(folders.shown(path, scan.home) for path in scan.stray_files)
    return ImageIndex(
        root=scan.home,
        classes=tuple(classes),
        paths=tuple(candidate.path for candidate in usable),
        labels=np.fromiter((label_of[candidate.class_name] for candidate in usable), np.int64, len(usable)),
        splits=tuple(candidate.split for candidate in usable),
        groups=tuple(candidate.group for candidate in usable),
        sha256=tuple(digests),
        widths=np.array(widths, np.int32),
        heights=np.array(heights, np.int32),
        refusals=refusals,
        notes=(*scan.notes, *_stray_note(strays), *_straddling_note(usable), *_empty_notes(empty, refusals)),
        empty_classes=tuple(empty),
        stray_files=strays,
        animated=tuple(usable[row].path for row in animated),
        fewest_classes=fewest,
        read=read,
        given=frozenset(split for splits in scan.classes.values() for split in splits if split),
    )


def _opened(
    rows: Sequence[Candidate], read: Read, advance: Tally
) -> tuple[list[str], array.array[int], array.array[int], list[int], dict[int, str]]:
    """Read every file once.

    Returns:
        SHA-256, width and height of each that is usable, which of these are animated, and why each other row is not.
    """
    digests: list[str] = []
    widths, heights = array.array("i"), array.array("i")
    animated: list[int] = []
    refused: dict[int, str] = {}
    for row, seen in enumerate(in_threads(partial(_inspect, read), rows)):
        if isinstance(seen, Refusal):
            refused[row] = seen.reason
        else:
            digest, header = seen
            animated += [len(digests)] * header.animated
            digests.append(digest)
            widths.append(header.width)
            heights.append(header.height)
        if (row + 1) % _ADVANCE_EVERY == 0 or row + 1 == len(rows):
            advance(row + 1, len(rows))
    return digests, widths, heights, animated, refused


def _inspect(read: Read, candidate: Candidate) -> tuple[str, Header] | Refusal:
    """The SHA-256 and the header of a file, which is read once."""
    if candidate.refusal:
        return Refusal(candidate.refusal)
    if not folders.is_unicode(candidate.path):
        return Refusal("its name is not valid Unicode: rename it")
    content = read(candidate.path)
    if isinstance(content, Refusal):
        return content
    header = read_header(content)
    return header if isinstance(header, Refusal) else (sha256(content), header)


def _stray_note(strays: Sequence[str]) -> list[str]:
    if not strays:
        return []
    return [f"{folders.counted(strays, 'file')} passed over: not an image by its extension, such as {strays[0]!r}."]


def _straddling_note(rows: Iterable[Candidate]) -> list[str]:
    """Say which groups given splits tear apart; splits that are cut here keep groups together."""
    splits: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if row.group:
            splits[row.group].add(row.split or "train")
    torn = sorted(group for group, found in splits.items() if len(found) > 1)
    if not torn:
        return []
    what = f"{folders.counted(torn, 'group')} in more than one given split: {folders.listed(torn)}."
    return [f"{what} Figures on validation and test come out too good."]


def _test_arrays(
    images: NDArray[np.uint8], classes: list[str], test_images: NDArray[np.uint8], labels: Sequence[object]
) -> tuple[NDArray[np.uint8], list[str]]:
    _check_images(test_images, "test images")
    if test_images.shape[1:] != images.shape[1:]:
        shapes = f"{test_images.shape[1:]}, those to learn from {images.shape[1:]}"
        raise DataError(f"The test images have the shape {shapes}. Bring both to one shape.")
    names = labels_as_names(labels, len(test_images), "test images")
    require_known(set(names) - set(classes), "the test labels")
    return test_images, names


def _check_images(images: NDArray[np.uint8], what: str) -> None:
    if images.dtype != np.uint8:
        raise DataError(f"The {what} have the type {images.dtype}: uint8, from 0 to 255, is needed. Convert them.")
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) or 0 in images.shape:
        needed = "(n, height, width, 3) or (n, height, width), none of them 0"
        raise DataError(f"The {what} have the shape {images.shape}: {needed}, is needed.")


def _require_classes(classes: Sequence[str], where: str, refusals: Sequence[RefusedImage], fewest: int) -> None:
    """Raise a DataError unless there are enough classes with images; the refusals say why there are not."""
    if len(classes) >= fewest:
        return
    common = Counter(refusal.reason for refusal in refusals).most_common(1)
    why = f" {folders.counted(refusals, 'image')} refused, most often because: {common[0][0]}." if common else ""
    if not classes:
        raise DataError(f"There are no usable images in {where}.{why} {folders.FORMS}.")
    raise DataError(
        f"There is only one class, {classes[0]!r}, in {where}: a classifier needs at least two.{why} "
        "Add a folder of another class; if the subfolders of this one are the classes, name this one instead."
    )


def _empty_notes(classes: Sequence[str], refusals: Sequence[RefusedImage]) -> list[str]:
    refused = Counter(refusal.class_name for refusal in refusals)
    return [
        f"The class {name!r} has no usable image"
        + (f" ({refused[name]} refused)" if refused[name] else "")
        + ": left out."
        for name in classes
    ]
