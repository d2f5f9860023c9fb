"""A run that is interrupted on the command line says how to go on, and going on gives what it would have given."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SMALL = ("--network", "cnn-s", "--width", "0.2", "--epochs", "40", "--set", "precision=fp32", "--device", "cpu")


def command(*words: str, folder: Path) -> subprocess.Popen[str]:
    """Begin the real command in a process of its own."""
    return subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "steadylens", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env={**os.environ, "NO_COLOR": "1"},
    )


def finished(*words: str, folder: Path) -> tuple[int, str, str]:
    with command(*words, folder=folder) as running:
        out, err = running.communicate(timeout=120)
    return running.returncode, out, err


@pytest.fixture(scope="module")
def whole(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same command that nothing interrupted."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    left, _, err = finished("train", str(images_folder), *SMALL, "--out", "whole", folder=folder)
    assert left == 0, err
    return folder / "whole"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_training_saves_says_how_to_go_on_and_ends_with_the_same_bits(
    images_folder: Path, whole: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    words = ["train", str(images_folder), *SMALL]
    with command(*words, folder=tmp_path) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if line.startswith("  epoch   3"):
                break
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (code, "")
    assert "Traceback" not in err
    run = tmp_path / "parts-run"
    told = err.splitlines()[-1]
    goes_on = shlex.join(["steadylens", *words, "--out", "parts-run", "--resume"])
    assert told == f"steadylens: interrupted. Go on with: {goes_on}"
    before = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert before[:3] == [1, 2, 3]
    assert before[-1] < 40
    state = finished("runs", "--json", folder=tmp_path)
    assert json.loads(state[1])[0]["state"] == "interrupted"

    # The same command finds it again; what is told can be typed as it is.
    again = words if number == signal.SIGTERM else shlex.split(goes_on)[1:]
    left, _, err = finished(*again, folder=tmp_path)
    assert left == 0, err
    assert "Going on with parts-run" in err
    assert "  epoch   1 " not in err
    assert not (tmp_path / "parts-run-2").exists()
    after = [json.loads(line)["epoch"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(after)) == list(range(1, after[-1] + 1))
    model = Path("model") / "model.safetensors"
    assert (run / model).read_bytes() == (whole / model).read_bytes()


def test_a_finished_run_is_said_to_be_finished_and_shown_again(images_folder: Path, whole: Path) -> None:
    words = ["train", str(images_folder), *SMALL, "--out", "whole", "--resume"]
    left, out, err = finished(*words, folder=whole.parent)
    assert left == 0, err
    assert "whole is finished" in err
    assert "balanced accuracy" in out
