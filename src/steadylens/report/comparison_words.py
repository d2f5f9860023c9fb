"""What a comparison came to, in words with the figures behind them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from steadylens.report.figures import interval_of, percent, plain, points

Row = Mapping[str, Any]
_UNIT = "\u202fpoints"  # as `figures.points` writes it
_HARDLY = 0.005  # of a gap's change: half a point is not worth a word


def what_happened(row: Row, reference: Row | None) -> str:
    """What a strategy did on these images, beside plain (None where it is plain itself)."""
    if reference is None:
        return " ".join(
            [
                f"It reaches {_value(row, 'balanced_accuracy')} balanced accuracy, and recognises "
                f"{_value(row, _WORST)} of the images of the class that it finds least, {plain(row['worst_class'])}.",
                f"On the training images themselves it reaches {percent(row['train_balanced_accuracy'])}, a gap of "
                f"{_signed(row['gap'])} to validation: {_VERDICTS[row['verdict']]}.",
            ]
        )
    return " ".join([_balanced(row), _worst(row, reference), _gap(row, reference), *_own(row, reference)])


def headline(report: Mapping[str, Any]) -> str:
    """The first sentence of the page: which strategy did best by validation, and what it gains on the test images."""
    rows = {row["name"]: row for row in report["strategies"]}
    best = rows[report["best_by_validation"]]
    if best["difference"] is None:
        return "By validation, nothing that was tried does better than plain training."
    change = interval_of(best["difference"]["balanced_accuracy"])
    best_of = f"Best by validation: {best['title']}"
    if change.low is not None and change.low > 0:
        return f"{best_of}. On the test images it has {points(change.value)} of balanced accuracy over plain training."
    if change.high is not None and change.high < 0:
        return f"{best_of}. On the test images, though, it is surely worse than plain training."
    return f"{best_of}. On the test images it is not surely better than plain training."


def caution(report: Mapping[str, Any]) -> str:
    """How far the intervals may be trusted."""
    others, seeds = len(report["strategies"]) - 1, int(report["settings"]["seeds"])
    chance = (
        f"Of {others} such intervals, about one in twenty leaves out the truth by chance."
        if others > 1
        else "One such interval in twenty leaves out the truth by chance."
    )
    of_seeds = (
        "Each strategy was trained once: another seed would move its figures by some tenths of a point to some points, "
        "which no interval here knows of. --seeds 3 would show it."
        if seeds == 1
        else f"All figures are means over {seeds} seeds; the table of trainings shows how far these differ."
    )
    return (
        f"The test images are the same for all, and the intervals of the differences are those of a paired bootstrap "
        f"over them. {chance} {of_seeds} Choose by the validation column: to choose by the test figures would be to "
        "tune on them."
    )


_WORST = "worst_class_recall"
_VERDICTS = {
    "good": "neither over- nor underfitting",
    "overfitting": "it overfits",
    "underfitting": "it underfits",
}


def _value(row: Row, name: str) -> str:
    return percent(row["test"][name]["value"])


def _amount(share: float) -> str:
    return points(abs(share)).removeprefix("+")


def _signed(gap: float) -> str:
    """A gap; where validation is the better of the two, it is below zero."""
    return points(gap).removeprefix("+")


def _range(low: float, high: float) -> str:
    return f"{points(low).removesuffix(_UNIT)} to {points(high)}"


def _balanced(row: Row) -> str:
    change = interval_of(row["difference"]["balanced_accuracy"])
    value, low, high = (float(x or 0.0) for x in (change.value, change.low, change.high))
    reached = _value(row, "balanced_accuracy")
    if low > 0 or high < 0:
        verb = "rises" if low > 0 else "falls"
        return f"Balanced accuracy {verb} by {_amount(value)} (95 %: {_range(low, high)}) to {reached}."
    return f"Balanced accuracy, {reached}, is not surely another than plain's: {_range(low, high)}."


def _worst(row: Row, reference: Row) -> str:
    change = interval_of(row["difference"][_WORST])
    now, then = _value(row, _WORST), _value(reference, _WORST)
    found = f"Of the class found least, {plain(row['worst_class'])}, {now} of the images are recognised"
    same = row["worst_class"] == reference["worst_class"]
    before = f"plain: {then}" if same else f"plain: {then}, of {plain(reference['worst_class'])}"
    sure = (change.low or 0.0) > 0 or (change.high or 0.0) < 0
    return f"{found} ({before})." if sure else f"{found} ({before}; chance could explain the difference)."


def _gap(row: Row, reference: Row) -> str:
    change = float(row["gap"]) - float(reference["gap"])
    how = "stays" if abs(change) < _HARDLY else f"{'narrows' if change < 0 else 'widens'} by {_amount(change)}"
    where = f"at {_signed(row['gap'])}" if how == "stays" else f"to {_signed(row['gap'])}"
    said = _VERDICTS[row["verdict"]]
    still = " still" if row["verdict"] == reference["verdict"] != "good" else ""
    return f"The gap between training and validation {how} {where}: {said.replace('it ', f'it{still} ', 1)}."


def _own(row: Row, reference: Row) -> list[str]:
    """What is worth saying of this strategy alone."""
    if row["aim"] == "capacity":
        times = float(row["parameters"]) / float(reference["parameters"])
        return [
            f"It has {row['parameters']:,} parameters, {_times(times)} plain's, and went through the images "
            f"{_count(row['epochs'])} times; plain, {_count(reference['epochs'])} times."
        ]
    if row["name"] == "early-stopping":
        stopped = sum(one["stopped"] == "early" for one in row["trainings"])
        ended = f"{stopped} of {len(row['trainings'])} trainings ended early"
        if len(row["trainings"]) == 1:
            ended = "It ended early" if stopped else "It did not end early"
        return [f"{ended}; the weights kept are those of epoch {_count(row['best_epoch'])} of {_count(row['epochs'])}."]
    if row["name"] == "auto":
        recipe = row["recipe"]
        return [
            f"It took {recipe['network']} with imbalance {recipe['imbalance']}, augmentation {recipe['augment']}, "
            f"mixing in {percent(recipe['mixup'])} of the batches and L2 {recipe['l2']:g}{_together(row)}."
        ]
    return []


def _together(row: Row) -> str:
    """How many networks answer, where it is more than one in some training."""
    networks = [one["networks"] for one in row["trainings"]]
    if max(networks) == 1:
        return ""
    return f"; {_count(sum(networks) / len(networks))} networks answer together"


def _times(factor: float) -> str:
    return f"{factor:.1f} times" if factor < 10 else f"{factor:.0f} times"


def _count(number: float) -> str:
    return f"{number:.0f}" if float(number).is_integer() else f"{number:.1f}"
