"""What a run or an evaluation says in a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steadylens.data.folders import printable
from steadylens.data.images import Refusal
from steadylens.deployment.predictor import Prediction

_HEADLINES = ("balanced_accuracy", "worst_class_recall", "accuracy", "macro_f1", "log_loss", "balanced_log_loss", "ece")
_SHOWN_CLASSES = 10


def summary(run: Path, report: Mapping[str, Any]) -> str:
    """The end of a run: the figures on the test split, the verdict, and where everything is."""
    diagnosis = report["diagnosis"]
    return "\n".join(
        [
            scores_table(report["test"]),
            "",
            f"{diagnosis['verdict'].capitalize()}: {diagnosis['text']}",
            "",
            f"report   {run / 'report.html'}",
            f"model    {run / 'model'}",
            f"next     {shlex.join(['steadylens', 'predict', str(run)])} IMAGE...",
        ]
    )


def scores_table(scores: Mapping[str, Any]) -> str:
    """The headline figures with their 95 % intervals, and the classes that are found least."""
    lines = [f"On {scores['n']:,} test images, with 95 % intervals:"]
    for name in _HEADLINES:
        figure = scores[name]
        label = name.replace("_", " ")
        if name == "worst_class_recall":
            label += f" ({scores['worst_class']})"
        value, low, high = (_shown(name, figure[key]) for key in ("value", "low", "high"))
        lines.append(f"  {label:<32} {value}  [{low.strip()}, {high.strip()}]")
    known = [row for row in scores["per_class"] if row["recall"] is not None]
    known.sort(key=lambda row: row["recall"])
    lines.append(
        "  recall by class: " + ", ".join(f"{row['class']} {row['recall']:.0%}" for row in known[:_SHOWN_CLASSES])
    )
    if len(known) > _SHOWN_CLASSES:
        lines[-1] += f" and {len(known) - _SHOWN_CLASSES} better ones"
    return "\n".join(lines)


def _shown(name: str, value: float) -> str:
    return f"{value:7.3f}" if "log_loss" in name else f"{value:7.1%}"


def answer_row(path: str, answer: Prediction | Refusal) -> dict[str, Any]:
    """What a model says of one image, as JSON."""
    shown = printable(path)  # a file name may hold bytes that are not Unicode
    if isinstance(answer, Refusal):
        return {"path": shown, "refusal": answer.reason}
    named = {"label": answer.label, "class": answer.class_name, "probability": answer.probability}
    return {"path": shown, **named, "probabilities": answer.probabilities}


def answer_line(path: str, answer: Prediction | Refusal) -> str:
    """What a model says of one image, as a line of fields between tabs."""
    if isinstance(answer, Refusal):
        return f"{printable(path)}\trefused\t{answer.reason}"
    return f"{printable(path)}\t{answer.class_name}\t{answer.probability:.4f}"
