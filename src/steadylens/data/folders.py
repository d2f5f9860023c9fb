"""Trees of images: which of their folders are splits and classes, and which files are to be tried."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from steadylens.data.trees import Entry, Read, Tree
from steadylens.errors import DataError

FORMS = (
    "steadylens reads a folder with one subfolder for each class; a folder with train/, and optionally validation/ "
    "and test/, of such class folders; a CSV, TSV or Parquet manifest with the columns path and label; and a .tar or "
    ".zip of any of these"
)
_SPLIT_OF_FOLDER = {"train": "train", "validation": "validation", "val": "validation", "test": "test"}
_LIKE_A_SPLIT = re.compile(r"train(ing)?|valid(ation)?|val|dev|eval(uation)?|test(ing)?", re.IGNORECASE)
_FOLDERS = {"folder", "folder-link", "run"}
_NOT_AN_IMAGE = re.compile(
    r".*\.(txt|csv|tsv|jsonl?|xml|ya?ml|toml|ini|cfg|md|rst|html?|css|js|pdf|docx?|xlsx?|pptx?|odt|ods|py|ipynb|sh|bat|log"
    r"|db|sqlite|parquet|arrow|np[yz]|mat|h5|hdf5|pkl|pth?|onnx|safetensors|zip|tar|t?gz|bz2|xz|7z|rar|mp[34]|mov|avi|mkv"
    r"|webm|wav)",
    re.IGNORECASE | re.DOTALL,
)


class Candidate(NamedTuple):
    """What may be an image, before it is opened; `refusal` says why it is not even to be opened, "" if it is."""

    path: str
    class_name: str
    split: str = ""
    group: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class Scan:
    """What a source holds, before any image is opened.

    Attributes:
        home: the folder to which paths are relative when they are shown; `where` names the source in messages.
        archives: what reads the members of each archive, by its path; all else lies on the disk.
        classes: the splits in which each class occurs ("" for none given), by name, in the order of the labels.
        candidates: files to try, in the order of the index.
        stray_files: full paths of files that are no images, by their extension.
        notes: sentences on what was left out.
    """

    home: Path
    where: str
    archives: dict[str, Read]
    classes: dict[str, set[str]]
    candidates: list[Candidate]
    stray_files: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Contents:
    """What lies below a folder: files to be tried, those of them that are links, strays, what is not entered, refusals.

    Not entered are links to folders, and the folders of runs.
    """

    files: list[str] = field(default_factory=list)
    file_links: list[str] = field(default_factory=list)
    strays: list[str] = field(default_factory=list)
    folder_links: list[str] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)


def scan_tree(tree: Tree, *, needs_train: bool = True, found: Callable[[int], None] = lambda _count: None) -> Scan:
    """List the classes of a tree, in splits or not, and the files of each by class and path; nothing is opened.

    `found` is told how many files were found so far. Without `needs_train`, a tree of a test/ alone will do.

    Raises:
        DataError: it has no class folders, the names do not tell splits from classes, its top folder or a
            split's cannot be read, or the name of a class is not valid Unicode.
    """
    parts = _split_folders(tree, needs_train)
    scan = Scan(tree.home, printable(tree.root), archives_of(tree), {}, [])
    scan.notes.extend((*tree.notes, *_beside_splits(tree, parts)))
    scan.candidates.extend(Candidate(f"{tree.root}/{name}", "", refusal=reason) for name, reason in tree.refused)
    file_links: set[str] = set()
    runs = set(_of_kind(tree, tree.root, "run"))
    for folder, split in parts:
        links = _of_kind(tree, folder, "folder-link")
        runs.update(_of_kind(tree, folder, "run"))
        for name, path in _subfolders(tree, folder).items():
            _require_unicode(path)
            scan.classes.setdefault(name, set()).add(split)
            contents = contents_of(tree, path)
            scan.candidates.extend(Candidate(path, name, split) for path in contents.files)
            scan.candidates.extend(Candidate(path, name, split, refusal=why) for path, why in contents.unreadable)
            scan.stray_files.extend(contents.strays)
            file_links.update(contents.file_links)
            links += contents.folder_links
            runs.update(contents.runs)
            found(len(scan.candidates))
        scan.notes.extend((*loose_note(tree, folder), *_links_note(links, "to folders not followed", tree)))
    scan.notes.extend(_runs_note(runs, tree))
    scan.candidates.sort(key=attrgetter("path"))
    scan.candidates.sort(key=attrgetter("class_name"))
    scan.stray_files.sort()
    scan = replace(scan, classes=dict(sorted(scan.classes.items())))
    return _each_file_once(scan, file_links, tree)


def contents_of(tree: Tree, folder: str) -> Contents:
    """List what lies below a folder, at any depth, in no order; links to folders and runs are not entered."""
    contents, waiting = Contents(), [folder]
    while waiting:
        path = waiting.pop()
        try:
            for entry in tree.entries(path):
                if entry.kind == "folder":
                    waiting.append(entry.path)
                elif entry.kind == "folder-link":
                    contents.folder_links.append(entry.path)
                elif entry.kind == "run":
                    contents.runs.append(entry.path)
                elif is_stray(entry):
                    contents.strays.append(entry.path)
                else:
                    contents.files.append(entry.path)
                    if entry.kind == "link":
                        contents.file_links.append(entry.path)
        except OSError as error:  # no permission, or it vanished meanwhile: the rest can be read
            why = f"a folder that could not be read: {error.strerror or error}. Whatever it holds is missing"
            contents.unreadable.append((path, why))
    return contents


def archives_of(tree: Tree) -> dict[str, Read]:
    """What reads the members of an archive, by its path; nothing for a tree on the disk."""
    return {tree.archive: tree.read} if tree.archive else {}


def unwrapped(tree: Tree) -> Tree:
    """The tree of the one folder in which everything lies; the tree itself where there is no such folder.

    A folder with no folders and no manifest in it is a class, and one named as a split is a split.
    """
    top = _entries(tree, tree.root)
    folders = [entry for entry in top if entry.kind == "folder"]
    if len(folders) != 1 or folders[0].name.casefold() in _SPLIT_OF_FOLDER:
        return tree
    if not all(entry.kind in ("folder", "run") or is_stray(entry) for entry in top):
        return tree
    inner = _entries(tree, folders[0].path)
    if not any(entry.kind == "folder" or is_tabular(entry.name) for entry in inner):
        return tree
    note = f"All of {printable(tree.root)} lies in its folder {printable(folders[0].name)!r}, which is read."
    return replace(tree, root=folders[0].path, notes=(*tree.notes, note, *loose_note(tree, tree.root)))


def tables_in(tree: Tree) -> list[str]:
    """The paths of the files directly in a tree that may be manifests, by their extension."""
    return [entry.path for entry in _entries(tree, tree.root) if entry.kind == "file" and is_tabular(entry.name)]


def is_tabular(name: str) -> bool:
    """Whether a file is a table, by its extension."""
    return name.casefold().endswith((".csv", ".tsv", ".parquet"))


def is_stray(entry: Entry) -> bool:
    """Whether a file is none to be tried: by its extension, or because it is a pipe, a socket or a device."""
    return entry.kind == "other" or _NOT_AN_IMAGE.fullmatch(entry.name) is not None


def loose_note(tree: Tree, folder: str) -> list[str]:
    """Say which files lie beside the subfolders of a folder, where no class can be told."""
    loose = [shown(e.path, tree.home) for e in _entries(tree, folder) if e.kind not in _FOLDERS]
    if not loose:
        return []
    where = f"{counted(loose, 'file')} directly in {printable(folder)}"
    return [f"{where}, where no class can be told, passed over: {listed(loose)}."]


def no_class_folders(tree: Tree, folder: str) -> DataError:
    """The error for a folder in which class folders are missing."""
    links = " (links to folders are not followed)" if _of_kind(tree, folder, "folder-link") else ""
    return DataError(f"There are no class folders in {printable(folder)}{links}. {FORMS}.")


def shown(path: str, home: Path | None) -> str:
    """A path for people: relative to `home` where it lies below it, "/" between parts, always valid Unicode."""
    prefix = os.path.join(str(home), "") if home else ""  # noqa: PTH118 - with a separator at its end
    relative = path[len(prefix) :] if prefix and path.startswith(prefix) else path
    return printable(relative.replace(os.sep, "/"))


def printable(name: str) -> str:
    """A file name with the bytes that are not Unicode written out, so that it can be printed and saved."""
    return name if name.isascii() else name.encode("utf-8", "backslashreplace").decode("utf-8")


def is_unicode(name: str) -> bool:
    """Whether a file name is valid Unicode, as reports and other files of text need it."""
    return printable(name) == name


def counted(items: Sequence[object], noun: str) -> str:
    """How many there are, in words: "1 file", "3 files"."""
    return f"{len(items)} {noun}" + ("" if len(items) == 1 else "s")


def listed(names: Iterable[str], most: int = 5) -> str:
    """The first few names, in quotes, and how many more there are."""
    names = [repr(printable(name)) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _split_folders(tree: Tree, needs_train: bool) -> list[tuple[str, str]]:
    """The folders of class folders, each with its split; the top folder itself with "" where there are no splits."""
    folders = _subfolders(tree, tree.root)
    given = {name: path for name, path in folders.items() if name.casefold() in _SPLIT_OF_FOLDER}
    links = _of_kind(tree, tree.root, "folder-link")
    linked = [link for link in links if Path(link).name.casefold() in _SPLIT_OF_FOLDER]
    if given and linked:
        raise DataError(
            f"{listed(shown(link, tree.home) for link in linked)} in {printable(tree.root)}: links to folders are not "
            "followed, and so a split would be missing. Put the folders themselves there, or name one by --test."
        )
    others = {name: path for name, path in folders.items() if name not in given}
    parts = [(path, _SPLIT_OF_FOLDER[name.casefold()]) for name, path in given.items()]
    train = next((path for path, split in parts if split == "train"), None)
    if train is None:
        _refuse_splits_as_classes(tree, folders)
        if not given or others:
            return _class_folders(tree, folders)
        if needs_train or all(split != "test" for _, split in parts):
            raise DataError(f"{printable(tree.root)} holds {listed(given)} but no train/ folder. {FORMS}.")
        return parts
    classes = _subfolders(tree, train)
    if not classes and others:
        return [(tree.root, "")]  # "train" is the name of a class, beside others
    if not classes:
        raise no_class_folders(tree, train)
    _refuse_doubtful_layout(tree, given, others, set(classes))
    return parts


def _refuse_splits_as_classes(tree: Tree, folders: dict[str, str]) -> None:
    """Raise a DataError where folders of splits would be taken for classes: by their names and what is in them."""
    inside = {name: _names_if_readable(tree, path) for name, path in folders.items() if _LIKE_A_SPLIT.fullmatch(name)}
    all_alike = len(folders) > 1 and len(inside) == len(folders) and all(inside.values())
    alike = [name for name, names in inside.items() if names & (set(folders) - {name}) or all_alike]
    if alike and any(_SPLIT_OF_FOLDER.get(name.casefold()) is None for name in folders):
        raise DataError(
            f"{printable(tree.root)} holds {listed(alike)} with folders of classes in them: splits or classes? Name "
            "splits train, validation and test, and keep them apart from classes."
        )


def _class_folders(tree: Tree, folders: dict[str, str]) -> list[tuple[str, str]]:
    if not folders:
        raise no_class_folders(tree, tree.root)
    return [(tree.root, "")]


def _refuse_doubtful_layout(tree: Tree, given: dict[str, str], others: dict[str, str], classes: set[str]) -> None:
    splits = [_SPLIT_OF_FOLDER[name.casefold()] for name in given]
    twice = [name for name, split in zip(given, splits, strict=True) if splits.count(split) > 1]
    root = printable(tree.root)
    if twice:
        raise DataError(f"{root} holds {listed(twice)}, which mean the same split. Keep one, or merge them.")
    alike = [name for name, path in others.items() if classes & _names_if_readable(tree, path)]
    if alike or (others and len(given) == 1):
        raise DataError(
            f"{root} holds train/, which has class folders, and {listed(alike or others)} too: splits or classes? "
            "Name splits train, validation and test, and move other folders away."
        )


def _each_file_once(scan: Scan, links: set[str], tree: Tree) -> Scan:
    """Leave out links to what is in the same class and split anyway; other links are files like any other."""
    if not links:
        return scan
    top = os.path.realpath(tree.root)
    real = {
        c.path: os.path.realpath(c.path) if c.path in links else top + c.path[len(tree.root) :] for c in scan.candidates
    }  # no folder between the top one and a file is a link
    taken = {(real[c.path], c.class_name, c.split) for c in scan.candidates if c.path not in links}
    kept, again = [], []
    for candidate in scan.candidates:
        what = (real[candidate.path], candidate.class_name, candidate.split)
        if candidate.path in links and what in taken:
            again.append(candidate.path)
        else:
            taken.add(what)
            kept.append(candidate)
    note = _links_note(again, "to files that are in the same class anyway passed over", tree)
    return replace(scan, candidates=kept, notes=[*scan.notes, *note])


def _beside_splits(tree: Tree, parts: list[tuple[str, str]]) -> list[str]:
    """Say what lies beside train/, validation/ and test/ and is passed over."""
    taken = [folder for folder, _ in parts]
    if tree.root in taken:
        return []
    others = [name for name, path in _subfolders(tree, tree.root).items() if path not in taken]
    note = f"{counted(others, 'folder')} beside the splits in {printable(tree.root)} passed over: {listed(others)}."
    links = _links_note(_of_kind(tree, tree.root, "folder-link"), "to folders not followed", tree)
    return loose_note(tree, tree.root) + ([note] if others else []) + links


def _entries(tree: Tree, folder: str) -> list[Entry]:
    """The visible entries of a folder that has to be read, by name."""
    try:
        return sorted(tree.entries(folder))
    except OSError as error:
        what = f"The folder {printable(folder)} could not be read: {error.strerror or error}."
        raise DataError(f"{what} Check its permissions, or move it away.") from error


def _subfolders(tree: Tree, folder: str) -> dict[str, str]:
    """The paths of the folders in a folder, by name."""
    return {entry.name: entry.path for entry in _entries(tree, folder) if entry.kind == "folder"}


def _names_if_readable(tree: Tree, folder: str) -> set[str]:
    try:
        return set(_subfolders(tree, folder))
    except DataError:  # it is refused when its files are listed
        return set()


def _of_kind(tree: Tree, folder: str, kind: str) -> list[str]:
    """The paths of the entries of one kind that are directly in a folder."""
    return [entry.path for entry in _entries(tree, folder) if entry.kind == kind]


def _require_unicode(path: str) -> None:
    if not is_unicode(path):
        raise DataError(f"The name of the class folder {printable(path)} is not valid Unicode: rename it.")


def _runs_note(runs: set[str], tree: Tree) -> list[str]:
    if not runs:
        return []
    which = listed(shown(path, tree.home) for path in sorted(runs))
    return [f"{counted(list(runs), 'folder')} of a training passed over, whose images are copies and plots: {which}."]


def _links_note(links: list[str], rest: str, tree: Tree) -> list[str]:
    if not links:
        return []
    return [f"{counted(links, 'link')} {rest}: {listed(shown(path, tree.home) for path in sorted(links))}."]
