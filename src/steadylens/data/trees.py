"""Trees of files, on the disk or inside an archive: what lies in each folder, and the bytes of each file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from steadylens.data.images import Refusal
from steadylens.data.reading import read_content
from steadylens.files import BEGUN

Read = Callable[[str], bytes | Refusal]
_PASSED_OVER = {"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx"}  # written by Windows and macOS


class Entry(NamedTuple):
    """One thing in a folder: its name, its full path, and what it is.

    A "link" leads to a file or to nothing, a "folder-link" to a folder; a "run" is a folder that a training writes;
    "other" is a pipe, a socket or a device.
    """

    name: str
    path: str
    kind: Literal["folder", "file", "link", "folder-link", "run", "other"]


@dataclass(frozen=True)
class Tree:
    """A folder on the disk, or an archive that is read as if it were one.

    Attributes:
        root: full path of the top folder.
        home: the folder to which paths are relative when they are shown.
        entries: gives the visible entries of a folder, in any order; raises OSError where it cannot be read.
        read: gives a file's bytes, or says why they cannot be had; may be called from many threads.
        refused: files that have no place in the tree: the name of each, and why.
        notes: sentences on what was passed over.
        archive: path of the archive that it is, "" on the disk. Nothing outside of it is to be read by its leave.
    """

    root: str
    home: Path
    entries: Callable[[str], Iterator[Entry]]
    read: Read
    refused: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    archive: str = ""


def disk_tree(folder: Path) -> Tree:
    """The tree of a folder on the disk, whose path is absolute."""
    return Tree(str(folder), folder, _entries_on_disk, read_content)


def is_visible(name: str) -> bool:
    """Whether a file or folder of this name is meant to be seen: not hidden, and no system's own."""
    return not name.startswith(".") and name.casefold() not in _PASSED_OVER


def _entries_on_disk(folder: str) -> Iterator[Entry]:
    with os.scandir(folder) as found:
        for entry in found:
            if not is_visible(entry.name):
                continue
            if entry.is_symlink():
                to_folder = os.path.isdir(entry.path)  # noqa: PTH112 - an entry's path is a str
                yield Entry(entry.name, entry.path, "folder-link" if to_folder else "link")
            elif entry.is_dir(follow_symlinks=False):
                is_run = (Path(entry.path) / BEGUN).is_file()  # what it holds are copies and plots
                yield Entry(entry.name, entry.path, "run" if is_run else "folder")
            else:
                yield Entry(entry.name, entry.path, "file" if entry.is_file(follow_symlinks=False) else "other")
