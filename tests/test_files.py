"""Files are written whole or not at all, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import inspect
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from faults import ERRORS, MAKING, TAKING_AWAY, failing
from steadylens import files
from steadylens.errors import ResourceError

Write = Callable[[Path], None]
WRITERS: list[Write] = [
    lambda path: files.write_bytes(path, b"new"),
    lambda path: files.write_text(path, "new"),
    lambda path: files.write_json(path, {"new": 1}),
]


def disk_full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("breaks", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_no_other(
    write: Write, breaks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(*((os, "fsync", disk_full) if breaks == "fsync" else (Path, "replace", disk_full)))
    with pytest.raises(ResourceError, match=r"report\.json could not be written: No space left on device") as caught:
        write(path)
    assert "Free some space or choose another place" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]
    assert path.read_text() == "old"


def test_a_first_write_that_fails_leaves_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", disk_full)
    with pytest.raises(ResourceError):
        files.write_bytes(tmp_path / "a", b"x")
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "a"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        files.write_bytes(path, b"new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"old"


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def counted_fsync(descriptor: int) -> None:
        steps.append("fsync")
        fsync(descriptor)

    def counted_replace(path: Path, target: Path) -> Path:
        steps.append("replace")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", counted_fsync)
    monkeypatch.setattr(Path, "replace", counted_replace)
    files.write_bytes(tmp_path / "a", b"x")
    assert steps == ["fsync", "replace", "fsync"]


@pytest.mark.parametrize("write", WRITERS)
def test_a_write_replaces_what_was_there(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old and much longer than the new content")
    write(path)
    assert "new" in path.read_text()
    assert "old" not in path.read_text()


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No such file or directory"):
        files.write_bytes(tmp_path / "missing" / "a", b"x")


@pytest.mark.parametrize(
    ("function", "call"),
    [
        ("mkdir", lambda path: files.make_folder(path / "new")),
        ("replace", lambda path: files.rename(path / "old", path / "new")),
        ("unlink", lambda path: files.remove(path / "old")),
        ("open", lambda path: files.append_line(path / "log", "line")),
    ],
)
def test_a_read_only_place_is_told(function: str, call: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    (tmp_path / "old").write_bytes(b"x")
    monkeypatch.setattr(Path, function, read_only)
    with pytest.raises(ResourceError, match="Read-only file system"):
        call(tmp_path)


def test_json_keeps_unicode_and_refuses_nan(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    files.write_json(path, {"name": "Käfer 虫"})
    assert json.loads(path.read_text("utf-8")) == {"name": "Käfer 虫"}
    assert "Käfer 虫" in path.read_text("utf-8")
    with pytest.raises(ValueError, match="not JSON compliant"):
        files.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text("utf-8")) == {"name": "Käfer 虫"}


def test_lines_are_appended(tmp_path: Path) -> None:
    for line in ("first", "zweite Zeile: ü"):
        files.append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text("utf-8") == "first\nzweite Zeile: ü\n"


def test_remove_takes_files_folders_links_and_nothing_at_all(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to(kept)
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "folder" / "below").mkdir(parents=True)
    for name in ("link", "file", "folder", "missing"):
        files.remove(tmp_path / name)
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]
    assert (kept / "a").exists()  # the link went, not what it points to


def test_rename_moves_a_whole_folder(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a").write_bytes(b"x")
    files.rename(tmp_path / "new", tmp_path / "final")
    assert (tmp_path / "final" / "a").read_bytes() == b"x"
    assert not (tmp_path / "new").exists()


def test_make_folder_makes_parents_and_keeps_what_is_there(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_an_array_is_written_through_memory(tmp_path: Path) -> None:
    array = files.create_array(tmp_path / "pixels.npy", (3, 2), np.uint8)
    array[:] = 7
    array.flush()
    read = np.load(tmp_path / "pixels.npy", mmap_mode="r", allow_pickle=False)
    assert read.shape == (3, 2)
    assert (read == 7).all()


def test_both_digests_agree_with_a_known_one(tmp_path: Path) -> None:
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of "abc", FIPS 180-2, B.1
    (tmp_path / "a").write_bytes(b"abc")
    assert files.sha256(b"abc") == known
    assert files.sha256_of_file(tmp_path / "a") == known


def test_a_folder_is_locked_by_one_process_at_a_time(tmp_path: Path) -> None:
    assert not files.is_locked(tmp_path)
    with files.locked(tmp_path):
        assert files.is_locked(tmp_path)
        with pytest.raises(ResourceError, match="Another process is working in"), files.locked(tmp_path):
            pass
    assert not files.is_locked(tmp_path)
    with files.locked(tmp_path):
        pass


def test_a_killed_process_leaves_no_lock_behind(tmp_path: Path) -> None:
    code = (
        "import os, sys, pathlib; from steadylens import files\n"
        "with files.locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)  # noqa: S603 - our own
    assert ended.returncode == -9
    assert not files.is_locked(tmp_path)
    with files.locked(tmp_path):
        pass


OLD, NEW = b"old", b"new content" * 1000
each_error = pytest.mark.parametrize("error", ERRORS, ids=lambda error: errno.errorcode[error])
once_or_lasting = pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])


def failures(work: Write, place: Path, error: int, lasting: bool) -> Iterator[Path]:
    """A folder after each of the ways in which `work` can fail in it, until it does not fail any more."""
    for n in itertools.count(1):
        folder = place / str(n)
        (folder / "folder" / "below").mkdir(parents=True)
        (folder / "a").write_bytes(OLD)
        (folder / "log").write_bytes(b"first\n")
        with failing(n, error, lasting=lasting) as calls:
            try:
                work(folder)
            except ResourceError as refused:
                told = str(refused)
            else:
                assert not calls.failed
                break
        assert os.strerror(error) in told
        yield folder
    assert n > 1


def leftovers(folder: Path, error: int, lasting: bool) -> int:
    """How many temporary files there are: none, unless the disk does not let go of them either."""
    left = files.remove_leftovers(folder)
    assert not left or (lasting and error not in (errno.ENOSPC, errno.EDQUOT))
    return len(left)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@each_error
@once_or_lasting
def test_a_write_that_fails_anywhere_leaves_one_whole_content(error: int, lasting: bool, tmp_path: Path) -> None:
    for folder in failures(lambda folder: files.write_bytes(folder / "a", NEW), tmp_path, error, lasting):
        assert (folder / "a").read_bytes() in (OLD, NEW)
        assert leftovers(folder, error, lasting) <= 1
        assert names(folder) == {"a", "log", "folder"}
        files.write_bytes(folder / "a", NEW)
        assert (folder / "a").read_bytes() == NEW


@each_error
@once_or_lasting
@pytest.mark.parametrize("log", ["log", "new"])
def test_a_line_that_fails_anywhere_is_not_there(log: str, error: int, lasting: bool, tmp_path: Path) -> None:
    before = b"first\n" if log == "log" else b""
    for folder in failures(lambda folder: files.append_line(folder / log, "second"), tmp_path, error, lasting):
        left = (folder / log).read_bytes() if (folder / log).exists() else b""
        assert left == before or (lasting and left.startswith(before))  # half a line can stay where nothing can be cut
        whole = left if left.endswith(b"\n") else before
        files.append_line(folder / log, "third")
        assert (folder / log).read_bytes() == whole + b"third\n"


@each_error
@once_or_lasting
def test_an_array_that_fails_anywhere_is_made_again(error: int, lasting: bool, tmp_path: Path) -> None:
    def make(folder: Path) -> None:
        array = files.create_array(folder / "array.npy", (100, 3), np.int16)
        array[:] = 7
        files.flush_array(array)

    for folder in failures(make, tmp_path, error, lasting):
        files.remove(folder / "array.npy")
        make(folder)
        assert (np.load(folder / "array.npy", allow_pickle=False) == np.full((100, 3), 7, np.int16)).all()


def test_the_space_of_an_array_is_taken_at_once(tmp_path: Path) -> None:
    files.create_array(tmp_path / "a.npy", (1000, 1000), np.uint8)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 1_000_000
    array = files.create_array(tmp_path / "empty.npy", (0, 4), np.float32)
    assert array.shape == (0, 4)
    with pytest.raises(ResourceError, match="File exists"):
        files.create_array(tmp_path / "a.npy", (1,), np.uint8)


@each_error
def test_folders_are_made_renamed_and_removed_in_spite_of_a_failure(error: int, tmp_path: Path) -> None:
    def work(folder: Path) -> None:
        files.make_folder(folder / "x" / "y")
        if (folder / "folder").exists():
            files.rename(folder / "folder", folder / "renamed")
        files.remove(folder / "renamed")
        files.remove(folder / "a")

    for folder in failures(work, tmp_path, error, lasting=False):
        work(folder)
        assert names(folder) == {"x", "log"}


def test_a_temporary_folder_and_a_lock_can_fail(tmp_path: Path) -> None:
    with failing(1), pytest.raises(ResourceError, match="No space left"):
        files.temporary_folder("steadylens-")
    with failing(1), pytest.raises(ResourceError, match="No space left"), files.locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_flushed_for_want_of_a_way_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsync = os.fsync

    def without_folders(descriptor: int) -> None:  # as over some networks
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", without_folders)
    files.write_bytes(tmp_path / "a", NEW)
    assert (tmp_path / "a").read_bytes() == NEW


def test_every_function_that_changes_the_disk_can_be_made_to_fail() -> None:
    """What calls the system to change something is one of the functions that `failing` replaces."""
    changing = (
        *("os.fsync", ".truncate(", "posix_fallocate", ".flush()", ".mkdir(", "mkdtemp", ".replace(", ".unlink("),
        *("rmtree", ".open(", "file.write("),
    )
    reading = {"is_locked", "sha256_of_file"}
    for name, function in inspect.getmembers(files, inspect.isfunction):
        if function.__module__ == files.__name__ and any(word in inspect.getsource(function) for word in changing):
            assert name in {*MAKING, *TAKING_AWAY} | reading, name


def test_a_log_whose_writer_was_killed_goes_on_after_its_last_whole_line(tmp_path: Path) -> None:
    for left, whole in ((b"1\n2", b"1\n"), (b"1", b""), (b"1\n", b"1\n"), (b"", b""), (b"1\n" + b"x" * 10**6, b"1\n")):
        (tmp_path / "log").write_bytes(left)
        files.append_line(tmp_path / "log", "next")
        assert (tmp_path / "log").read_bytes() == whole + b"next\n"


def writer(path: Path) -> int:
    """A process that writes two contents in turn until it is killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of threads, of which it needs none
        process = os.fork()
    if not process:
        try:
            for content in itertools.cycle((b"a" * 3_000_000, b"b" * 2_000_000)):
                files.write_bytes(path, content)
        finally:
            os._exit(1)
    return process


def test_a_process_that_is_killed_leaves_the_old_content_or_the_new(tmp_path: Path) -> None:
    rng, killed_while_writing = np.random.default_rng(0), 0
    files.write_bytes(tmp_path / "a", b"a" * 3_000_000)
    for _ in range(20):
        process = writer(tmp_path / "a")
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(process, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(process, 0)[1])
        assert (tmp_path / "a").read_bytes() in (b"a" * 3_000_000, b"b" * 2_000_000)
        killed_while_writing += len(files.remove_leftovers(tmp_path))
        assert names(tmp_path) == {"a"}
    assert killed_while_writing


def test_leftovers_are_found_below_and_nothing_else_is_taken_for_one(tmp_path: Path) -> None:
    kept = ["a.tmp", ".a.tmp", ".a.12345678", ".a.1234567g.tmp", "a.12345678.tmp", ".lock"]
    below = tmp_path / "x" / "y"
    below.mkdir(parents=True)
    for name in (*kept, ".report.json.0123abcd.tmp"):
        (below / name).write_bytes(b"x")
    (tmp_path / "link").symlink_to(below)
    assert files.remove_leftovers(tmp_path, older_than_s=3600.0) == ()
    assert files.remove_leftovers(tmp_path) == (below / ".report.json.0123abcd.tmp",)
    assert names(below) == set(kept)
    assert files.remove_leftovers(tmp_path / "missing") == ()
