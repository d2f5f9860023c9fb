"""`steadylens compare` as people run it: a table on stdout, a page, and on where it stopped, even after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from steadylens import cli

COMPARE = [sys.executable, "-m", "steadylens", "compare"]
PARTS = ["--epochs", "2", "--strategies", "class-weights,l2"]


def leave(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of the entry point in this process, which spares the seconds that imports take."""
    monkeypatch.setattr(sys, "argv", ["steadylens", *words])
    monkeypatch.setattr(cli, "STARTED", time.perf_counter())
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    return int(exit_.value.code or 0)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Puts back what the entry point does to signals."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, action in before.items():
        signal.signal(number, action)


def test_a_killed_comparison_goes_on_with_the_same_command(images_folder: Path, tmp_path: Path) -> None:
    command = [*COMPARE, str(images_folder), *PARTS]
    results = tmp_path / "parts-compare" / "results"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:  # noqa: S603
        deadline = time.monotonic() + 240
        while not (results / "plain-0.json").is_file():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
    done = {path.name: path.read_bytes() for path in results.glob("*-0.json")}
    assert "plain-0.json" in done
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603
    assert finished.returncode == 0, finished.stderr
    assert {name: (results / name).read_bytes() for name in done} == done
    assert {path.name for path in results.iterdir()} >= {"plain-0.json", "class-weights-0.json", "l2-0.json"}
    assert "over plain, points" in finished.stdout
    assert finished.stdout.strip().endswith("parts-compare/compare.html")
    for line, name in zip(finished.stdout.splitlines()[2:5], ("plain", "class-weights", "l2"), strict=True):
        assert line.startswith(name)
    assert "3/3  l2, seed 0: balanced accuracy" in finished.stderr
    assert "\x1b" not in finished.stdout + finished.stderr
    report = json.loads((results.parent / "compare.json").read_text("utf-8"))
    assert [row["name"] for row in report["strategies"]] == ["plain", "class-weights", "l2"]


def test_trainings_at_the_same_time_come_to_the_same(images_folder: Path, tmp_path: Path) -> None:
    """With as many threads each: the bits of a training depend on how many there are."""
    found = []
    for jobs in ("1", "2"):
        words = [*COMPARE, str(images_folder), *PARTS, "--jobs", jobs, "--out", jobs]
        finished = subprocess.run(  # noqa: S603
            words, cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        assert finished.returncode == 0, finished.stderr
        assert finished.stderr.count("seed 0: balanced accuracy") == 3, "each is told once, whoever has made it"
        results = [json.loads(path.read_text("utf-8")) for path in sorted((tmp_path / jobs / "results").iterdir())]
        found.append([{key: one[key] for key in ("strategy", "recipe", "curve", "test", "answers")} for one in results])
    for one in (one for results in found for one in results):
        for row in one["curve"]:
            del row["seconds"], row["images_per_second"]
    assert len(found[0]) == 3
    assert found[0] == found[1]


def test_json_is_the_document_and_quiet_says_nothing_else(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--epochs", "1", "--strategies", "plain", "--out", str(tmp_path / "made"), "--json", "--quiet"]
    assert leave(monkeypatch, "compare", str(images_folder), *words) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert json.loads(said.out) == json.loads((tmp_path / "made" / "compare.json").read_text("utf-8"))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--strategies", "class-weight"], "There is no strategy 'class-weight'. Did you mean class-weights?"),
        (["--network", "timm:resnet18"], "Strategies are compared on networks trained from scratch"),
        (["--budget", "20s"], "would get"),
        (["--epochs", "none"], "The epochs option must be"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    images_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    complaint: str,
) -> None:
    assert leave(monkeypatch, "compare", str(images_folder), "--out", str(tmp_path / "made"), *words) == 2
    assert complaint in capsys.readouterr().err
