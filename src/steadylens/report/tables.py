"""The rows of the report's tables, sorted and worded for a reader."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadylens.config import TIMM
from steadylens.report.figures import (
    MISSING,
    decimal,
    decimal_range,
    field,
    finite,
    interval_of,
    percent,
    percent_range,
)
from steadylens.report.verdict import chance_of

_TELLING = ("network", "members", "image_size", "transfer")  # of a backbone beside a network from scratch


@dataclass(frozen=True, slots=True)
class Card:
    """One headline figure with its interval, as text and as places (0 to 100) on a scale."""

    name: str
    meaning: str
    value: str
    interval: str
    validation: str
    at: float | None
    low: float | None
    high: float | None
    guess: float | None  # where a guess that ignores the image would be
    ends: tuple[str, str]


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class of the per-class table; None where a figure is undefined."""

    name: str
    train: int | None
    test: int | None
    recall: float | None
    precision: float | None
    f1: float | None
    worst: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the confusion matrix: its count and its share of the row, None in a row without images."""

    count: int
    share: float | None


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial of the selection: the fields that differ between trials, and what it reached."""

    fields: tuple[str, ...]
    figures: tuple[str, str, str]
    seconds: Any
    stopped_at: str
    chosen: bool


def cards(report: Mapping[str, Any]) -> list[Card]:
    """The headline figures of the test split, each on a scale that shows where a guess would be."""
    guess = chance_of(report)
    uniform = math.log(max(len(report["classes"]), 1))  # the log-loss of giving every class the same probability
    worst = report["test"].get("worst_class")
    of_worst = "recall of the class that is found least" + (f", \u201c{worst}\u201d" if worst else "")
    share = [
        ("balanced_accuracy", "Balanced accuracy", "mean recall of the classes: each counts the same", guess),
        ("worst_class_recall", "Worst-class recall", of_worst, None),
        ("accuracy", "Accuracy", "share of all images that is right: common classes count most", None),
        ("macro_f1", "Macro F1", "mean over classes of the balance of recall and precision", None),
    ]
    loss = [
        ("log_loss", "Log-loss", "how wrong the probabilities are; lower is better", uniform),
        ("balanced_log_loss", "Balanced log-loss", "the same, each class counting the same", uniform),
    ]
    off = ("ece", "Calibration error", "how far stated probabilities lie from the truth; lower is better", None)
    return [
        *(_card(report, *names, top=1.0, as_percent=True) for names in share),
        *(_card(report, *names, top=1.25 * uniform, as_percent=False) for names in loss),
        _card(report, *off, top=0.2, as_percent=True),
    ]


def class_rows(report: Mapping[str, Any]) -> list[ClassRow]:
    """Every class, the one that is found least first; classes without test images last."""
    test, splits = report["test"], report["data"].get("splits") or {}
    rows = [
        ClassRow(
            name=row["class"],
            train=(splits.get("train") or {}).get(row["class"]),
            test=row.get("support"),
            recall=finite(row.get("recall")),
            precision=finite(row.get("precision")),
            f1=finite(row.get("f1")),
            worst=row["class"] == test.get("worst_class") and (row.get("recall") or 0.0) < 1,
        )
        for row in test.get("per_class") or []
    ]
    return sorted(rows, key=lambda row: (row.recall is None, row.recall or 0.0, not row.worst, row.name))


def confusion_shares(confusion: Sequence[Sequence[int]]) -> NDArray[np.float64]:
    """The confusion matrix with each row divided by its sum; rows without images hold NaN."""
    counts = np.array(confusion, dtype=float)
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.full_like(counts, np.nan)
    np.divide(counts, totals, out=shares, where=totals > 0)
    return shares


def confusion_cells(confusion: Sequence[Sequence[int]]) -> list[list[Cell]]:
    """The confusion matrix as cells with a count and a share of the row."""
    shares = confusion_shares(confusion)
    return [
        [Cell(number, finite(float(share))) for number, share in zip(row, row_shares, strict=True)]
        for row, row_shares in zip(confusion, shares, strict=True)
    ]


def recipe_rows(recipe: Mapping[str, Any], why: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """(field, value, why) of the resolved recipe; fields that the selection gives a reason for come first."""
    rows = [(name, field(value), str(why.get(name) or "")) for name, value in recipe.items()]
    return sorted(rows, key=lambda row: row[2] == "")


def trial_rows(selection: Mapping[str, Any]) -> tuple[list[str], list[TrialRow]]:
    """The names of the fields that differ between trials, and the trials, best balanced accuracy first.

    Of a backbone and a network from scratch nearly all fields differ, and only those that tell most are named.
    """
    trials = selection.get("trials") or []
    recipes = [trial.get("recipe") or {} for trial in trials]
    every = dict.fromkeys(name for recipe in recipes for name in recipe)
    varying = [name for name in every if len({field(recipe.get(name)) for recipe in recipes}) > 1]
    if len({str(recipe.get("network")).startswith(TIMM) for recipe in recipes}) > 1:
        varying = [name for name in varying if name in _TELLING]
    chosen = selection.get("chosen") or {}
    ordered = sorted(trials, key=lambda trial: -(_reached(trial, "balanced_accuracy") or -1.0))
    return varying, [
        TrialRow(
            fields=tuple(field((trial.get("recipe") or {}).get(name)) for name in varying),
            figures=(
                percent(_reached(trial, "balanced_accuracy")),
                percent(_reached(trial, "worst_class_recall")),
                decimal(_reached(trial, "balanced_log_loss")),
            ),
            seconds=trial.get("seconds"),
            stopped_at=MISSING if trial.get("stopped_at") is None else field(trial["stopped_at"]),
            chosen=bool(chosen) and all(chosen.get(k) == v for k, v in (trial.get("recipe") or {}).items()),
        )
        for trial in ordered
    ]


def _card(
    report: Mapping[str, Any], key: str, name: str, meaning: str, guess: float | None, *, top: float, as_percent: bool
) -> Card:
    figure = interval_of(report["test"].get(key))
    validation = interval_of((report.get("validation") or {}).get(key)).value
    write, write_range = (percent, percent_range) if as_percent else (decimal, decimal_range)
    top = max([top, *(end for end in (figure.value, figure.high) if end is not None)])
    return Card(
        name=name,
        meaning=meaning,
        value=write(figure.value),
        interval=write_range(figure),
        validation=write(validation),
        at=_place(figure.value, top),
        low=_place(figure.low, top),
        high=_place(figure.high, top),
        guess=_place(guess, top),
        ends=("0", f"{100 * top:.0f}\u202f%" if as_percent else f"{top:.1f}"),
    )


def _place(value: float | None, top: float) -> float | None:
    return None if value is None else round(100 * min(max(value / top, 0.0), 1.0), 2)


def _reached(trial: Mapping[str, Any], key: str) -> float | None:
    return interval_of((trial.get("validation") or {}).get(key)).value
