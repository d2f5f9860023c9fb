"""Whichever write of a run fails, the run says so, its folder stays valid, and the same call goes on to its end."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import steadylens
from faults import ERRORS, assert_valid, failing
from steadylens import cli, files
from steadylens.errors import ResourceError
from steadylens.training import checkpoint

MakeImages = Callable[..., Path]
SMALL: dict[str, Any] = {"network": "cnn-s", "width": 0.2, "epochs": 2, "precision": "fp32", "device": "cpu"}
MODEL = Path("model") / "model.safetensors"
EVERY = 17  # write of a run is made to fail here; benchmarks/faults.py makes every one of them fail


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Save a position after every epoch, into a cache and a folder of the test's own."""
    monkeypatch.setattr(checkpoint, "COST_SHARE", 1.0)
    monkeypatch.setenv("STEADYLENS_CACHE", str(tmp_path / "cache"))


def train(data: Path, run: Path) -> Path:
    return steadylens.train(data, out=run, quiet=True, **SMALL).folder


def attempted(data: Path, run: Path) -> str:
    """Train, and give what was said where it failed."""
    try:
        train(data, run)
    except ResourceError as error:
        return str(error)
    return ""


def test_any_write_may_fail_and_the_run_goes_on_with_the_same_bits(make_images: MakeImages, tmp_path: Path) -> None:
    data = make_images()
    with failing(10**9) as calls:
        whole = train(data, tmp_path / "whole")
    assert len(calls.names) > 100
    failed = 0
    for n in range(1, len(calls.names) + 1, EVERY):
        run, error = tmp_path / f"run-{n}", ERRORS[n % len(ERRORS)]
        shutil.rmtree(tmp_path / "cache")
        with failing(n, error):
            said = attempted(data, run)
        failed += bool(said)
        assert not said or ("could not be" in said and "run the same command again" in said)
        if run.exists():
            assert_valid(run)
        if not (run / "report.json").exists():
            train(data, run)
        assert_valid(run)
        assert (run / MODEL).read_bytes() == (whole / MODEL).read_bytes()
        assert not list(run.rglob("*.tmp"))
    assert failed > 5


def test_a_disk_that_is_full_from_some_moment_on_leaves_a_run_to_go_on_with(
    make_images: MakeImages, tmp_path: Path
) -> None:
    data = make_images()
    with failing(10**9) as calls:
        whole = train(data, tmp_path / "whole")
    for n in range(5, len(calls.names), len(calls.names) // 6):
        run = tmp_path / f"run-{n}"
        with failing(n, errno.ENOSPC, lasting=True), pytest.raises(ResourceError, match="Free some space"):
            train(data, run)
        if run.exists():
            assert_valid(run)
        train(data, run)
        assert (run / MODEL).read_bytes() == (whole / MODEL).read_bytes()


def test_a_full_disk_leaves_with_5_and_a_sentence(
    make_images: MakeImages, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    words = ["steadylens", "train", str(make_images()), "--epochs", "2", "--network", "cnn-s", "--out", str(run)]
    monkeypatch.setattr("sys.argv", words)
    with failing(60, errno.ENOSPC, lasting=True), pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 5
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith("steadylens: ")
    assert "No space left on device" in told
    assert not files.is_locked(run)


def test_a_read_only_folder_is_said_to_be_one(make_images: MakeImages, tmp_path: Path) -> None:
    with failing(1, errno.EROFS, lasting=True), pytest.raises(ResourceError, match="Read-only file system"):
        train(make_images(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
