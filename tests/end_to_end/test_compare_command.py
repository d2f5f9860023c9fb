"""`steadylens compare` as people run it: a table on stdout, a page, and on where it stopped, even after a kill."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

COMPARE = [sys.executable, "-m", "steadylens.cli", "compare"]
PARTS = ["--epochs", "2", "--strategies", "class-weights,l2"]


def compare(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [*COMPARE, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=False, timeout=300
    )


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
    finished = compare(images_folder, *PARTS, folder=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert {name: (results / name).read_bytes() for name in done} == done
    assert {path.name for path in results.iterdir()} >= {"plain-0.json", "class-weights-0.json", "l2-0.json"}
    assert "over plain, points" in finished.stdout
    assert finished.stdout.strip().endswith("parts-compare/compare.html")
    for line, name in zip(finished.stdout.splitlines()[2:5], ("plain", "class-weights", "l2"), strict=True):
        assert line.startswith(name)
    assert "3/3  l2, seed 0: balanced accuracy" in finished.stderr
    assert "\x1b" not in finished.stdout + finished.stderr

    again = compare(images_folder, *PARTS, "--json", "--quiet", folder=tmp_path)
    assert again.stderr == ""
    report = json.loads(again.stdout)
    assert report == json.loads((results.parent / "compare.json").read_text("utf-8"))
    assert [row["name"] for row in report["strategies"]] == ["plain", "class-weights", "l2"]

    other = compare(images_folder, "--epochs", "3", "--strategies", "class-weights,l2", folder=tmp_path)
    assert other.returncode == 2
    assert "epochs: 2 then, 3 now" in other.stderr


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
    images_folder: Path, tmp_path: Path, words: list[str], complaint: str
) -> None:
    refused = compare(images_folder, *words, folder=tmp_path)
    assert refused.returncode == 2
    assert complaint in refused.stderr
