"""Class folders, lists of paths and arrays become an `ImageIndex`: what images there are, and which are refused."""

from __future__ import annotations

import glob
import math
import numbers
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from steadylens.data import folders
from steadylens.data.folders import Candidate
from steadylens.data.images import Header, Refusal, read_header
from steadylens.data.reading import in_threads, read_content
from steadylens.errors import DataError
from steadylens.files import sha256


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

    def __len__(self) -> int:
        """The number of usable images."""
        return len(self.paths)


def read_index(source: Path | str, *, test: Path | str | None = None) -> ImageIndex:
    """Read a folder of class folders, or of train/, validation/ (or val/) and test/ with class folders in them.

    Images may lie in subfolders of a class folder. Hidden files and folders are passed over, links
    to folders are not followed, files with an extension that is no image's are noted; every other
    file is read once, and is either in the index or refused. Rows are sorted by class, then by path.
    `test` is a further folder whose images are the test split; of a folder with train/ and test/,
    its test/ is taken.

    Raises:
        DataError: the folder cannot be read as one of these, or has fewer than two usable classes.
    """
    root = folders.existing_folder(source)
    parts = folders.split_folders(root)
    if test is not None:
        parts = folders.with_test(parts, folders.existing_folder(test))
    return _read_parts(root, parts, fewest=2)


def read_index_to_measure(source: Path | str) -> ImageIndex:
    """Read a folder of class folders to measure a finished model on; of train/ and test/ folders, test/ alone.

    Raises:
        DataError: the folder cannot be read as one of these, or has no usable image.
    """
    root = folders.existing_folder(source)
    parts = folders.split_folders(root)
    tests = [(folder, "") for folder, split in parts if split == "test"]
    index = _read_parts(root, tests or [(folder, "") for folder, _ in parts], fewest=1)
    return replace(index, notes=(*index.notes, f"Only {tests[0][0]} is measured on.")) if tests else index


def _read_parts(root: Path, parts: list[tuple[Path, str]], *, fewest: int) -> ImageIndex:
    """Read folders of class folders, each with its split."""
    scans = [folders.scan(folder, split, root) for folder, split in parts]
    learned = {
        name for (_, split), part in zip(parts, scans, strict=True) if split in ("", "train") for name in part.classes
    }
    if not learned:
        raise folders.no_class_folders(root)
    candidates = sorted((c for part in scans for c in part.candidates), key=lambda c: (c.class_name, c.shown))
    notes = [*folders.root_notes(root, parts), *(note for part in scans for note in part.notes)]
    strays = sorted(path for part in scans for path in part.stray_files)
    if strays:
        notes.append(
            f"{folders.counted(strays, 'file')} passed over: not an image by its extension, such as {strays[0]!r}."
        )
    for (folder, _), part in zip(parts, scans, strict=True):
        _require_known(set(part.classes) - learned, str(folder))
    index = _index_of(root, candidates, sorted(learned), notes, fewest)
    return replace(index, stray_files=tuple(strays))


def index_paths(paths: Sequence[str | Path], labels: Sequence[object]) -> ImageIndex:
    """Index image files with a label each, in the given order; a file that cannot be read is refused.

    Raises:
        DataError: the lengths differ, a label is missing, or there are fewer than two usable classes.
    """
    names = _names_of(labels, len(paths), "paths")
    if not names:
        raise DataError("There are no images: the list of paths is empty.")
    full = [os.path.abspath(path) for path in paths]  # noqa: PTH100 - resolve() would follow links
    root = Path(os.path.commonpath([os.path.dirname(path) for path in full]))  # noqa: PTH120 - a str
    candidates = [Candidate(path, folders.shown(path, root), name, "") for path, name in zip(full, names, strict=True)]
    return _index_of(root, candidates, _classes_of(labels), [], fewest=2)


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
    names, classes, splits = _names_of(labels, len(images), "images"), _classes_of(labels), [""] * len(images)
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
    )


def find_images(arguments: Sequence[str]) -> list[Path]:
    """List the image files that some arguments name: files, folders (with all below them) and glob patterns, sorted.

    Raises:
        DataError: an argument names nothing, or a folder or a pattern without images.
    """
    return [path for argument in arguments for path in _found(argument)]


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


def _index_of(
    root: Path, candidates: list[Candidate], classes: Sequence[str], notes: list[str], fewest: int
) -> ImageIndex:
    """Open every candidate; `classes`, in order, are those that can be learned."""
    seen = list(in_threads(_inspect, candidates))
    usable = [
        (c, found[0], found[1]) for c, found in zip(candidates, seen, strict=True) if not isinstance(found, Refusal)
    ]
    refusals = tuple(
        RefusedImage(c.shown, c.class_name, found.reason)
        for c, found in zip(candidates, seen, strict=True)
        if isinstance(found, Refusal)
    )
    learned = {c.class_name for c, _, _ in usable if c.split in ("", "train")}
    _require_classes([name for name in classes if name in learned], str(root), refusals, fewest)
    _require_known({c.class_name for c, _, _ in usable} - learned, str(root))
    label_of = {name: label for label, name in enumerate(name for name in classes if name in learned)}
    empty = [name for name in classes if name not in learned]
    return ImageIndex(
        root=root,
        classes=tuple(label_of),
        paths=tuple(c.path for c, _, _ in usable),
        labels=np.array([label_of[c.class_name] for c, _, _ in usable], np.int64),
        splits=tuple(c.split for c, _, _ in usable),
        groups=("",) * len(usable),
        sha256=tuple(digest for _, digest, _ in usable),
        widths=np.array([header.width for _, _, header in usable], np.int32),
        heights=np.array([header.height for _, _, header in usable], np.int32),
        refusals=refusals,
        notes=(*notes, *_empty_notes(empty, refusals)),
        empty_classes=tuple(empty),
        animated=tuple(c.path for c, _, header in usable if header.animated),
        fewest_classes=fewest,
    )


def _inspect(candidate: Candidate) -> tuple[str, Header] | Refusal:
    """The SHA-256 and the header of a file, which is read once."""
    if folders.printable(candidate.path) != candidate.path:
        return Refusal("its name is not valid Unicode: rename it")
    content = read_content(candidate.path)
    if isinstance(content, Refusal):
        return content
    header = read_header(content)
    return header if isinstance(header, Refusal) else (sha256(content), header)


def _found(argument: str) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        found = [Path(name) for name in folders.contents_of(path).files]
        if not found:
            raise DataError(f"There are no images in {path}. Name a folder that has some, or the images themselves.")
    elif path.exists() or not glob.has_magic(argument):
        found = [path]
    else:
        found = [Path(name) for name in sorted(glob.glob(argument, recursive=True)) if not Path(name).is_dir()]  # noqa: PTH207
        if not found:
            raise DataError(f"No file matches {argument!r}. Check the pattern.")
    if not found[0].exists() and not found[0].is_symlink():
        raise DataError(f"{path} does not exist. Check the spelling.")
    return found


def _test_arrays(
    images: NDArray[np.uint8], classes: list[str], test_images: NDArray[np.uint8], labels: Sequence[object]
) -> tuple[NDArray[np.uint8], list[str]]:
    _check_images(test_images, "test images")
    if test_images.shape[1:] != images.shape[1:]:
        shapes = f"{test_images.shape[1:]}, those to learn from {images.shape[1:]}"
        raise DataError(f"The test images have the shape {shapes}. Bring both to one shape.")
    names = _names_of(labels, len(test_images), "test images")
    _require_known(set(names) - set(classes), "the test labels")
    return test_images, names


def _check_images(images: NDArray[np.uint8], what: str) -> None:
    if images.dtype != np.uint8:
        raise DataError(f"The {what} have the type {images.dtype}: uint8, from 0 to 255, is needed. Convert them.")
    if not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) or 0 in images.shape:
        needed = "(n, height, width, 3) or (n, height, width), none of them 0"
        raise DataError(f"The {what} have the shape {images.shape}: {needed}, is needed.")


def _names_of(labels: Sequence[object], n: int, what: str) -> list[str]:
    """The labels as class names."""
    if len(labels) != n:
        raise DataError(f"There are {n} {what} and {len(labels)} labels. Give one label for each.")
    for row, label in enumerate(labels):
        if label is None or str(label) == "" or (isinstance(label, numbers.Real) and math.isnan(label)):
            raise DataError(f"The label in position {row} is missing ({label!r}). Fill it in, or leave that image out.")
    return [str(label) for label in labels]


def _classes_of(labels: Sequence[object]) -> list[str]:
    """The distinct labels: numbers in numeric order, all else as text in alphabetical order."""
    if all(isinstance(label, numbers.Real) and not isinstance(label, bool) for label in labels):
        return list(dict.fromkeys(str(label) for label in sorted(labels, key=float)))  # type: ignore[arg-type]
    return sorted({str(label) for label in labels})


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


def _require_known(unknown: Iterable[str], where: str) -> None:
    """Raise a DataError if there are classes with nothing to train on."""
    names = sorted(unknown)
    if names:
        listed = ", ".join(repr(name) for name in names)
        raise DataError(
            f"{where} has classes without a usable training image: {listed}. "
            "Rename them to the names used in training, add training images, or take them out."
        )


def _empty_notes(classes: Sequence[str], refusals: Sequence[RefusedImage]) -> list[str]:
    refused = Counter(refusal.class_name for refusal in refusals)
    return [
        f"The class {name!r} has no usable image"
        + (f" ({refused[name]} refused)" if refused[name] else "")
        + ": left out."
        for name in classes
    ]
