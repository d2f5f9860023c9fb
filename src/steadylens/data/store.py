"""Every image decoded once: pixels in one memory-mapped array, kept in a cache and shared by all that read them.

A store in the cache is a folder named after what it holds, with `pixels.npy` and `rows.json`. It is
built under another name and renamed when it is whole, so that a crash never leaves half a store
under its final name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
import uuid
import weakref
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray

from steadylens import files
from steadylens.data import forks, images
from steadylens.data.images import Refusal
from steadylens.data.reading import in_threads
from steadylens.data.sources import ImageIndex, drop_refused
from steadylens.errors import ResourceError

# Part of every key: raise the number when the same bytes come to give other pixels. Pillow's version stands for
# its decoders and its resize.
_DECODER = f"1, Pillow {PIL.__version__}"
_ADVANCE_EVERY = 64  # images between two reports of progress
# From so many images on, forked processes gain more than they cost: some hundredths of a second to start.
_MANY_IMAGES = 1024
_ROWS_AT_ONCE = 256  # when rows are moved
FEATURES = "features.npy"  # in a folder of its own in the cache: what a backbone said of some pixels
_UNFINISHED = ".unfinished-"
_UNFINISHED_LIFE_S = 24 * 3600.0  # a store that is still unfinished after a day was left behind by a crash


@dataclass(frozen=True)
class Store:
    """Decoded images: row i of `pixels` (n, image_size, image_size, 3), read-only, is image i of `index`.

    `index` holds only what was decoded, and all refusals. `seconds` were spent on decoding: 0.0
    when the store was found in the cache. `folder` is where the pixels lie; without a cache it is
    removed with the store.
    """

    pixels: NDArray[np.uint8]
    index: ImageIndex
    image_size: int
    seconds: float
    folder: Path


def decode(
    index: ImageIndex,
    image_size: int,
    *,
    cache: Path | None,
    fit: str = "squash",
    interpolation: str = "bicubic",
    advance: Callable[[int, int], None] | None = None,
) -> Store:
    """Decode every image of the index at image_size x image_size, or find them decoded in `cache`.

    `fit` and `interpolation` are those of `images.Preprocessing`.

    Files are read again; one whose content is not what was indexed is refused, as is one that
    cannot be decoded. `advance` is called with how many images are done and how many there are.
    Without a cache the pixels lie in a temporary folder.

    Raises:
        DataError: fewer than two classes have images that can be decoded.
        ResourceError: the pixels do not fit on the disk, or cannot be written.
    """
    how = {"fit": fit, "interpolation": interpolation}
    if cache is None:
        folder = files.temporary_folder("steadylens-")
        try:
            return _removed_with_it(_build(index, image_size, how, folder, advance)[0])
        except BaseException:
            files.remove(folder)
            raise
    folder = cache / _key(index, image_size, how)
    store_found = _cached(index, image_size, folder)
    if store_found is not None:
        if advance is not None:
            advance(len(index), len(index))
        return store_found
    return _build_in_cache(index, image_size, how, folder, advance)


def cache_folder() -> Path:
    """Where stores are kept: $STEADYLENS_CACHE, else $XDG_CACHE_HOME/steadylens, else ~/.cache/steadylens."""
    own, shared = os.environ.get("STEADYLENS_CACHE"), os.environ.get("XDG_CACHE_HOME")
    if own:
        return Path(own)
    return (Path(shared) if shared else Path.home() / ".cache") / "steadylens"


def prune(cache: Path, ceiling_bytes: int, *, keep: Collection[Path] = ()) -> tuple[Path, ...]:
    """Remove the least recently used stores until all together take at most `ceiling_bytes`; return what went.

    Features, which stand for stores that were looked at by a backbone, count as stores. Folders in
    `keep` (a store's `folder`) are never removed. What a crash left unfinished goes as well, a day
    later. Nothing else is touched.
    """
    if not cache.is_dir():
        return ()
    stores = [path for path in cache.iterdir() if _is_store(path) and not _is_unfinished(path)]
    used, sizes = dict[Path, float](), dict[Path, int]()
    for path in stores:
        with suppress(FileNotFoundError):  # another run removes stores too
            used[path] = path.stat().st_mtime
            sizes[path] = sum(file.stat().st_size for file in path.iterdir())
    oldest_first = sorted(sizes, key=used.__getitem__)
    removed = [path for path in cache.iterdir() if _is_unfinished(path) and _age_s(path) > _UNFINISHED_LIFE_S]
    total = sum(sizes.values())
    for path in oldest_first:
        if total > ceiling_bytes and path not in keep:
            removed.append(path)
            total -= sizes[path]
    for path in removed:
        files.remove(path)
    files.remove_leftovers(cache, older_than_s=_UNFINISHED_LIFE_S)
    return tuple(removed)


def _key(index: ImageIndex, image_size: int, how: Mapping[str, str]) -> str:
    """Names a store after all that determines its pixels: the decoder, the resize, and the contents in order."""
    what = json.dumps([_DECODER, index.arrays is None, image_size, how, index.sha256])
    return hashlib.sha256(what.encode()).hexdigest()


def _build_in_cache(
    index: ImageIndex,
    image_size: int,
    how: Mapping[str, str],
    folder: Path,
    advance: Callable[[int, int], None] | None,
) -> Store:
    """Build under another name, then rename; where another process was first, its store stays, and ours is as good."""
    unfinished = folder.with_name(f"{_UNFINISHED}{uuid.uuid4().hex}")
    files.make_folder(unfinished)
    try:
        store, lasting = _build(index, image_size, how, unfinished, advance)
        if lasting:
            _rename_unless_there(unfinished, folder)
    except BaseException:
        files.remove(unfinished)
        raise
    if not lasting:  # a file that could not be read today may be readable tomorrow
        return _removed_with_it(store)
    files.remove(unfinished)
    return replace(store, folder=folder)


def _rename_unless_there(unfinished: Path, folder: Path) -> None:
    try:
        files.rename(unfinished, folder)
    except ResourceError:
        if not folder.is_dir():
            raise


def _removed_with_it(store: Store) -> Store:
    weakref.finalize(store, files.remove, store.folder)
    return store


def _build(
    index: ImageIndex,
    image_size: int,
    how: Mapping[str, str],
    folder: Path,
    advance: Callable[[int, int], None] | None,
) -> tuple[Store, bool]:
    """Decode into `folder`; the rows of refused images, at the end of the array, stay unused.

    The second value says whether the outcome is the same for the same contents: not so where a file
    could not be read, or had changed.
    """
    started = time.perf_counter()
    shape = (len(index), image_size, image_size, 3)
    files.require_space(folder, math.prod(shape))
    pixels = files.create_array(folder / "pixels.npy", shape, np.uint8)
    refused: dict[int, str] = {}
    lasting = True
    with images.warnings_silenced():
        for row, (reason, as_indexed) in enumerate(_decode_all(index, image_size, how, pixels)):
            lasting &= as_indexed
            if reason:
                refused[row] = reason
            if advance is not None and ((row + 1) % _ADVANCE_EVERY == 0 or row + 1 == len(index)):
                advance(row + 1, len(index))
    left = drop_refused(index, refused)
    _close_gaps(pixels, sorted(refused))
    files.flush_array(pixels)
    filled = len(left)
    files.write_json(folder / "rows.json", {"filled": filled, "refused": {str(row): refused[row] for row in refused}})
    return Store(_mapped(folder, shape, filled), left, image_size, time.perf_counter() - started, folder), lasting


def _decode_all(
    index: ImageIndex, image_size: int, how: Mapping[str, str], pixels: NDArray[np.uint8]
) -> Iterable[tuple[str, bool]]:
    """Decode every image into its row of `pixels`, and yield what `_decode_row` says of each, in order."""
    function = partial(_decode_row, index, image_size, how, pixels)
    processes = forks.processors()
    if index.arrays is None and processes > 1 and len(index) >= _MANY_IMAGES:
        # Of a small image, most of the time goes into Python code, of which only one thread runs at a time.
        return forks.in_forks(function, index.paths, doing="decoding", processes=processes)
    return in_threads(function, range(len(index)))


def _decode_row(
    index: ImageIndex, image_size: int, how: Mapping[str, str], pixels: NDArray[np.uint8], row: int
) -> tuple[str, bool]:
    """Why an image is refused ("" if it is not), and whether it would be the next time too.

    Not so where its content was not read or is not the one that was indexed, or where memory was short.
    """
    if index.arrays is not None:
        pixels[row] = images.fit_array(index.arrays[row], image_size, **how)
        return "", True
    content = index.read(index.paths[row])
    if isinstance(content, Refusal):
        return content.reason, False
    if files.sha256(content) != index.sha256[row]:
        return "changed while being read", False
    image = images.decode(content, image_size, **how)
    if isinstance(image, Refusal):
        return image.reason, image != images.NO_MEMORY
    pixels[row] = image
    return "", True


def _close_gaps(pixels: NDArray[np.uint8], refused: list[int]) -> None:
    """Move images up over the rows of those that were refused, a few at a time."""
    filled = refused[0] if refused else len(pixels)
    for gap, next_gap in pairwise([*refused, len(pixels)]):
        for start in range(gap + 1, next_gap, _ROWS_AT_ONCE):
            moved = pixels[start : min(start + _ROWS_AT_ONCE, next_gap)]
            pixels[filled : filled + len(moved)] = moved
            filled += len(moved)


def _cached(index: ImageIndex, image_size: int, folder: Path) -> Store | None:
    """The store in `folder`, or None where there is none; one that is damaged is removed, to be built again."""
    if not folder.is_dir():
        return None
    try:
        rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        filled, refused = int(rows["filled"]), {int(row): str(reason) for row, reason in rows["refused"].items()}
        pixels = _mapped(folder, (len(index), image_size, image_size, 3), filled)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        files.remove(folder)
        return None
    with suppress(OSError):  # a cache that is read-only can still be used; its order of use is not needed then
        os.utime(folder)
    return Store(pixels, drop_refused(index, refused), image_size, 0.0, folder)


def _mapped(folder: Path, shape: tuple[int, ...], filled: int) -> NDArray[np.uint8]:
    """Map the pixels read-only, as a plain array.

    Raises:
        ValueError: the file is not an array of this shape.
    """
    pixels = np.load(folder / "pixels.npy", mmap_mode="r", allow_pickle=False)
    if pixels.shape != shape or pixels.dtype != np.uint8 or not 0 <= filled <= len(pixels):
        raise ValueError(f"{folder} holds {pixels.dtype} of shape {pixels.shape} instead of {shape}")
    return np.asarray(pixels)[:filled]


def _is_store(path: Path) -> bool:
    return (path / "rows.json").is_file() or (path / FEATURES).is_file()


def _is_unfinished(path: Path) -> bool:
    return path.name.startswith(_UNFINISHED)


def _age_s(path: Path) -> float:
    return time.time() - path.stat().st_mtime
