"""Logits and labels to the figures of one split, as `report.json` holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from steadylens.errors import DataError
from steadylens.evaluation.calibration import apply_temperature
from steadylens.metrics import Floats, Integers, expected_calibration_error, figures, recalls, reliability, softmax


def evaluate(
    logits: Floats, labels: Integers, classes: Sequence[str], temperature: float, *, seed: int
) -> dict[str, Any]:
    """The `validation` or `test` block of `report.json`: only JSON values, null where a figure is undefined.

    Args:
        logits: (n, classes), before calibration.
        labels: (n,), positions in `classes`.
        classes: the names, in the order of the logits.
        temperature: the calibration that the probabilities get.
        seed: of the intervals.

    Raises:
        DataError: there are no images, or the logits hold a value that is not a finite number.
    """
    _check(logits, labels)
    probabilities = apply_temperature(logits, temperature)
    predicted = probabilities.argmax(axis=1)
    confusion = _confusion(labels, predicted, len(classes))
    return {
        "n": len(labels),
        **{name: figure.as_dict() for name, figure in figures(labels, probabilities, seed=seed).items()},
        "worst_class": classes[int(np.nanargmin(recalls(labels, predicted, len(classes))))],
        "per_class": _per_class(confusion, classes),
        "confusion": confusion.tolist(),
        "calibration": {
            "temperature": float(temperature),
            "ece_before": expected_calibration_error(labels, softmax(logits)),
        },
        "reliability": [asdict(row) for row in reliability(labels, probabilities)],
        "abstention": None,
    }


def _check(logits: Floats, labels: Integers) -> None:
    if len(labels) == 0:
        raise DataError("There are no images to evaluate. Give at least one image of one of the classes.")
    if not np.isfinite(logits).all():
        rows = int((~np.isfinite(logits)).any(axis=1).sum())
        raise DataError(
            f"The network's output is not a finite number for {rows} of {len(labels)} images, "
            "so nothing can be said of it. Train again, with a lower learning rate."
        )


def _confusion(labels: Integers, predicted: Integers, classes: int) -> Integers:
    """Counts (classes, classes): the row is the true class, the column the predicted one."""
    return np.bincount(labels * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def _per_class(confusion: Integers, classes: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for label, name in enumerate(classes):
        right, support, named = confusion[label, label], confusion[label].sum(), confusion[:, label].sum()
        rows.append(
            {
                "class": name,
                "support": int(support),
                "precision": _share(right, named),
                "recall": _share(right, support),
                "f1": _share(2 * right, support + named) if support else None,
            }
        )
    return rows


def _share(part: np.integer, whole: np.integer) -> float | None:
    return float(part / whole) if whole else None
