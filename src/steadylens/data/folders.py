"""Folders of images: which of their subfolders are splits and classes, and which files are to be tried."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from steadylens.errors import DataError

FORMS = (
    "steadylens reads a folder with one subfolder for each class, or a folder with train/, and optionally "
    "validation/ and test/, of such class folders"
)
_SPLIT_OF_FOLDER = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_PASSED_OVER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}  # written by Windows and macOS
_NOT_AN_IMAGE = re.compile(
    r".*\.(txt|csv|tsv|jsonl?|xml|ya?ml|toml|ini|cfg|md|rst|html?|css|js|pdf|docx?|xlsx?|pptx?|odt|ods|py|ipynb|sh|bat|log"
    r"|db|sqlite|parquet|arrow|np[yz]|mat|h5|hdf5|pkl|pth?|onnx|safetensors|zip|tar|t?gz|bz2|xz|7z|rar|mp[34]|mov|avi|mkv"
    r"|webm|wav)",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file that may be an image, before it is opened; `shown` is its path for people, relative where it can be."""

    path: str
    shown: str
    class_name: str
    split: str


@dataclass(frozen=True)
class Scan:
    """What a folder of class folders holds: its classes, files to try, other files, and sentences on what was left."""

    classes: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    stray_files: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Contents:
    """The files below a folder, full paths in sorted order: to be tried, strays, and links to folders."""

    files: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


def existing_folder(source: Path | str) -> Path:
    """The source as an absolute path.

    Raises:
        DataError: it does not exist, or is not a folder.
    """
    path = Path(os.path.abspath(source))  # noqa: PTH100 - resolve() would replace links by where they lead
    if not path.exists():
        raise DataError(f"{path} does not exist. Check the spelling; {FORMS}.")
    if not path.is_dir():
        raise DataError(f"{path} is a file, not a folder. {FORMS}.")
    return path


def split_folders(root: Path) -> list[tuple[Path, str]]:
    """The folders of class folders under `root`, each with its split; the root itself with "" where it gives none.

    Raises:
        DataError: the names of the subfolders do not tell which of the two forms is meant.
    """
    names = _subfolders(root)
    given = [name for name in names if name.casefold() in _SPLIT_OF_FOLDER]
    others = [name for name in names if name not in given]
    train = next((name for name in given if name.casefold() == "train"), None)
    if train is None:
        if given and not others:
            raise DataError(f"{root} holds {_listed(given)} but no train/ folder. {FORMS}.")
        return [(root, "")]
    classes = _subfolders(root / train)
    if not classes and others:
        return [(root, "")]  # "train" is the name of a class, beside others
    if not classes:
        raise no_class_folders(root / train)
    _refuse_doubtful_layout(root, given, others, classes)
    return sorted(((root / name, _SPLIT_OF_FOLDER[name.casefold()]) for name in given), key=lambda part: part[0])


def with_test(parts: list[tuple[Path, str]], folder: Path) -> list[tuple[Path, str]]:
    """The parts of the source, and a folder that is to be the test split: itself, or its test/ beside other splits.

    Raises:
        DataError: there is a test split already, or the folder holds splits but no test/.
    """
    names = _subfolders(folder)
    if names and all(name.casefold() in _SPLIT_OF_FOLDER for name in names):
        inner = [name for name in names if name.casefold() == "test"]
        if not inner:
            raise DataError(f"{folder} holds {_listed(names)} but no test/ folder. Name the folder of test images.")
        folder = folder / inner[0]
    own = [part for part, split in parts if split == "test"]
    if any(part.samefile(folder) for part in own):
        return parts
    if own:
        raise DataError(
            f"There are two test splits, {own[0]} and {folder}. Leave out the second, or move the first away."
        )
    return [*parts, (folder, "test")]


def scan(folder: Path, split: str, root: Path) -> Scan:
    """List the classes of a folder of class folders, and the files of each; nothing is opened.

    Raises:
        DataError: a folder cannot be read, or the name of a class is not valid Unicode.
    """
    classes = _subfolders(folder)
    for name in classes:
        if printable(name) != name:
            raise DataError(
                f"The name of the class folder {printable(str(folder / name))} is not valid Unicode: rename it."
            )
    contents = {name: contents_of(folder / name) for name in classes}
    candidates = tuple(
        Candidate(path, shown(path, root), name, split) for name in classes for path in contents[name].files
    )
    links = _linked_folders(folder) + [path for name in classes for path in contents[name].links]
    strays = tuple(shown(path, root) for name in classes for path in contents[name].strays)
    return Scan(tuple(classes), candidates, strays, (*loose_note(folder, root), *_links_note(links, root)))


def contents_of(folder: Path) -> Contents:
    """List what lies below a folder, at any depth; hidden files and folders are passed over, links not followed.

    Raises:
        DataError: a folder cannot be read.
    """
    contents, waiting = Contents(), [str(folder)]
    while waiting:
        for entry in _entries(waiting.pop()):
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112 - an entry's path is a str
                contents.links.append(entry.path)
            elif _is_stray(entry):
                contents.strays.append(entry.path)
            else:
                contents.files.append(entry.path)
    for paths in (contents.files, contents.strays, contents.links):
        paths.sort()
    return contents


def no_class_folders(folder: Path) -> DataError:
    """The error for a folder in which class folders are missing."""
    links = " (links to folders are not followed)" if _linked_folders(folder) else ""
    return DataError(f"There are no class folders in {printable(str(folder))}{links}. {FORMS}.")


def loose_note(folder: Path, root: Path) -> list[str]:
    """Say which files lie beside the subfolders of a folder, where no class can be told."""
    loose = [shown(entry.path, root) for entry in _entries(str(folder)) if not os.path.isdir(entry.path)]  # noqa: PTH112
    if not loose:
        return []
    where = f"{counted(loose, 'file')} directly in {printable(str(folder))}"
    return [f"{where}, where no class can be told, passed over: {_listed(loose)}."]


def root_notes(root: Path, parts: list[tuple[Path, str]]) -> list[str]:
    """Say what lies beside train/, validation/ and test/ and is passed over."""
    taken = [folder for folder, _ in parts]
    if root in taken:
        return []
    others = [name for name in _subfolders(root) if root / name not in taken]
    note = f"{counted(others, 'folder')} beside the splits in {printable(str(root))} passed over: {_listed(others)}."
    return loose_note(root, root) + ([note] if others else [])


def shown(path: str, root: Path | None) -> str:
    """A path for people: relative to the root where it lies below it, "/" between parts, always valid Unicode."""
    prefix = os.path.join(str(root), "") if root else ""  # noqa: PTH118 - with a separator at its end
    relative = path[len(prefix) :] if prefix and path.startswith(prefix) else path
    return printable(relative.replace(os.sep, "/"))


def printable(name: str) -> str:
    """A file name with the bytes that are not Unicode written out, so that it can be printed and saved."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def counted(items: Sequence[object], noun: str) -> str:
    """How many there are, in words: "1 file", "3 files"."""
    return f"{len(items)} {noun}" + ("" if len(items) == 1 else "s")


def _refuse_doubtful_layout(root: Path, given: list[str], others: list[str], classes: list[str]) -> None:
    splits = [_SPLIT_OF_FOLDER[name.casefold()] for name in given]
    twice = [name for name, split in zip(given, splits, strict=True) if splits.count(split) > 1]
    if twice:
        raise DataError(f"{root} holds {_listed(twice)}, which mean the same split. Keep one, or merge them.")
    alike = [name for name in others if set(_subfolders(root / name)) & set(classes)]
    if alike or (others and len(given) == 1):
        raise DataError(
            f"{root} holds train/, which has class folders, and {_listed(alike or others)} too: splits or classes? "
            "Name splits train, validation and test, and move other folders away."
        )


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """The visible entries of a folder, sorted by name."""
    try:
        with os.scandir(folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".") and e.name.casefold() not in _PASSED_OVER]
    except OSError as error:
        what = f"The folder {printable(folder)} could not be read: {error.strerror or error}."
        raise DataError(f"{what} Check its permissions, or move it away.") from error
    return sorted(visible, key=lambda entry: entry.name)


def _subfolders(folder: Path) -> list[str]:
    return [entry.name for entry in _entries(str(folder)) if entry.is_dir(follow_symlinks=False)]


def _linked_folders(folder: Path) -> list[str]:
    return [e.path for e in _entries(str(folder)) if e.is_symlink() and os.path.isdir(e.path)]  # noqa: PTH112


def _is_stray(entry: os.DirEntry[str]) -> bool:
    """Whether a file is none to be tried: by its extension, or because it is a pipe, a socket or a device."""
    if _NOT_AN_IMAGE.fullmatch(entry.name):
        return True
    return not entry.is_symlink() and not entry.is_file()


def _links_note(links: list[str], root: Path) -> list[str]:
    if not links:
        return []
    return [f"{counted(links, 'link')} to folders not followed: {_listed(shown(path, root) for path in links)}."]


def _listed(names: Iterable[str], most: int = 5) -> str:
    names = [repr(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
