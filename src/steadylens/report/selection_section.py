"""What the page tells of the trials of a selection: a line for each, and what is plotted of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from steadylens.models import FAMILY
from steadylens.report.figures import decimal, finite, percent

Trial = Mapping[str, Any]

_SIDES = {"weaker": -1, "stronger": 1}
_TITLES = {
    "strength": "Strength of regularisation and augmentation",
    "capacity": "Capacity",
}


@dataclass(frozen=True, slots=True)
class TrialLine:
    """One trial as the table has it."""

    name: str
    figures: tuple[str, str, str, str]  # balanced accuracy on validation and training images, worst class, log-loss
    verdict: str
    rung: str
    seconds: Any
    stopped_at: Any
    became: str
    chosen: bool


@dataclass(frozen=True, slots=True)
class TrialAxis:
    """Trials along one axis at the first rung, from the least to the most: their names and balanced accuracies."""

    title: str
    names: tuple[str, ...]
    train: tuple[float, ...]
    validation: tuple[float, ...]


def finished(selection: Mapping[str, Any]) -> dict[str, Any]:
    """The selection with the trials alone that were trained to their end."""
    return {**selection, "trials": [one for one in selection.get("trials") or [] if not one.get("rungs")]}


def trial_lines(selection: Mapping[str, Any]) -> list[TrialLine]:
    """The trials that were judged on the way, in the order in which they were made, each as it stood last."""
    lines = []
    for trial in _judged(selection):
        figures = trial.get("validation") or {}
        verdict = trial.get("verdict") or ""
        lines.append(
            TrialLine(
                name=_name(trial),
                figures=(
                    percent(finite(figures.get("balanced_accuracy"))),
                    percent(finite(trial.get("train_balanced_accuracy"))),
                    percent(finite(figures.get("worst_class_recall"))),
                    decimal(finite(figures.get("balanced_log_loss"))),
                ),
                verdict="neither, or too early to tell" if verdict == "open" else verdict,
                rung=percent(finite(trial.get("rung"))),
                seconds=trial.get("seconds"),
                stopped_at=trial.get("stopped_at"),
                became=str(trial.get("became") or ""),
                chosen=trial.get("became") == "went on as the training",
            )
        )
    return lines


def trial_axes(selection: Mapping[str, Any]) -> list[TrialAxis]:
    """The axes on which there are at least two trials that can be compared: all at the first rung."""
    judged = [one for one in _judged(selection) if one["rungs"][0].get("validation")]
    found = []
    for axis, title in _TITLES.items():
        on_it = [one for one in judged if one.get("axis") in ("", axis)]
        if len(on_it) < 2:
            continue
        ordered = sorted(on_it, key=_capacity if axis == "capacity" else _strength)
        first = [one["rungs"][0] for one in ordered]
        found.append(
            TrialAxis(
                title=title,
                names=tuple(str(one["recipe"]["network"]) if axis == "capacity" else _name(one) for one in ordered),
                train=tuple(float(one["train_balanced_accuracy"]) for one in first),
                validation=tuple(float(one["validation"]["balanced_accuracy"]) for one in first),
            )
        )
    return found


def _judged(selection: Mapping[str, Any]) -> Sequence[Trial]:
    return [one for one in selection.get("trials") or [] if one.get("rungs")]


def _name(trial: Trial) -> str:
    return str(trial.get("change") or "the recipe of the rules")


def _capacity(trial: Trial) -> int:
    network = trial["recipe"].get("network")
    return FAMILY.index(network) if network in FAMILY else 0


def _strength(trial: Trial) -> int:
    return _SIDES.get(str(trial.get("direction")), 0)
