"""The store: each image decoded once, in order, and never half a store."""

from __future__ import annotations

import errno
import gc
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from faults import failing
from steadylens import files
from steadylens.data import forks, images
from steadylens.data.images import Refusal, fit_array
from steadylens.data.images import decode as decode_image
from steadylens.data.sources import ImageIndex, index_arrays, read_index
from steadylens.data.store import cache_folder, decode, prune
from steadylens.errors import DataError, ResourceError

RNG = np.random.default_rng(0)


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    """Forty images of different sizes in two classes."""
    for i in range(40):
        path = tmp_path / "data" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (5 + i % 7, 9, 3), dtype=np.uint8)).save(path)
    return read_index(tmp_path / "data")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def pixels_of(path: str) -> NDArray[np.uint8]:
    image = decode_image(Path(path).read_bytes(), 8)
    assert not isinstance(image, Refusal)
    return image


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("an image was decoded again")

    monkeypatch.setattr(images, "decode", fail)


def test_row_i_is_image_i(index: ImageIndex) -> None:
    decoded = decode(index, 8, cache=None)
    assert (decoded.pixels.shape, str(decoded.pixels.dtype), decoded.image_size) == ((40, 8, 8, 3), "uint8", 8)
    for row, path in enumerate(index.paths):
        assert np.array_equal(decoded.pixels[row], pixels_of(path))
    assert decoded.seconds > 0
    with pytest.raises(ValueError, match="read-only"):
        decoded.pixels[0] = 0


def test_arrays_take_the_same_path(cache: Path) -> None:
    shades = RNG.integers(0, 256, (6, 9, 7), dtype=np.uint8)
    decoded = decode(index_arrays(shades, [0, 1] * 3), 8, cache=cache)
    assert all(np.array_equal(decoded.pixels[row], fit_array(shades[row], 8)) for row in range(6))


def test_a_second_call_decodes_nothing(index: ImageIndex, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = decode(index, 8, cache=cache)
    no_decoding(monkeypatch)
    second = decode(index, 8, cache=cache)
    assert second.seconds == 0.0 < first.seconds
    assert np.array_equal(first.pixels, second.pixels)
    assert first.folder == second.folder
    with pytest.raises(ValueError, match="read-only"):
        second.pixels[0] = 0


def test_another_size_content_or_order_is_another_store(index: ImageIndex, cache: Path) -> None:
    shades = RNG.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    indexes = [index_arrays(shades, [0, 1, 0, 1]), index_arrays(shades[::-1], [0, 1, 0, 1]), index]
    folders = {decode(one, size, cache=cache).folder for one in indexes for size in (8, 9)}
    assert len(folders) == 6


def test_progress_ends_at_the_number_of_images(index: ImageIndex, cache: Path) -> None:
    for _ in range(2):
        steps: list[tuple[int, int]] = []
        decode(index, 8, cache=cache, advance=lambda done, n, steps=steps: steps.append((done, n)))  # type: ignore[misc]
        assert steps[-1] == (40, 40)


def test_damaged_and_changed_and_vanished_files_are_refused(index: ImageIndex, cache: Path) -> None:
    changed, vanished = Path(index.paths[3]), Path(index.paths[5])
    Image.new("RGB", (4, 4)).save(changed)
    vanished.unlink()
    decoded = decode(index, 8, cache=cache)
    assert {refusal.path: refusal.reason for refusal in decoded.index.refusals} == {
        "cat/06.png": "changed while being read",
        "cat/10.png": "could not be opened: No such file or directory",
    }
    assert len(decoded.index) == len(decoded.pixels) == 38
    for row, path in enumerate(decoded.index.paths):
        assert np.array_equal(decoded.pixels[row], pixels_of(path))


def test_a_file_that_was_away_for_a_while_is_tried_again(index: ImageIndex, cache: Path) -> None:
    away = Path(index.paths[0])
    content = away.read_bytes()
    away.unlink()
    first = decode(index, 8, cache=cache)
    assert len(first.index) == 39
    away.write_bytes(content)
    assert len(decode(index, 8, cache=cache).index) == 40
    folder = first.folder
    del first
    gc.collect()
    assert not folder.exists()


def test_refusals_of_the_decoder_are_kept_with_the_store(tmp_path: Path, index: ImageIndex, cache: Path) -> None:
    path = tmp_path / "data/dog/damaged.png"
    path.write_bytes(Path(index.paths[0]).read_bytes()[:-40])
    index = read_index(tmp_path / "data")
    assert len(index) == 41
    first, second = decode(index, 8, cache=cache), decode(index, 8, cache=cache)
    assert second.seconds == 0.0
    assert first.index.refusals == second.index.refusals
    assert [refusal.path for refusal in second.index.refusals] == ["dog/damaged.png"]
    assert len(second.pixels) == len(second.index) == 40


def test_too_few_classes_left_is_an_error_and_leaves_nothing(index: ImageIndex, cache: Path) -> None:
    for path, label in zip(index.paths, index.labels, strict=True):
        if label == 0:
            Path(path).unlink()
    with pytest.raises(DataError, match="only one class, 'dog'"):
        decode(index, 8, cache=cache)
    assert list(cache.iterdir()) == []


def test_a_crash_leaves_no_store_under_its_final_name(
    index: ImageIndex, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def crash(content: bytes, image_size: int, **how: Any) -> np.ndarray | Refusal:  # noqa: ANN401
        calls.append(1)
        if len(calls) > 20:
            raise KeyboardInterrupt
        return decode_image(content, image_size, **how)

    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", crash)
        patch.setattr(files, "remove", lambda _: None)  # as if the process had been killed
        with pytest.raises(KeyboardInterrupt):
            decode(index, 8, cache=cache)
    assert [path.name.startswith(".unfinished-") for path in cache.iterdir()] == [True]
    assert len(decode(index, 8, cache=cache).index) == 40


@pytest.mark.parametrize("damage", ["cut pixels", "other shape", "no rows", "bad rows"])
def test_a_damaged_store_is_built_again(index: ImageIndex, cache: Path, damage: str) -> None:
    first = decode(index, 8, cache=cache)
    expected = first.pixels.copy()
    pixels, rows = first.folder / "pixels.npy", first.folder / "rows.json"
    del first
    if damage == "cut pixels":
        os.truncate(pixels, 500)
    elif damage == "other shape":
        np.save(pixels, np.zeros((2, 2), np.uint8))
    elif damage == "no rows":
        rows.unlink()
    else:
        rows.write_text("[1]")
    again = decode(index, 8, cache=cache)
    assert again.seconds > 0
    assert np.array_equal(again.pixels, expected)


def test_two_that_build_the_same_store_share_one(
    index: ImageIndex, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = files.rename

    def rename_after_another(path: Path, target: Path) -> None:
        shutil.copytree(path, target)
        real(path, target)

    monkeypatch.setattr(files, "rename", rename_after_another)
    decoded = decode(index, 8, cache=cache)
    assert [path.name for path in cache.iterdir()] == [decoded.folder.name]
    assert decoded.pixels.any()


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    index: ImageIndex, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(ResourceError, match="too little space"):
        decode(index, 8, cache=cache)
    assert list(cache.iterdir()) == []


def test_without_a_cache_the_folder_goes_with_the_store(index: ImageIndex) -> None:
    decoded = decode(index, 8, cache=None)
    folder, pixels = decoded.folder, decoded.pixels
    assert folder.is_dir()
    del decoded
    gc.collect()
    assert not folder.exists()
    assert pixels.any()  # the pixels themselves stay as long as they are used


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"STEADYLENS_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/steadylens"),
        ({"HOME": "/c"}, "/c/.cache/steadylens"),
    ],
)
def test_where_the_cache_lies(variables: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEADYLENS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert cache_folder() == Path(expected)


def test_pruning_removes_what_was_used_longest_ago(index: ImageIndex, cache: Path) -> None:
    stores = [decode(index, size, cache=cache).folder for size in (8, 9, 10)]
    for age, folder in zip((300, 200, 100), stores, strict=True):
        os.utime(folder, (time.time() - age, time.time() - age))
    decode(index, 8, cache=cache)  # used again: now the newest
    (cache / "something else").mkdir()
    size = sum(file.stat().st_size for folder in stores for file in folder.iterdir())
    assert prune(cache, size) == ()
    assert prune(cache, size - 1) == (stores[1],)
    assert prune(cache, 0, keep=[stores[0]]) == (stores[2],)
    assert sorted(path.name for path in cache.iterdir()) == sorted([stores[0].name, "something else"])
    assert prune(cache / "nowhere", 0) == ()


def test_pruning_removes_what_a_crash_left_a_day_ago(cache: Path) -> None:
    old, new = cache / ".unfinished-1", cache / ".unfinished-2"
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (time.time() - 90_000, time.time() - 90_000))
    assert prune(cache, 0) == (old,)
    assert new.is_dir()


needs_forks = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes decode, however few the images and the processors."""
    monkeypatch.setattr("steadylens.data.store._MANY_IMAGES", 1)
    monkeypatch.setattr(forks, "processors", lambda: 2)


@needs_forks
@pytest.mark.usefixtures("forked")
def test_forked_processes_decode_the_same(index: ImageIndex, cache: Path) -> None:
    gone, damaged = Path(index.paths[0]), Path(index.paths[7])
    gone.unlink()
    damaged.write_bytes(b"GIF89a")
    decoded = decode(index, 8, cache=cache)
    assert {Path(refusal.path).name: refusal.reason for refusal in decoded.index.refusals} == {
        gone.name: "could not be opened: No such file or directory",
        damaged.name: "changed while being read",
    }
    assert len(decoded.index) == len(decoded.pixels) == 38
    for row, path in enumerate(decoded.index.paths):
        assert np.array_equal(decoded.pixels[row], pixels_of(path))


@pytest.mark.parametrize("refused", [[0], [39], [0, 1, 2], [5, 6, 20, 38, 39], list(range(1, 20, 2))])
def test_rows_of_refused_images_leave_no_gaps(
    index: ImageIndex, refused: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steadylens.data.store._ROWS_AT_ONCE", 3)
    for row in refused:
        Path(index.paths[row]).unlink()
    decoded = decode(index, 8, cache=None)
    assert len(decoded.pixels) == 40 - len(refused)
    for row, path in enumerate(decoded.index.paths):
        assert np.array_equal(decoded.pixels[row], pixels_of(path))


@needs_forks
@pytest.mark.usefixtures("forked")
def test_a_process_that_is_killed_is_said_and_leaves_nothing(
    index: ImageIndex, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(content: bytes, image_size: int, **how: str) -> NDArray[np.uint8] | Refusal:
        if content == last:
            os.kill(os.getpid(), signal.SIGKILL)  # as the system does where memory is short
        return decode_image(content, image_size, **how)

    last = Path(index.paths[-1]).read_bytes()
    monkeypatch.setattr(images, "decode", killed)
    with pytest.raises(ResourceError, match=r"killed by SIGKILL while decoding, at one of .*Free some memory"):
        decode(index, 8, cache=cache)
    assert list(cache.iterdir()) == []
    with pytest.raises(ChildProcessError):  # none is left, not even to be waited for
        os.waitpid(-1, os.WNOHANG)


@needs_forks
@pytest.mark.usefixtures("forked")
def test_a_bug_in_a_forked_process_is_a_bug(
    index: ImageIndex, cache: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(images, "decode", lambda *_, **__: 1 / 0)
    with pytest.raises(RuntimeError, match="failed while decoding"):
        decode(index, 8, cache=cache)
    assert "ZeroDivisionError" in capfd.readouterr().err
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize(("fit", "interpolation"), [("pad", "bicubic"), ("squash", "bilinear")])
def test_images_resized_in_another_way_are_another_store(
    index: ImageIndex, cache: Path, fit: str, interpolation: str
) -> None:
    plain = decode(index, 9, cache=cache)
    other, again = (decode(index, 9, cache=cache, fit=fit, interpolation=interpolation) for _ in range(2))
    assert plain.folder != other.folder
    assert not np.array_equal(plain.pixels, other.pixels)
    assert again.folder == other.folder


def test_features_are_pruned_as_stores_are(index: ImageIndex, cache: Path) -> None:
    store = decode(index, 8, cache=cache)
    features = cache / "features"
    features.mkdir()
    (features / "features.npy").write_bytes(b"0" * 1000)
    other = cache / "something"
    other.mkdir()
    assert prune(cache, 10**9, keep=[store.folder]) == ()
    assert prune(cache, 0, keep=[store.folder]) == (features,)
    assert other.exists()


@pytest.mark.parametrize(("error", "lasting"), [(errno.ENOSPC, False), (errno.ENOSPC, True), (errno.EIO, True)])
def test_whichever_call_fails_the_cache_holds_whole_stores_only(
    error: int, lasting: bool, images_folder: Path, tmp_path: Path
) -> None:
    index = read_index(images_folder)
    whole = decode(index, 8, cache=None).pixels
    for n in range(1, 40):
        cache = tmp_path / str(n)
        with failing(n, error, lasting=lasting) as calls:
            try:
                store = decode(index, 8, cache=cache)
            except ResourceError:
                pass
            else:  # that the name of a whole store could not be flushed costs nothing
                assert (store.pixels == whole).all()
                if not calls.failed:
                    break
        left = [path.name for path in cache.iterdir()] if cache.exists() else []
        finished = [name for name in left if not name.startswith(".unfinished-")]
        assert left == finished or (lasting and error == errno.EIO)  # a disk that does not let go of anything
        for name in finished:
            assert (np.load(cache / name / "pixels.npy") == whole).all()
            assert "filled" in json.loads((cache / name / "rows.json").read_text("utf-8"))
        assert (decode(index, 8, cache=cache).pixels == whole).all()
    assert 5 < n < 39


def test_what_a_killed_process_left_in_the_cache_goes_a_day_later(images_folder: Path, tmp_path: Path) -> None:
    folder = decode(read_index(images_folder), 8, cache=tmp_path).folder
    left = folder / ".features.npy.0123abcd.tmp"
    left.write_bytes(b"x")
    assert prune(tmp_path, 10**9) == ()
    assert left.exists()
    os.utime(left, (1, 1))
    assert prune(tmp_path, 10**9) == ()
    assert not left.exists()
    assert folder.exists()


def test_what_does_not_fit_into_memory_today_is_tried_again(
    index: ImageIndex, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(images, "decode", lambda *_, **__: images.NO_MEMORY)
        with pytest.raises(DataError):
            decode(index, 8, cache=cache)
    assert len(decode(index, 8, cache=cache).index) == len(index)
