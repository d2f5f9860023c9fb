"""The page tells the trials in words, as a table, and as plots of what can be compared."""

from __future__ import annotations

from typing import Any

from steadylens.models import FAMILY
from steadylens.report import plots
from steadylens.report.selection_section import finished, trial_axes, trial_lines


def rung(at: float, train: float, validation: float) -> dict[str, Any]:
    figures = {"balanced_accuracy": validation, "balanced_log_loss": 1.0 - validation, "worst_class_recall": 0.1}
    return {"rung": at, "train_balanced_accuracy": train, "validation": figures, "verdict": "open", "seconds": 10.0,
            "stopped_at": 3}  # fmt: skip


def trial(
    change: str, axis: str, direction: str, *rungs: dict[str, Any], network: str = FAMILY[1], became: str = "dropped"
) -> dict[str, Any]:
    recipe = {"network": network}
    return {"recipe": recipe, "change": change, "axis": axis, "direction": direction, **rungs[-1], "folds": 1,
            "became": became, "rungs": list(rungs)}  # fmt: skip


BASE = trial("", "", "aside", rung(0.05, 0.5, 0.4), rung(0.15, 0.7, 0.5), became="behind at the last rung")
MORE = trial("mixup 0.7 to 1", "strength", "stronger", rung(0.05, 0.45, 0.42), rung(0.15, 0.6, 0.58),
             became="went on as the training")  # fmt: skip
LESS = trial("mixup 0.7 to 0.3", "strength", "weaker", rung(0.05, 0.6, 0.41))
SMALLER = trial("network m to s", "capacity", "stronger", rung(0.05, 0.4, 0.39), network=FAMILY[0])
FAILED = {**trial("l2 1 to 2", "strength", "stronger", rung(0.05, 0.4, 0.3), became="failed: no number"),
          "validation": None, "train_balanced_accuracy": None, "verdict": None, "stopped_at": None}  # fmt: skip
FAILED["rungs"] = [{**FAILED["rungs"][0], "validation": None, "train_balanced_accuracy": None}]
WHOLE = {"recipe": {"network": FAMILY[1]}, "validation": {"balanced_accuracy": 0.9}, "seconds": 100.0, "stopped_at": 40}
SELECTION = {"trials": [WHOLE, BASE, MORE, LESS, SMALLER, FAILED], "chosen": {}}


def test_each_trial_has_a_line_as_it_stood_last_and_one_of_them_is_chosen() -> None:
    lines = trial_lines(SELECTION)
    assert [line.name for line in lines] == [
        "the recipe of the rules", "mixup 0.7 to 1", "mixup 0.7 to 0.3", "network m to s", "l2 1 to 2",
    ]  # fmt: skip
    assert [line.chosen for line in lines] == [False, True, False, False, False]
    assert [figure[:2] for figure in lines[1].figures] == ["58", "60", "10", "0."]
    assert lines[1].verdict == "neither, or too early to tell"
    assert lines[-1].became == "failed: no number"
    assert lines[-1].verdict == ""
    assert finished(SELECTION)["trials"] == [WHOLE]


def test_an_axis_goes_from_less_to_more_and_has_what_can_be_compared() -> None:
    strength, capacity = trial_axes(SELECTION)
    assert strength.names == ("mixup 0.7 to 0.3", "the recipe of the rules", "mixup 0.7 to 1")
    assert strength.validation == (0.41, 0.4, 0.42)  # all at the first rung
    assert strength.train == (0.6, 0.5, 0.45)
    assert (capacity.names, capacity.train) == (FAMILY[:2], (0.4, 0.5))
    assert trial_axes({"trials": [WHOLE, BASE, FAILED]}) == []
    assert trial_axes({}) == []
    assert trial_lines({"trials": [WHOLE]}) == []


def test_the_plot_tells_its_figures_to_those_who_do_not_see_it() -> None:
    axis = trial_axes(SELECTION)[0]
    svg = plots.trials_plot(axis.names, axis.train, axis.validation, name=axis.title)
    assert svg.startswith("<svg")
    for words in ("Strength of regularisation", "mixup 0.7 to 1 45", "the recipe of the rules 50"):
        assert words in svg
