"""What runs there are, how far each is, and how to follow one: all of it read from their folders.

A run is "running" while a process holds its lock, "finished" once it has a report.json, and else "interrupted", where
it says that it was begun. The module imports nothing that takes long, so that the commands answer at once.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from steadylens import files
from steadylens.errors import DataError
from steadylens.report.figures import Interval, duration, finite, interval_of, plain
from steadylens.report.metrics_log import METRICS, UNKNOWN, MetricsLog, Row, by_epoch

State = Literal["running", "finished", "interrupted"]
Say = Callable[[str], None]
_WRITTEN = ("index.parquet", "recipe.json", METRICS, "checkpoints", str(files.BEGUN), "report.json")
_POLL_S = 1.0
_INTERRUPTED = 130  # what an interrupted run leaves with; who watches it to its end leaves as it did
_HEADINGS = ("run", "state", "balanced accuracy", "epochs", "time", "network", "begun")
_RIGHT = {"epochs", "time"}


@dataclass(frozen=True, slots=True)
class Score:
    """A balanced accuracy, and the split that it was measured on."""

    split: Literal["test", "validation"]
    figure: Interval


@dataclass(frozen=True, slots=True)
class Overview:
    """What a run's folder tells of it; None is what it does not tell.

    Attributes:
        begun: when it was begun; for a run without begun.json, the time of its oldest file.
        score: of a finished run on the test split; before that, the best so far on the validation split.
        seconds: of wall time: those that a finished run took, those until now of a running one, and those until an
            interrupted one wrote its last file. Of a run that was gone on with, the pause counts until it is finished.
        problems: a sentence for each file that is damaged.
    """

    folder: Path
    state: State
    begun: datetime
    command: str | None
    network: str | None
    epochs: int
    seconds: float | None
    score: Score | None
    problems: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """How a command that followed the run to its end leaves."""
        if self.state == "finished":
            return DataError.exit_code if self.score is None else 0
        return _INTERRUPTED

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON."""
        figure = None if self.score is None else self.score.figure
        return {
            "run": str(self.folder),
            "state": self.state,
            "score": None
            if self.score is None or figure is None
            else {"split": self.score.split, "value": figure.value, "low": figure.low, "high": figure.high},
            "epochs": self.epochs,
            "seconds": self.seconds,
            "network": self.network,
            "begun": self.begun.isoformat(timespec="seconds"),
            "command": self.command,
            "problems": list(self.problems),
        }


def is_finished(folder: Path) -> bool:
    """Whether all of a run is there: report.json is written last."""
    return (folder / "report.json").is_file()


def is_unfinished(folder: Path) -> bool:
    """Whether a run was begun and can be gone on with."""
    return (folder / files.BEGUN).is_file() and not is_finished(folder)


def state_of(folder: Path) -> State | None:
    """The state of the run in a folder; None where there is no run."""
    if files.is_locked(folder):  # looked at first: a run that ends in between has its report by then
        return "running"
    if is_finished(folder):
        return "finished"
    return "interrupted" if is_unfinished(folder) else None


def look(folder: Path) -> Overview | None:
    """What a folder tells of the run in it; None where there is no run."""
    state = state_of(folder)
    if state is None:
        return None
    begun, report, recipe = (_Document.read(folder / name) for name in (files.BEGUN, "report.json", "recipe.json"))
    rows, wrong = _rows(folder)
    since, problem = _begun(folder, begun)
    problems = [*(d.problem for d in (begun, recipe, report)), problem, *wrong]
    score = _test_score(report) if state == "finished" else _best_so_far(rows)
    if state == "finished" and score is None and not report.problem:
        problems.append(f"{folder / 'report.json'} is damaged: it has no balanced accuracy.")
    epochs = finite(report.at("training", "epochs")) if state == "finished" else None
    return Overview(
        folder=folder,
        state=state,
        begun=since,
        command=_text(begun.at("command")) or _text(report.at("command")),
        network=_text(recipe.at("network")),
        epochs=int(epochs) if epochs is not None else rows[-1]["epoch"] if rows else 0,
        seconds=_seconds(folder, state, report, since),
        score=score,
        problems=tuple(text for text in problems if text),
    )


def find_runs(folders: Sequence[Path], say: Say) -> list[Overview]:
    """The runs in some folders and directly below them, each once, the newest first.

    Args:
        folders: where to look.
        say: takes a sentence for each folder below them that cannot be looked into.

    Raises:
        DataError: one of the folders cannot be read.
    """
    found: dict[Path, Overview] = {}
    for folder in folders:
        try:
            below = sorted(path for path in folder.iterdir() if path.is_dir())
        except OSError as error:
            raise DataError(f"{folder} could not be read: {error.strerror or error}. Give a folder of runs.") from error
        for path in (folder, *below):
            try:
                overview = look(path)
            except OSError as error:
                say(f"{path} could not be looked into: {error.strerror or error}.")
                continue
            if overview is not None:
                found.setdefault(path.resolve(), overview)
    return sorted(found.values(), key=lambda run: run.begun, reverse=True)


def runs_table(runs: Sequence[Overview]) -> str:
    """A line a run, and below them what is damaged."""
    if not runs:
        return "There are no runs here."
    lines = [_HEADINGS, *(_cells(run) for run in runs)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        "  ".join(
            f"{cell:>{width}}" if heading in _RIGHT else f"{cell:<{width}}"
            for cell, width, heading in zip(line, widths, _HEADINGS, strict=True)
        ).rstrip()
        for line in lines
    ]
    problems = [plain(problem) for run in runs for problem in run.problems]
    return "\n".join([*table, *([""] if problems else []), *problems])


def follow(folder: Path, *, wait: Callable[[float], None] = time.sleep) -> Iterator[Row | str | Overview]:
    """Follow a run to its end: each epoch, a sentence for each damaged line, and last what became of the run.

    Args:
        folder: of the run.
        wait: sleeps for so many seconds.

    Raises:
        DataError: there is no run, or not any more.
    """
    log, without_lock = MetricsLog(folder / METRICS), 0
    while True:
        state = state_of(folder)
        rows, wrong = log.read()  # after the state: a run that had ended then has written all its lines
        yield from rows
        yield from wrong
        # A run that is just being begun, or gone on with, has no lock for a moment: it is looked at twice.
        without_lock = without_lock + 1 if state == "interrupted" else 0
        if state == "finished" or state is None or without_lock > 1:
            overview = look(folder)
            if overview is None:
                raise DataError(f"{folder} is not a run: it has neither begun.json nor report.json.")
            if overview.state == state:
                yield overview
                return
        wait(_POLL_S)


def ending(run: Overview) -> str:
    """What became of a run, and what to do next."""
    epochs = f"{run.epochs} epoch{'' if run.epochs == 1 else 's'}"
    if run.state == "finished":
        told = "its report.json is damaged" if run.score is None else f"balanced accuracy {_shown(run.score)}"
        return f"finished: {told}, after {epochs} in {_time(run)}; report: {run.folder / 'report.html'}"
    score = "" if run.score is None else f", best balanced accuracy {_shown(run.score)}"
    return f"interrupted: after {epochs}{score}\n{going_on(run)}"


def going_on(run: Overview) -> str:
    """How to go on with an interrupted run."""
    folder = str(run.folder)
    if run.command is None:
        return f"To go on, give the command that began it with {shlex.join(['--out', folder, '--resume'])}."
    if not run.command.startswith("steadylens "):
        return f"To go on, make the same call with out={folder!r}: {run.command}"
    return f"To go on: {command_to_go_on(run.command, run.folder)}"


def command_to_go_on(command: str, folder: Path) -> str:
    """The command that goes on with the run in a folder that another command began."""
    try:
        words = shlex.split(command)
    except ValueError:  # not as it was written
        words = command.split()
    if not any(word == "--out" or word.startswith("--out=") for word in words):
        words += ["--out", str(folder)]
    return shlex.join(words if "--resume" in words else [*words, "--resume"])


@dataclass(frozen=True, slots=True)
class _Document:
    """A JSON file of a run; one that does not exist, or is damaged, tells nothing."""

    content: Any = None
    problem: str = ""

    @classmethod
    def read(cls, path: Path) -> _Document:
        try:
            content = json.loads(path.read_bytes(), parse_constant=lambda _: None)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            return cls(problem=f"{path} could not be read: {error.strerror or error}.")
        except (ValueError, RecursionError) as error:
            return cls(problem=f"{path} is damaged: {error}.")
        return cls(content) if isinstance(content, dict) else cls(problem=f"{path} is damaged: it is not an object.")

    def at(self, *names: str) -> Any:  # noqa: ANN401 - any JSON value
        """The value under a path of names, or None."""
        value = self.content
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _rows(folder: Path) -> tuple[list[Row], list[str]]:
    """The epochs of a run, and what is wrong with its metrics.jsonl."""
    try:
        rows, wrong = MetricsLog(folder / METRICS).read()
    except DataError as error:
        return [], [str(error)]
    return by_epoch(rows), wrong


def _begun(folder: Path, begun: _Document) -> tuple[datetime, str]:
    """When a run was begun, and what is wrong with begun.json."""
    said, problem = begun.at("begun"), ""
    if isinstance(said, str):
        try:
            moment = datetime.fromisoformat(said)
            if 1970 <= moment.year < 9999:  # what every time zone can show
                return moment if moment.tzinfo else moment.replace(tzinfo=UTC), ""
        except ValueError:
            pass
        problem = f"{folder / files.BEGUN} is damaged: {said!r} is not a time."
    return datetime.fromtimestamp(min(_times(folder)), UTC), problem


def _times(folder: Path) -> list[float]:
    """When the files of a run were last written; the folder's own time where there are none."""
    paths = [folder / name for name in _WRITTEN]
    return [path.stat().st_mtime for path in paths if path.exists()] or [folder.stat().st_mtime]


def _seconds(folder: Path, state: State, report: _Document, since: datetime) -> float | None:
    if state == "finished":
        return finite(report.at("training", "total_seconds"))
    until = time.time() if state == "running" else max(_times(folder))
    return max(0.0, until - since.timestamp())


def _test_score(report: _Document) -> Score | None:
    figure = interval_of(report.at("test", "balanced_accuracy"))
    return None if figure.value is None else Score("test", figure)


def _best_so_far(rows: Sequence[Row]) -> Score | None:
    values = [finite(row.get("validation_balanced_accuracy")) for row in rows]
    known = [value for value in values if value is not None]
    return Score("validation", Interval(max(known), None, None)) if known else None


def _cells(run: Overview) -> tuple[str, ...]:
    score = UNKNOWN if run.score is None else _shown(run.score)
    begun = run.begun.astimezone().strftime("%Y-%m-%d %H:%M")
    network = UNKNOWN if run.network is None else plain(run.network)
    return plain(run.folder), run.state, score, f"{run.epochs:,}", _time(run), network, begun


def _time(run: Overview) -> str:
    return UNKNOWN if run.seconds is None else duration(run.seconds).replace("\u202f", " ")


def _shown(score: Score) -> str:
    """Such as "83.7% [81.0%, 86.1%] on test"."""
    figure = score.figure
    ends = "" if figure.low is None or figure.high is None else f" [{figure.low:.1%}, {figure.high:.1%}]"
    return f"{figure.value:.1%}{ends} on {score.split}"
