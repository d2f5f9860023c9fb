"""Files are written whole or not at all, and a failure leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

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
        "import os, sys, pathlib\nfrom steadylens import files\n"
        "with files.locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)  # noqa: S603 - our own words
    assert ended.returncode == -9
    assert not files.is_locked(tmp_path)
    with files.locked(tmp_path):
        pass
