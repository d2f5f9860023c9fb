"""The only module that writes files: whole or not at all.

A file is written under a temporary name, flushed to the disk, renamed over its
final name, and the folder's entry is flushed too, so that a crash at any moment
leaves either the old file or the new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from steadylens.errors import ResourceError

LOCK = ".lock"  # in a folder that one process at a time may write: left there, since only who holds it counts
_LOCK_TRIES, _LOCK_PAUSE_S = 5, 0.05


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, atomically and durably.

    Raises:
        ResourceError: the disk is full, the folder is read-only, or a quota is reached.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _as_resource_error(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        _flush_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8, atomically and durably."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write `content` as indented JSON; NaN and infinity, which JSON lacks, are refused with a ValueError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append one line to a log file; a line is written with a single call, so that readers never see half of one."""
    with _as_resource_error(path), path.open("ab", buffering=0) as file:
        file.write(line.encode("utf-8") + b"\n")


def make_folder(path: Path) -> None:
    """Create `path` and its parents where they do not exist."""
    with _as_resource_error(path):
        path.mkdir(parents=True, exist_ok=True)


def temporary_folder(prefix: str) -> Path:
    """Create a new, empty folder among the system's temporary files; the caller removes it."""
    with _as_resource_error(Path(tempfile.gettempdir())):
        return Path(tempfile.mkdtemp(prefix=prefix))


def require_space(folder: Path, size_bytes: int) -> None:
    """Make sure that a file of this size fits; writing to a memory-mapped file on a full disk would kill the process.

    Raises:
        ResourceError: it does not fit, with how much is needed and how much is free.
    """
    free = shutil.disk_usage(folder).free
    if size_bytes > free:
        figures = f"{size_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free"
        raise ResourceError(f"There is too little space in {folder}: {figures}. Free some or choose another place.")


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it; what is not there is fine."""
    with _as_resource_error(path):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def rename(path: Path, target: Path) -> None:
    """Give a file or a folder its final name, durably."""
    with _as_resource_error(target):
        path.replace(target)
        _flush_folder(target.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder within the `with` block; the system lets go of it however the process ends.

    Raises:
        ResourceError: another process holds it, or the folder is on a file system that has no locks.
    """
    path = folder / LOCK
    with _as_resource_error(path), path.open("ab") as file:
        if not _taken(file):
            raise ResourceError(
                f"Another process is working in {folder}. Wait until it has ended, or choose another folder."
            )
        yield


def is_locked(folder: Path) -> bool:
    """Whether a process holds the lock of a folder at this moment."""
    try:
        file = (folder / LOCK).open("rb")
    except OSError:
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # no locks here, so nobody holds one
            return False
    return False


def create_array(path: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> np.memmap[Any, np.dtype[Any]]:
    """Create a `.npy` file of the given shape and return it memory-mapped for writing; the caller flushes it."""
    with _as_resource_error(path):
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def sha256(content: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def sha256_of_file(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _taken(file: IO[bytes]) -> bool:
    """Try to take a lock, for a moment: whoever asks `is_locked` holds it for an instant."""
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_LOCK_PAUSE_S)
        else:
            return True
    return False


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _as_resource_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{path} could not be written: {error.strerror or error}."
        raise ResourceError(
            f"{what} Free some space or choose another place, and run the same command again."
        ) from error
