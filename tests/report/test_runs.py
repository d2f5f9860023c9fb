"""Runs are found and followed by what is in their folders, whatever state these are in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from steadylens import files
from steadylens.errors import DataError
from steadylens.report.runs import (
    Overview,
    command_to_go_on,
    ending,
    find_runs,
    follow,
    going_on,
    look,
    runs_table,
    state_of,
)

COMMAND = "steadylens train 'my photos' --budget 5m"
MakeRun = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> MakeRun:
    """Writes as much of a run as is asked for."""

    def make(
        name: str = "run", *, minute: int = 0, epochs: int = 0, finished: bool = False, command: str | None = COMMAND
    ) -> Path:
        run = tmp_path / name
        (run / "checkpoints").mkdir(parents=True)
        begun = {
            "command": command,
            "begun": f"2026-01-02T10:{minute:02d}:00+00:00",
            "data": "my photos",
            "budget": 300,
        }
        write(run / "checkpoints" / "begun.json", begun)
        if epochs:
            write(run / "recipe.json", {"network": "cnn-s"})
        for epoch in range(1, epochs + 1):
            append(run, epoch)
        if finished:
            write(run / "report.json", report(epochs))
        return run

    return make


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), "utf-8")


def append(run: Path, epoch: int, accuracy: float | None = None) -> None:
    row = {
        "epoch": epoch,
        "seconds": 1.5 * epoch,
        "validation_balanced_accuracy": accuracy or 0.9 - 0.1 * abs(epoch - 3),
    }
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def report(epochs: int) -> dict[str, Any]:
    return {
        "command": COMMAND,
        "training": {"epochs": epochs, "total_seconds": 151.0},
        "test": {"balanced_accuracy": {"value": 0.837, "low": 0.81, "high": 0.861}},
    }


def seen(run: Path) -> Overview:
    overview = look(run)
    assert overview is not None
    return overview


# States


def test_the_state_is_running_where_locked_else_finished_else_interrupted_else_it_is_no_run(
    make: MakeRun, tmp_path: Path
) -> None:
    run = make(epochs=1)
    assert state_of(run) == "interrupted"
    with files.locked(run):
        assert state_of(run) == "running"
        write(run / "report.json", report(1))
        assert state_of(run) == "running"
    assert state_of(run) == "finished"
    (run / "checkpoints" / "begun.json").unlink()  # as in a run of an earlier version
    assert state_of(run) == "finished"
    (tmp_path / "photos").mkdir()
    assert state_of(tmp_path / "photos") is None
    assert look(tmp_path / "photos") is None
    assert state_of(tmp_path / "nothing") is None


def test_a_finished_run_has_the_figures_of_its_test(make: MakeRun) -> None:
    run = seen(make(epochs=4, finished=True))
    assert run.as_dict() == {
        "run": str(run.folder), "state": "finished", "epochs": 4, "seconds": 151.0, "network": "cnn-s",
        "score": {"split": "test", "value": 0.837, "low": 0.81, "high": 0.861},
        "begun": "2026-01-02T10:00:00+00:00", "command": COMMAND, "problems": [],
    }  # fmt: skip


def test_before_that_the_best_of_validation_counts_and_the_time_so_far(make: MakeRun) -> None:
    run = make(epochs=4)
    append(run, 3, 0.1)  # done again after an interruption: what was there from this epoch on is lost
    with files.locked(run):
        before = seen(run)
    assert before.score is not None
    assert (before.score.split, before.epochs) == ("validation", 3)
    assert before.score.figure.value == pytest.approx(0.8)
    assert before.seconds == pytest.approx(time.time() - before.begun.timestamp(), abs=60)
    for path in [*run.rglob("*"), run]:
        os.utime(path, (1, before.begun.timestamp() + 90))
    assert seen(run).seconds == 90.0


def test_a_run_that_has_just_begun_has_no_figures(make: MakeRun) -> None:
    run = seen(make())
    assert (run.score, run.network, run.epochs) == (None, None, 0)


def test_without_begun_json_the_oldest_file_tells_the_time(make: MakeRun) -> None:
    run = make(epochs=1, finished=True)
    (run / "checkpoints" / "begun.json").unlink()
    os.utime(run / "recipe.json", (1e9, 1e9))
    told = seen(run)
    assert (told.begun, told.command, told.problems) == (datetime.fromtimestamp(1e9, UTC), COMMAND, ())


@pytest.mark.parametrize("content", ["{", "[]", '"x"', "\ud800", "[" * 99_999], ids=range(5))
@pytest.mark.parametrize("name", ["report.json", "recipe.json", "checkpoints/begun.json"])
def test_a_damaged_file_is_said_to_be(make: MakeRun, name: str, content: str) -> None:
    run = make(epochs=2, finished=True)
    (run / name).write_bytes(content.encode("utf-8", "surrogatepass"))
    told = seen(run)
    assert told.state == "finished"
    assert len(told.problems) == 1
    assert f"{run / name} is damaged" in told.problems[0]
    assert (told.score is None) == (name == "report.json")
    assert told.problems[0] in runs_table([told])


@pytest.mark.parametrize("begun", ["yesterday", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_is_none_is_said(make: MakeRun, begun: str) -> None:
    run = make()
    write(run / "checkpoints" / "begun.json", {"begun": begun})
    told = seen(run)
    assert told.problems == (f"{run / 'checkpoints' / 'begun.json'} is damaged: {begun!r} is not a time.",)
    assert runs_table([told])


@pytest.mark.parametrize("test", [None, {}, {"balanced_accuracy": {"value": "high"}}])
def test_a_report_without_its_score_is_damaged(make: MakeRun, test: object) -> None:
    run = make(epochs=1, finished=True)
    write(run / "report.json", {**report(1), "test": test})
    told = seen(run)
    assert told.problems == (f"{run / 'report.json'} is damaged: it has no balanced accuracy.",)
    assert told.exit_code == DataError.exit_code


def test_damaged_metrics_are_said_and_the_rest_counts(make: MakeRun) -> None:
    run = make(epochs=2)
    (run / "metrics.jsonl").write_text((run / "metrics.jsonl").read_text() + "odd\n")
    told = seen(run)
    assert (told.epochs, told.problems) == (2, (f"Line 3 of {run / 'metrics.jsonl'} is damaged: it is not an epoch.",))
    (run / "metrics.jsonl").unlink()
    (run / "metrics.jsonl").mkdir()
    assert "could not be read" in seen(run).problems[0]


# The list


def test_whoever_asks_does_not_wait_for_large_imports() -> None:
    code = "import sys, steadylens.report.runs; sys.exit(bool({'torch', 'pyarrow', 'sklearn'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0  # noqa: S603 - our own code


def test_runs_are_found_in_a_folder_and_directly_below_it_the_newest_first(make: MakeRun, tmp_path: Path) -> None:
    for name, minute in (("old", 1), ("new", 3), ("new/deeper", 2), ("too/deep", 4)):
        make(name, minute=minute)
    (tmp_path / "photo.jpg").touch()

    def names(*folders: Path) -> list[str]:
        return [str(run.folder.relative_to(tmp_path)) for run in find_runs(folders, pytest.fail)]

    assert names(tmp_path) == ["new", "old"]
    assert names(tmp_path / "new") == ["new", "new/deeper"]
    assert names(tmp_path, tmp_path / "new", tmp_path / "too") == ["too/deep", "new", "new/deeper", "old"]
    assert names(tmp_path / "old" / "checkpoints") == []


def test_what_cannot_be_looked_into_is_said(make: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("open")
    closed, said = make("closed"), list[str]()
    plainly = files.is_locked

    def refuse(folder: Path) -> bool:
        if folder == closed:
            raise PermissionError(13, "Permission denied")
        return plainly(folder)

    monkeypatch.setattr(files, "is_locked", refuse)
    assert [run.folder.name for run in find_runs([tmp_path], said.append)] == ["open"]
    assert said == [f"{closed} could not be looked into: Permission denied."]
    with pytest.raises(DataError, match="nowhere could not be read"):
        find_runs([tmp_path / "nowhere"], pytest.fail)


def test_the_table_has_a_line_a_run(make: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make("photos-run", minute=1, epochs=12, finished=True)
    make("a\x1b[31m", minute=0, epochs=2)
    first, *lines = runs_table(find_runs([Path()], pytest.fail)).splitlines()
    assert first.split() == ["run", "state", "balanced", "accuracy", "epochs", "time", "network", "begun"]
    assert lines[0].startswith(
        "photos-run  finished     83.7% [81.0%, 86.1%] on test      12     2 min 31 s  cnn-s    2026-01-"
    )
    assert lines[1].startswith("a\ufffd[31m      interrupted  80.0% on validation ")
    assert len(lines) == 2
    assert len({line.index("cnn-s") for line in lines}) == 1
    assert runs_table([]) == "There are no runs here."


# Following


class Clock:
    """A wait that does the next thing that is to happen, and fails where it is waited for nothing."""

    def __init__(self, *happenings: Callable[[], object]) -> None:
        self.happenings = list(happenings)

    def __call__(self, seconds: float) -> None:
        assert 0.5 <= seconds <= 2
        self.happenings.pop(0)()


def nothing() -> None:
    pass


def test_a_run_is_followed_to_its_end(make: MakeRun) -> None:
    run = make(epochs=2)
    with ExitStack() as lock:
        lock.enter_context(files.locked(run))

        def tear() -> None:
            with (run / "metrics.jsonl").open("a") as file:
                file.write('{"epoch": 3')

        def mend() -> None:
            with (run / "metrics.jsonl").open("a") as file:
                file.write("}\nodd\n")

        def finish() -> None:
            append(run, 4)
            write(run / "report.json", report(4))

        events = list(follow(run, wait=Clock(tear, nothing, mend, finish, lock.close)))
    assert [event["epoch"] for event in events if isinstance(event, dict)] == [1, 2, 3, 4]
    assert [event for event in events if isinstance(event, str)] == [
        f"Line 4 of {run / 'metrics.jsonl'} is damaged: it is not an epoch."
    ]
    last = events[-1]
    assert isinstance(last, Overview)
    assert (last.state, last.exit_code) == ("finished", 0)
    assert ending(last) == (
        f"finished: balanced accuracy 83.7% [81.0%, 86.1%] on test, after 4 epochs in 2 min 31 s; "
        f"report: {run / 'report.html'}"
    )


def test_a_run_that_loses_its_lock_for_a_moment_is_not_interrupted(make: MakeRun) -> None:
    run = make(epochs=1)
    with ExitStack() as lock:
        events = follow(
            run, wait=Clock(lambda: lock.enter_context(files.locked(run)), lambda: append(run, 2), lock.close, nothing)
        )
        *rows, last = events
    assert len(rows) == 2
    assert isinstance(last, Overview)
    assert (last.state, last.exit_code) == ("interrupted", 130)
    assert ending(last) == (
        "interrupted: after 2 epochs, best balanced accuracy 80.0% on validation\n"
        f"To go on: {COMMAND} --out {run} --resume"
    )


def test_what_is_no_run_or_not_any_more_is_refused(make: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nothing is not a run"):
        next(follow(tmp_path / "nothing", wait=Clock()))
    run = make(epochs=1)
    with files.locked(run):
        events = follow(run, wait=Clock(lambda: files.remove(run)))
        next(events)
        with pytest.raises(DataError, match="is not a run"):
            next(events)


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        ("steadylens train photos", "To go on: steadylens train photos --out {run} --resume"),
        ("steadylens train photos --out r --resume", "To go on: steadylens train photos --out r --resume"),
        ("steadylens train photos --out=r", "To go on: steadylens train photos --out=r --resume"),
        ("steadylens train 'photos", "To go on: steadylens train ''\"'\"'photos' --out {run} --resume"),
        (
            "steadylens.train('photos')",
            "To go on, make the same call with out='{run}': steadylens.train('photos')",
        ),
        (None, "To go on, give the command that began it with --out {run} --resume."),
    ],
)
def test_how_to_go_on(make: MakeRun, command: str | None, goes_on: str) -> None:
    run = make(command=command)
    assert going_on(seen(run)) == goes_on.format(run=run)


@pytest.mark.parametrize(
    ("command", "goes_on"),
    [
        ("steadylens train 'my photos'", "steadylens train 'my photos' --out run --resume"),
        ("steadylens train parts --out run", "steadylens train parts --out run --resume"),
        ("steadylens train parts --out=run --resume", "steadylens train parts --out=run --resume"),
    ],
)
def test_the_command_that_goes_on(command: str, goes_on: str) -> None:
    assert command_to_go_on(command, Path("run")) == goes_on
