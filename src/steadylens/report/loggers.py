"""The logs of other tools that a run may keep beside metrics.jsonl: each gets the same figures, none stops a training.

A logger is told all that there is each time and takes what it does not have yet. So what it missed while it failed is
made up for later, and a run that is gone on with logs no epoch twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from steadylens.errors import ConfigError, DataError
from steadylens.report.figures import finite
from steadylens.report.metrics_log import METRICS, Row, RunLog, read_metrics
from steadylens.report.mlflow_log import MlflowLog, without_password
from steadylens.report.tensorboard_log import TensorBoardLog

Say = Callable[[str], None]
_FIRST_PAUSE_S = 30.0  # after a failure; doubled after each further one, so that a server that hangs costs little
_LONGEST_ERROR = 300


class Logger(Protocol):
    """A log of another tool. Its methods may raise whatever its library raises; it is then asked again later."""

    where: str

    def require(self) -> None:
        """Raise a ConfigError where the logger cannot be used."""

    def update(self, log: RunLog) -> None:
        """Take what is not logged yet."""

    def close(self, *, finished: bool) -> None:
        """End the log, and say in it whether the run is finished."""


NOTHING = RunLog({}, (), {}, 0)


@dataclass
class _Standing:
    """What became of one logger so far."""

    has: RunLog = NOTHING
    failures: int = 0
    first_error: str = ""
    again_at: float = 0.0


class Loggers:
    """The loggers of a run, within a `with` block.

    Args:
        loggers: by name.
        say: takes a sentence where a logger fails for the first time.
        earlier: rows that the run wrote before it was interrupted.
        clock: gives seconds.
    """

    def __init__(
        self,
        loggers: Mapping[str, Logger],
        say: Say,
        earlier: Sequence[Row] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._loggers, self._say, self._clock = loggers, say, clock
        self._standing = {name: _Standing() for name in loggers}
        self._earlier, self._log = tuple(earlier), NOTHING
        self._finished = False

    def recipe(self, recipe: Mapping[str, Any]) -> None:
        """Log the recipe as parameters."""
        self._update(recipe=recipe)

    def epoch(self, row: Row) -> None:
        """Log a row of metrics.jsonl; of earlier rows, those from this epoch on will be done again and are dropped."""
        known = self._log.rows or self._earlier
        self._update(rows=(*(r for r in known if r["epoch"] < row["epoch"]), row))

    def whole(self, recipe: Mapping[str, Any], rows: Sequence[Row]) -> None:
        """Log the recipe and all rows at once, where neither was told before."""
        self._update(recipe=recipe, rows=tuple(rows))

    def finished(self, report: Mapping[str, Any]) -> None:
        """Log the test figures of a report.json; whoever fails here does not get another chance."""
        self._finished = True
        rows = self._log.rows or self._earlier
        self._update(rows=rows, test=test_figures(report), best_epoch=report["training"]["best_epoch"])

    def account(self) -> dict[str, dict[str, str]]:
        """For the report's environment: what each logger got, where, and what went wrong; nothing without loggers."""
        return {"loggers": {name: self._told(name) for name in self._loggers}} if self._loggers else {}

    def __enter__(self) -> Self:
        """Nothing is opened yet: each log begins with the recipe."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        """End each log, as one of a finished run or of one that is not."""
        for name, logger in self._loggers.items():
            self._try(name, partial(logger.close, finished=self._finished and error is None), "It is left open.")

    def _update(self, **changes: Any) -> None:  # noqa: ANN401 - fields of RunLog
        self._log = replace(self._log, **changes)
        for name, logger in self._loggers.items():
            standing = self._standing[name]
            due = self._finished or self._clock() >= standing.again_at
            if due and self._try(name, partial(logger.update, self._log), "It is tried again; the training goes on."):
                standing.has = self._log

    def _try(self, name: str, act: Callable[[], None], otherwise: str) -> bool:
        """Whether it went well; whatever a logger's library raises, the training goes on."""
        standing = self._standing[name]
        try:
            act()
        except Exception as error:
            standing.failures += 1
            standing.again_at = self._clock() + _FIRST_PAUSE_S * 2 ** (standing.failures - 1)
            if standing.failures == 1:
                standing.first_error = _shown(error)
                self._say(f"  The log {name} failed: {standing.first_error}. {otherwise}")
            return False
        return True

    def _told(self, name: str) -> str:
        standing, epochs = self._standing[name], len(self._log.rows)
        final = " without the test figures" if self._log.test and not standing.has.test else ""
        times = "once" if standing.failures == 1 else f"{standing.failures} times"
        failed = f"; failed {times}, first by {standing.first_error}" if standing.failures else ""
        return f"{len(standing.has.rows)} of {epochs} epochs{final} in {self._loggers[name].where}{failed}"


def open_loggers(names: Sequence[str], run: Path, say: Say) -> Loggers:
    """The loggers of a run by their names, each asked first whether it can be used; nothing is written yet.

    Raises:
        ConfigError: names each one that cannot be used, and what to do.
    """
    kinds: dict[str, Callable[[Path], Logger]] = {"tensorboard": TensorBoardLog, "mlflow": MlflowLog}
    loggers = {name: kinds[name](run) for name in names}
    wrong = []
    for logger in loggers.values():
        try:
            logger.require()
        except ConfigError as error:
            wrong.append(str(error))
    if wrong:
        raise ConfigError("\n".join(wrong))
    earlier: list[Row] = []
    if loggers:
        try:
            earlier = read_metrics(run / METRICS)
        except DataError as error:
            say(f"  Earlier epochs are not logged: {error}")
    return Loggers(loggers, say, earlier)


def test_figures(report: Mapping[str, Any]) -> dict[str, float]:
    """The figures of a report's test split by name, the ends of their intervals as NAME_low and NAME_high."""
    named: dict[str, Any] = {}
    for name, figure in report["test"].items():
        if isinstance(figure, Mapping) and "value" in figure:
            named |= {f"test_{name}": figure["value"]}
            named |= {f"test_{name}_{end}": figure.get(end) for end in ("low", "high")}
    return {name: value for name, raw in named.items() if (value := finite(raw)) is not None}


def _shown(error: Exception) -> str:
    """An error on one line, without the password that an address may hold."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return without_password(text if len(text) <= _LONGEST_ERROR else f"{text[:_LONGEST_ERROR]}...")
