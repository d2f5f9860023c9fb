"""What a run or an evaluation says in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
            f"next     steadylens predict {run} IMAGE...",
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
