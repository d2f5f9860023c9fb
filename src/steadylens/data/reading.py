"""Reading many files at once: their bytes, in order, on all processors, within bounded memory."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from steadylens.data.images import Refusal

# More bytes than an uncompressed 64-bit image at the pixel ceiling has; a video or a disk image has more.
CONTENT_CEILING = 2**31
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def read_content(path: str | Path) -> bytes | Refusal:
    """Read a file's bytes, or say why they cannot be had; never raises, and never waits on a pipe."""
    try:
        with open(path, "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                return Refusal("could not be opened: not a regular file")
            if status.st_size > CONTENT_CEILING:
                return Refusal("too large: more than 2 GiB")
            return file.read()
    except OSError as error:
        return Refusal(f"could not be opened: {error.strerror or error}")
    except (ValueError, MemoryError) as error:  # a null character in the name; no room for the bytes
        return Refusal(f"could not be opened: {error or 'not enough memory'}")


def read_from(archives: Mapping[str, Callable[[str], bytes | Refusal]], path: str) -> bytes | Refusal:
    """Read a file's bytes, from one of some archives (by their paths) where it lies in one, else from the disk."""
    for archive, read in archives.items():
        if path.startswith(archive + os.sep):
            return read(path)
    return read_content(path)


def in_threads(function: Callable[[_Item], _Result], items: Sequence[_Item], *, piece: int = 16) -> Iterator[_Result]:
    """Yield `function` of every item, in order, computed on all processors a `piece` of items at a time.

    Only a few pieces wait to be taken, whatever the number of items. Reading, hashing and Pillow's
    decoding all release the interpreter lock. An interruption is not held up by a read that does not end.
    """
    threads = os.cpu_count() or 1
    waiting: deque[Future[list[_Result]]] = deque()
    pool = ThreadPoolExecutor(threads)
    try:
        for start in range(0, len(items), piece):
            waiting.append(pool.submit(_apply, function, items[start : start + piece]))
            if len(waiting) > threads + 2:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _apply(function: Callable[[_Item], _Result], items: Sequence[_Item]) -> list[_Result]:
    return [function(item) for item in items]


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
