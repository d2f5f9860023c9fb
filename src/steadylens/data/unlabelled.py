"""Images without labels, to predict on: which files some arguments name."""

from __future__ import annotations

import glob
from collections.abc import Callable, Sequence
from pathlib import Path

from steadylens.data.folders import contents_of, counted, listed
from steadylens.data.trees import disk_tree
from steadylens.errors import DataError


def find_images(arguments: Sequence[str], say: Callable[[str], None] = lambda _note: None) -> list[Path]:
    """List the image files that some arguments name: files, folders (with all below them) and glob patterns.

    They come in the order of the arguments, those of a folder or a pattern sorted. `say` is told what is passed over
    in a folder: files that are no images by their extension, links to folders, and the folders of runs.

    Raises:
        DataError: an argument names nothing, or a folder or a pattern without images.
    """
    return [path for argument in arguments for path in _found(argument, say)]


def _found(argument: str, say: Callable[[str], None]) -> list[Path]:
    path = Path(argument)
    if path.is_dir():
        found = _below(path, say)
    elif path.exists() or not glob.has_magic(argument):
        found = [path]
    else:
        found = [Path(name) for name in sorted(glob.glob(argument, recursive=True)) if not Path(name).is_dir()]  # noqa: PTH207
        if not found:
            raise DataError(f"No file matches {argument!r}. Check the pattern.")
    if not found[0].exists() and not found[0].is_symlink():
        raise DataError(f"{path} does not exist. Check the spelling.")
    return found


def _below(folder: Path, say: Callable[[str], None]) -> list[Path]:
    contents = contents_of(disk_tree(folder), str(folder))
    if contents.unreadable:
        raise DataError(f"{contents.unreadable[0][0]} is {contents.unreadable[0][1]}. Check its permissions.")
    for paths, noun, why in (
        (contents.strays, "file", "not an image by its extension"),
        (contents.folder_links, "link", "links to folders are not followed"),
        (contents.runs, "folder", "written by a training"),
    ):
        if paths:
            say(f"{counted(paths, noun)} passed over, {why}: {listed(sorted(paths))}.")
    if not contents.files:
        raise DataError(f"There are no images in {folder}. Name a folder that has some, or the images themselves.")
    return [Path(name) for name in sorted(contents.files)]
