"""The only module that writes files: whole or not at all.

A file is written under a temporary name, flushed to the disk, renamed over its
final name, and the folder's entry is flushed too, so that a crash at any moment
leaves either the old file or the new one.

All that changes the disk goes through the short functions at the end, which do
one thing each; tests make them fail, one call after another.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import io
import json
import math
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from steadylens.errors import ResourceError

BEGUN = Path("checkpoints", "begun.json")  # in the folder of every run, from its first moment on
LOCK = ".lock"  # in a folder that one process at a time may write: left there, since only who holds it counts
_LOCK_TRIES, _LOCK_PAUSE_S = 5, 0.05
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")
_FULL = {errno.ENOSPC, errno.EDQUOT}
# What a file system says to something that it does not have, such as flushing a folder over some networks.
_NO_SUCH_THING = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, atomically and durably.

    Where it fails before the rename, the old content is there; after it, when only the folder's entry could not be
    flushed, the new one. A process that is killed may leave a temporary file: see `remove_leftovers`.

    Raises:
        ResourceError: the disk is full, the folder is read-only, or a quota is reached.
    """
    # A name of its own for every call: two threads, or two machines, may write the same file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with _as_resource_error(path):
        try:
            with _open(temporary, "xb") as file:
                _write_all(file, content)
                _fsync(file)
            _rename(temporary, path)
        except BaseException:
            with suppress(OSError):
                _unlink(temporary)
            raise
        _sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """Write `content` as UTF-8, atomically and durably."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write `content` as indented JSON; NaN and infinity, which JSON lacks, are refused with a ValueError."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append one line to a log file, durably: it is there as a whole or not at all.

    What a killed process left of a last line is taken away first.

    Raises:
        ResourceError: it could not be written; the log is as it was before.
    """
    with _as_resource_error(path), _open(path, "a+b") as file:
        whole = _length_of_whole_lines(file)
        try:
            if whole != file.seek(0, os.SEEK_END):
                _cut(file, whole)
            _write_all(file, line.encode("utf-8") + b"\n")
            _fsync(file)
            if not whole:  # the file may be new
                _sync_folder(path.parent)
        except BaseException:
            _cut(file, whole)
            raise


def make_folder(path: Path) -> None:
    """Create `path` and its parents where they do not exist."""
    with _as_resource_error(path):
        _mkdir(path)


def temporary_folder(prefix: str) -> Path:
    """Create a new, empty folder among the system's temporary files; the caller removes it."""
    with _as_resource_error(Path(tempfile.gettempdir())):
        return _make_temporary(prefix)


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
    with _as_resource_error(path, "removed"):
        if path.is_dir() and not path.is_symlink():
            _remove_tree(path)
        else:
            _unlink(path)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder where nothing is in it."""
    with suppress(OSError):
        _remove_empty(folder)


def remove_leftovers(folder: Path, *, older_than_s: float = 0.0) -> tuple[Path, ...]:
    """Remove the temporary files that killed processes left in a folder and below it; return which they were.

    Any other process that writes there at the same time would lose a file: hold the folder's lock, or take only
    those that were written so long ago.
    """
    found = [Path(place, name) for place, _, names in os.walk(folder) for name in names if _TEMPORARY.fullmatch(name)]
    left = tuple(path for path in found if time.time() - path.lstat().st_mtime >= older_than_s)
    for path in left:
        remove(path)
    return left


def rename(path: Path, target: Path) -> None:
    """Give a file or a folder its final name, durably."""
    with _as_resource_error(target):
        _rename(path, target)
        _sync_folder(target.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder within the `with` block; the system lets go of it however the process ends.

    Raises:
        ResourceError: another process holds it, or the folder is on a file system that has no locks.
    """
    path = folder / LOCK
    with ExitStack() as held:
        with _as_resource_error(path):
            file = held.enter_context(_open(path, "ab"))
        try:
            taken = _taken(file) and _is_still(path, file)
        except OSError as error:
            raise ResourceError(
                f"{folder} is on a file system that has no locks ({error.strerror}), so nothing keeps a second process "
                "out of it. Choose another folder."
            ) from error
        if not taken:
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
    """Create a `.npy` file of the given shape, mapped into memory for writing; `flush_array` brings it to the disk.

    Its space is taken now: writing to a mapped file on a disk that is full would kill the process.

    Raises:
        ResourceError: there is not so much space, or the file cannot be written.
    """
    header = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    with _as_resource_error(path):
        try:
            with _open(path, "xb") as file:
                _write_all(file, header.getvalue())
                _reserve(file, len(header.getvalue()) + math.prod(shape) * np.dtype(dtype).itemsize)
            return np.lib.format.open_memmap(path, mode="r+")
        except BaseException:
            with suppress(OSError):
                _unlink(path)
            raise


def flush_array(array: np.memmap[Any, np.dtype[Any]]) -> None:
    """Bring what was written into an array of `create_array` to the disk.

    Raises:
        ResourceError: the disk does not take it.
    """
    with _as_resource_error(Path(str(array.filename))):
        _sync_map(array)


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


def _is_still(path: Path, file: IO[bytes]) -> bool:
    """Whether a file is the one that its name stands for: who held the lock may have removed it meanwhile."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _length_of_whole_lines(file: IO[bytes]) -> int:
    """How many bytes of a log there are up to the end of its last whole line."""
    end = file.seek(0, os.SEEK_END)
    file.seek(max(0, end - 1))
    if file.read(1) in (b"", b"\n"):
        return end
    file.seek(0)
    return file.read().rfind(b"\n") + 1


def _write_all(file: IO[bytes], content: bytes) -> None:
    """Write until all is written: the system takes 2 GiB at a time at most, and less where the disk is nearly full."""
    left = memoryview(content)
    while left:
        left = left[_write(file, left) :]


@contextmanager
def _as_resource_error(path: Path, what: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = "Free some space" if error.errno in _FULL else "Make sure that it can be written to"
        raise ResourceError(
            f"{path} could not be {what}: {error.strerror or error}. "
            f"{advice} or choose another place, and run the same command again."
        ) from error


def _open(path: Path, mode: str) -> IO[bytes]:
    return path.open(mode, buffering=0)  # what is written is written at once


def _write(file: IO[bytes], content: memoryview) -> int:
    return file.write(content)


def _fsync(file: IO[bytes]) -> None:
    os.fsync(file.fileno())


def _cut(file: IO[bytes], length: int) -> None:
    file.truncate(length)


def _reserve(file: IO[bytes], length: int) -> None:
    if not hasattr(os, "posix_fallocate"):  # macOS
        file.truncate(length)
        return
    try:
        os.posix_fallocate(file.fileno(), 0, length)
    except OSError as error:
        if error.errno not in _NO_SUCH_THING:
            raise
        file.truncate(length)


def _sync_map(array: np.memmap[Any, np.dtype[Any]]) -> None:
    array.flush()


def _mkdir(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _make_temporary(prefix: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=prefix))


def _rename(path: Path, target: Path) -> None:
    path.replace(target)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_THING:
            raise
    finally:
        os.close(descriptor)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)


def _remove_empty(path: Path) -> None:
    path.rmdir()


def _remove_tree(path: Path) -> None:
    shutil.rmtree(path)
