"""RUN/metrics.jsonl: one line an epoch, read by the page, by whoever watches a run, and by the loggers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadylens.errors import DataError
from steadylens.report.figures import finite

METRICS = "metrics.jsonl"
UNKNOWN = "-"  # in a terminal, whatever its encoding
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunLog:
    """All that there is to log of a run so far.

    Attributes:
        recipe: as in recipe.json.
        rows: of metrics.jsonl, in the order of their epochs.
        test: the final figures by name; none before the end.
        best_epoch: whose weights they are of.
    """

    recipe: Mapping[str, Any]
    rows: tuple[Row, ...]
    test: Mapping[str, float]
    best_epoch: int


@dataclass
class MetricsLog:
    """A metrics.jsonl that may be growing, and how far it has been read."""

    path: Path
    offset: int = 0
    lines: int = 0
    inode: int = 0

    def read(self) -> tuple[list[Row], list[str]]:
        """The rows that were completed since the last call, and a sentence for each line that is none.

        A line without its end is still being written, and left for the next call. A file that took the place of the
        one that was read, or became shorter, is read from its beginning.

        Raises:
            DataError: the file cannot be read; one that does not exist yet is empty.
        """
        try:
            with self.path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode != self.inode or file.seek(0, 2) < self.offset:
                    self.offset = self.lines = 0
                self.inode = inode
                file.seek(self.offset)
                content = file.read()
        except FileNotFoundError:
            return [], []
        except OSError as error:
            raise DataError(f"{self.path} could not be read: {error.strerror or error}.") from error
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        rows, wrong = [], []
        for line in whole.split(b"\n")[:-1]:
            self.lines += 1
            row = _row(line) if line.strip() else {}
            if row is None:
                wrong.append(f"Line {self.lines} of {self.path} is damaged: it is not an epoch.")
            elif row:
                rows.append(row)
        return rows, wrong


def read_metrics(path: Path) -> list[Row]:
    """All rows of a metrics.jsonl by epoch; one that does not exist has none.

    Raises:
        DataError: a line is not an epoch.
    """
    rows, wrong = MetricsLog(path).read()
    if wrong:
        raise DataError(f"{wrong[0]} Remove that line and try again.")
    return by_epoch(rows)


def by_epoch(rows: Iterable[Row]) -> list[Row]:
    """One row an epoch, in their order: what a resumed run wrote counts, and not what was there from that epoch on.

    What a killed process had learned after its last checkpoint is lost, and so are its rows.
    """
    kept: list[Row] = []
    for row in rows:
        while kept and kept[-1]["epoch"] >= row["epoch"]:
            kept.pop()
        kept.append(row)
    return kept


def figures_of(row: Row) -> dict[str, float]:
    """What was measured after an epoch, by name; what is no number is left out, and so is the epoch's own number."""
    numbers = {name: finite(value) for name, value in row.items() if name != "epoch"}
    return {name: value for name, value in numbers.items() if value is not None}


def epoch_line(row: Mapping[str, Any]) -> str:
    """An epoch as a training says it: its time since the training began, speed, loss and balanced accuracies."""
    seconds, speed, loss, train, validation = (
        UNKNOWN if (value := finite(row.get(name))) is None else f"{value:{form}}"
        for name, form in (
            ("seconds", ".1f"),
            ("images_per_second", ",.0f"),
            ("train_loss", ".3f"),
            ("train_balanced_accuracy", ".1%"),
            ("validation_balanced_accuracy", ".1%"),
        )
    )
    return (
        f"  epoch {row['epoch']:3d}  {seconds:>6} s  {speed:>7} images/s  loss {loss}  "
        f"balanced accuracy: train {train}, validation {validation}"
    )


def _row(line: bytes) -> Row | None:
    """The row that a line holds, or None; NaN, which JSON lacks, is read as null."""
    try:
        row = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    known = isinstance(row, dict) and type(row.get("epoch")) is int
    return row if known else None
