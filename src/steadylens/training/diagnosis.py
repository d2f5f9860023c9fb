"""Over- or underfitting, in words, with the figures that say so.

The rules, in this order; accuracy here is balanced accuracy, of the weights that are kept:

1. *Overfitting*: the training images are known better than the validation images by more than
   `GAP`, and by more than the validation figure's own uncertainty; unless the training images are
   not learned either (below `LEARNED`) and lack more than the gap: the larger of the two errors is
   the one to name (Ng, "Machine Learning Yearning", 2018, chapters 20 to 27). Or: the gap is
   beyond the uncertainty, and by the best epoch the validation log-loss had risen by more than
   `RISE` from its minimum while the training log-loss still fell.
2. *Underfitting*: neither the weights that are kept nor those of a later epoch reach `LEARNED` on
   the training images, or the training ended by its number of epochs or its time budget, with
   training images still to learn (up to `KNOWN`), while the last quarter of the epochs still raised
   the best validation accuracy by more than `CLIMB`, and by more than its uncertainty.
3. *Good*: neither.

What came after the best epoch is not held against the weights of before: where early stopping has
put back weights from before the training images were learned by heart, the training overfitted and
what is kept does not. It speaks for them: where later epochs learned the training images and the
validation images no better, there was nothing left to learn.

Two things no curve can tell. Where there are few validation images, a gap may be chance, and the
text says so. And where labels are wrong or classes alike, nobody could learn all training images:
a network that learned what there is looks like one that is too small. Such a training is called
underfitting, and the text names both causes.

The five thresholds are our own choice: round numbers near what a person would call a large gap, a
poor fit and a visible climb. They decide what is said, never which weights are kept. How often the
rules are right is measured by `benchmarks/diagnosis.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

GAP = 0.10
RISE = 0.10  # of the minimum
LEARNED = 0.80
KNOWN = 0.99
CLIMB = 0.02

Row = Mapping[str, float | None]
Verdict = Literal["good", "overfitting", "underfitting"]

ADVICE: dict[Verdict, tuple[str, ...]] = {
    "good": ("Where a class is still found too rarely, more images of that class help most.",),
    "overfitting": (
        "Add images, of the classes with the lowest recall first.",
        "Vary the images more: --augment strong, a larger --mixup.",
        "Hold the weights back: a larger --l2, --l1 or --dropout.",
        "Stop sooner: --early-stopping with fewer epochs of patience; or take a smaller --network.",
    ),
    "underfitting": (
        "Train longer: more --epochs, or a larger --budget.",
        "Give the network more capacity: a larger --network, --width or --depth.",
        "Regularise less: a smaller --l2, --l1 or --dropout, --mixup 0, --augment light.",
    ),
}


@dataclass(frozen=True)
class Diagnosis:
    """The verdict on a training, the figures behind it, and what to do about it."""

    verdict: Verdict
    train_balanced_accuracy: float
    validation_balanced_accuracy: float
    gap: float
    text: str
    advice: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The diagnosis block of `report.json`."""
        return {**asdict(self), "advice": list(self.advice)}


def diagnose(
    curve: Sequence[Row],
    *,
    best_epoch: int,
    train: tuple[float, float],
    validation: tuple[float, float],
    margin: float,
    stopped: str,
) -> Diagnosis:
    """Say whether a training overfits, underfits or is good, by the rules at the top of this module.

    Args:
        curve: one row an epoch, with `epoch` and the balanced accuracy and balanced log-loss on
            both splits; a figure that was not measured is None.
        best_epoch: the epoch whose weights were kept.
        train: balanced accuracy and balanced log-loss of the final weights on the training
            images, measured without augmentation.
        validation: the same on the validation images.
        margin: half the width of the 95 % interval of the validation balanced accuracy.
        stopped: "budget", "early" or "epochs".
    """
    gap, lacking = train[0] - validation[0], 1 - train[0]
    rise = _rise(curve, best_epoch)
    climb = _climb(curve) if stopped in ("epochs", "budget") else 0.0
    verdict: Verdict = "good"
    reason = f"The training is long enough and the gap is small enough (up to {_points(max(GAP, margin))} is no alarm)."
    if gap > max(GAP, margin) and (train[0] >= LEARNED or gap >= lacking):
        verdict, reason = "overfitting", "It has learned the training images more than what their classes look like."
    elif gap > margin and rise > RISE:
        verdict = "overfitting"
        reason = f"The validation log-loss had risen by {_percent(rise)} while the training log-loss still fell."
    elif max(train[0], _later(curve, best_epoch)) < LEARNED:
        verdict = "underfitting"
        reason = (
            f"It has not learned the training images themselves (below {_percent(LEARNED)}): it was held back, or "
            "their labels cannot be told from the images."
        )
    elif climb > max(CLIMB, margin) and train[0] < KNOWN:
        verdict = "underfitting"
        reason = f"The last quarter of the epochs still gained {_points(climb)} on validation when the training ended."
    elif train[0] < LEARNED:
        reason = "Later epochs learned the training images better, and validation images no better."
    elif gap > GAP:
        reason = (
            f"With so few validation images a gap of up to {_points(margin)} may be chance; more of them would tell."
        )
    text = f"{_describe(train[0], validation[0])} {reason}"
    return Diagnosis(verdict, train[0], validation[0], gap, text, ADVICE[verdict])


def _rise(curve: Sequence[Row], best_epoch: int) -> float:
    """How far the validation log-loss rose above its minimum, as a share of it, while the training's fell; else 0."""
    rows = [
        (validation, train)
        for row in curve
        if (row["epoch"] or 0) <= best_epoch
        and (validation := row.get("validation_balanced_log_loss")) is not None
        and (train := row.get("train_balanced_log_loss")) is not None
    ]
    if not rows:
        return 0.0
    lowest, train_then = min(rows)
    last, train_last = rows[-1]
    return (last - lowest) / lowest if train_last < train_then and lowest > 0 else 0.0


def _later(curve: Sequence[Row], best_epoch: int) -> float:
    """The best accuracy on the training images after the best epoch; 0 where there is none."""
    later = (row.get("train_balanced_accuracy") for row in curve if (row["epoch"] or 0) > best_epoch)
    return max((value for value in later if value is not None), default=0.0)


def _climb(curve: Sequence[Row]) -> float:
    """What the last quarter of the epochs added to the best validation accuracy before it."""
    measured = [value for row in curve if (value := row.get("validation_balanced_accuracy")) is not None]
    start = len(measured) - max(1, len(measured) // 4)
    return max(measured[start:]) - max(measured[:start]) if start > 0 else 0.0


def _describe(train: float, validation: float) -> str:
    gap = train - validation
    difference = f"a gap of {_points(gap)}" if round(gap, 3) > 0 else "no gap"
    return (
        f"{_percent(train)} on the training images, {_percent(validation)} on validation images it never saw: "
        f"{difference}."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(share: float) -> str:
    return f"{100 * share:.1f} points"
