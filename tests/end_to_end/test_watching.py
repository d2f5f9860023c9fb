"""Runs are listed, followed from another terminal, and logged for other tools."""

from __future__ import annotations

import json
import select
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import steadylens
from steadylens import files
from steadylens.errors import ConfigError
from steadylens.report import loggers
from steadylens.report.metrics_log import RunLog, figures_of, read_metrics

SMALL: dict[str, Any] = {"network": "cnn-s", "width": 0.2, "epochs": 2, "precision": "fp32", "quiet": True}
MEASURED = '"seconds": 2.5, "train_loss": 0.5, "images_per_second": 1234.0, "validation_balanced_accuracy": 0.75'
ROW = '{"epoch": %d, ' + MEASURED + "}\n"
REPORT = {
    "training": {"epochs": 2, "total_seconds": 7.0},
    "test": {"balanced_accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}},
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one epoch, of which the tests hold the lock."""
    run = tmp_path / "photos-run"
    (run / "checkpoints").mkdir(parents=True)
    begun = {
        "command": "steadylens train photos",
        "begun": "2026-01-02T10:00:00+00:00",
        "data": "photos",
        "budget": None,
    }
    (run / "checkpoints" / "begun.json").write_text(json.dumps(begun))
    (run / "metrics.jsonl").write_text(ROW % 1)
    return run


def command(*arguments: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "steadylens", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


@contextmanager
def watching(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "steadylens", "watch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], 60)[0], "nothing was said for a minute"
    return process.stdout.readline()


# runs


def test_runs_are_listed_for_people_and_machines(run: Path) -> None:
    with files.locked(run):
        code, out, err = command("runs", run.parent)
    assert (code, err) == (0, "")
    assert out.splitlines()[1].split()[:5] == [str(run), "running", "75.0%", "on", "validation"]
    code, out, err = command("runs", run.parent, run, "--json")
    assert (code, err) == (0, "")
    [one] = json.loads(out)
    assert (one["run"], one["state"], one["command"]) == (str(run), "interrupted", "steadylens train photos")


def test_where_there_are_no_runs_that_is_said_and_what_is_no_folder_refused(tmp_path: Path) -> None:
    assert command("runs", tmp_path) == (0, "There are no runs here.\n", "")
    assert command("runs", tmp_path, "--json") == (0, "[]\n", "")
    code, out, err = command("runs", tmp_path / "nowhere")
    assert (code, out) == (3, "")
    assert "nowhere could not be read" in err


# watch


def test_a_run_is_watched_until_it_is_finished(run: Path) -> None:
    unlock = ExitStack()
    unlock.enter_context(files.locked(run))
    with unlock, watching(run) as process:
        first = line_of(process)
        assert (
            first
            == "  epoch   1     2.5 s    1,234 images/s  loss 0.500  balanced accuracy: train -, validation 75.0%\n"
        )
        with (run / "metrics.jsonl").open("a") as file:
            file.write(ROW % 2)
        assert line_of(process).startswith("  epoch   2 ")
        (run / "report.json").write_text(json.dumps(REPORT))
        time.sleep(1.5)
        assert process.poll() is None  # the lock is still held: the run is not over
        unlock.close()
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    told = "finished: balanced accuracy 80.0% [70.0%, 90.0%] on test, after 2 epochs in 7.0 s"
    assert out == f"{told}; report: {run / 'report.html'}\n"


def test_lines_for_machines_are_those_of_metrics_jsonl_and_the_last_has_the_state(run: Path) -> None:
    (run / "report.json").write_text(json.dumps(REPORT))
    code, out, err = command("watch", run, "--json")
    assert (code, err) == (0, "")
    first, last = map(json.loads, out.splitlines())
    assert first == json.loads(ROW % 1)
    assert (last["state"], last["score"]["value"]) == ("finished", 0.8)


def test_an_interrupted_run_leaves_with_130_and_says_how_to_go_on(run: Path) -> None:
    code, out, err = command("watch", run)
    assert (code, err) == (130, "")
    assert out.splitlines()[1:] == [
        "interrupted: after 1 epoch, best balanced accuracy 75.0% on validation",
        f"To go on: steadylens train photos --out {run} --resume",
    ]


def test_ctrl_c_ends_the_watching_with_130_and_not_the_run(run: Path) -> None:
    with files.locked(run), watching(run) as process:
        line_of(process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, out) == (130, "")
    assert err == "No longer watched. The run is not touched by that.\n"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    code, out, err = command("watch", tmp_path)
    assert (code, out) == (3, "")
    assert f"{tmp_path} is not a run" in err


# Loggers


def test_a_training_is_logged_with_the_figures_of_metrics_jsonl(images_folder: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    done = steadylens.train(images_folder, out=tmp_path / "run", log="tensorboard", **SMALL)
    events = accumulator.EventAccumulator(str(done.folder / "tensorboard"))
    events.Reload()
    rows = read_metrics(done.folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == [1, 2]
    for row in rows:
        for name, value in figures_of(row).items():
            assert [e.value for e in events.Scalars(name) if e.step == row["epoch"]] == [pytest.approx(value)]
    [final] = events.Scalars("test_balanced_accuracy")
    assert final.value == pytest.approx(done.report["test"]["balanced_accuracy"]["value"])
    told = json.loads((done.folder / "report.json").read_text())["environment"]["loggers"]
    assert told == {"tensorboard": f"2 of 2 epochs in {done.folder / 'tensorboard'}"}
    assert f"2 of 2 epochs in {done.folder / 'tensorboard'}" in (done.folder / "report.html").read_text("utf-8")


def test_a_training_that_is_gone_on_with_is_logged_as_one(images_folder: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, options = tmp_path / "run", ["--network", "cnn-s", "--width", "0.2", "--set", "precision=fp32"]
    words = ["train", str(images_folder), *options, "--epochs", "40", "--out", str(run), "--log", "tensorboard"]
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "steadylens", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        assert training.stderr is not None
        for line in training.stderr:
            if line.startswith("  epoch   3"):
                break
        training.send_signal(signal.SIGINT)
        training.communicate(timeout=300)
    code, out, _ = command("watch", run)
    assert code == 130
    told = out.splitlines()[-1]
    assert told == f"To go on: {shlex.join(['steadylens', *words, '--resume'])}"
    code, _, err = command(*shlex.split(told.removeprefix("To go on: "))[1:])
    assert code == 0, err
    code, out, _ = command("watch", run)
    assert (code, out.splitlines()[-1].split(":")[0]) == (0, "finished")
    rows = read_metrics(run / "metrics.jsonl")
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    logged = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert logged == [(row["epoch"], pytest.approx(row["train_loss"])) for row in rows]
    assert len(events.Scalars("test_balanced_accuracy")) == 1
    assert len(list((run / "tensorboard").iterdir())) == 2


class Failing:
    where = "nowhere"

    def __init__(self, _run: Path) -> None:
        pass

    def require(self) -> None:
        pass

    def update(self, log: RunLog) -> None:
        if len(log.rows) > 1:
            raise ConnectionError("the server is gone")

    def close(self, *, finished: bool) -> None:
        raise ConnectionError(f"the server is gone, and cannot be told that the run is finished: {finished}")


def test_a_logger_that_fails_stops_no_training_and_is_in_the_report(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loggers, "MlflowLog", Failing)
    done = steadylens.train(images_folder, out=tmp_path / "run", log=["mlflow"], **{**SMALL, "quiet": False})
    failed = "failed 2 times, first by ConnectionError: the server is gone"
    assert done.report["environment"]["loggers"] == {
        "mlflow": f"1 of 2 epochs without the test figures in nowhere; {failed}"
    }
    assert capsys.readouterr().err.count("the server is gone") == 1


def test_a_missing_package_ends_the_command_before_anything_begins(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r"pip install 'steadylens\[tensorboard\]'"):
        steadylens.train(images_folder, out=tmp_path / "run", log="tensorboard", **SMALL)
    assert not (tmp_path / "run").exists()
