"""What compare.json says of each strategy: means over its seeds, intervals, and the differences to plain."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadylens.metrics import Answers, paired_differences
from steadylens.report.comparison_words import what_happened
from steadylens.training.strategies import Strategy

FIGURES = ("balanced_accuracy", "worst_class_recall", "accuracy", "macro_f1", "log_loss", "balanced_log_loss", "ece")

Result = Mapping[str, Any]


def comparison_block(
    strategies: Sequence[Strategy],
    results: Sequence[Result],
    labels: NDArray[np.int64],
    classes: Sequence[str],
    *,
    seed: int,
) -> dict[str, Any]:
    """The part of compare.json that is about the strategies: only JSON values.

    Args:
        strategies: plain first.
        results: of every training, in any order.
        labels: (n,) of the test images, in the order of the results' answers.
        classes: the names.
        seed: of the intervals.
    """
    by_name = {one.name: sorted(_of(one, results), key=lambda r: int(r["seed"])) for one in strategies}
    reference = _answers(by_name[strategies[0].name])
    rows: list[dict[str, Any]] = []
    for strategy in strategies:
        row = _row(strategy, by_name[strategy.name])
        if strategy is not strategies[0]:
            found = paired_differences(labels, _answers(by_name[strategy.name]), reference, seed=seed)
            row["difference"] = {name: figure.as_dict() for name, figure in found.items()}
        row["text"] = what_happened(row, rows[0] if rows else None)
        rows.append(row)
    best = max(rows, key=lambda row: float(row["validation"]["balanced_accuracy"]["value"]))
    return {
        "classes": list(classes),
        "test_images": len(labels),
        "best_by_validation": best["name"],
        "strategies": rows,
    }


def _of(strategy: Strategy, results: Sequence[Result]) -> list[Result]:
    return [result for result in results if result["strategy"] == strategy.name]


def _answers(results: Sequence[Result]) -> Answers:
    answers = [result["answers"] for result in results]
    return Answers(
        np.array([one["predicted"] for one in answers], np.int64), np.array([one["losses"] for one in answers], float)
    )


def _row(strategy: Strategy, results: Sequence[Result]) -> dict[str, Any]:
    """One strategy; its curve, recipe and reasons are those of its first seed."""
    first = results[0]
    return {
        "name": strategy.name,
        "title": strategy.title,
        "aim": strategy.aim,
        "against": strategy.against,
        "source": strategy.source,
        "fields": dict(strategy.fields),
        "parameters": first["parameters"],
        "test": {name: _mean_figure(results, "test", name) for name in FIGURES},
        "validation": {name: _mean_figure(results, "validation", name) for name in FIGURES},
        "worst_class": Counter(str(result["test"]["worst_class"]) for result in results).most_common(1)[0][0],
        "train_balanced_accuracy": mean(result["diagnosis"]["train_balanced_accuracy"] for result in results),
        "gap": mean(result["diagnosis"]["gap"] for result in results),
        "verdict": Counter(result["diagnosis"]["verdict"] for result in results).most_common(1)[0][0],
        "epochs": mean(result["training"]["epochs"] for result in results),
        "best_epoch": mean(result["training"]["best_epoch"] for result in results),
        "seconds": mean(result["training"]["total_seconds"] for result in results),
        "difference": None,
        "trainings": [_training(result) for result in results],
        "curve": first["curve"],
        "recipe": first["recipe"],
        "why": first["why"],
    }


def _mean_figure(results: Sequence[Result], split: str, name: str) -> dict[str, float]:
    """The mean over the seeds, with the mean ends of their intervals.

    The seeds are tested on the same images, so that their means are hardly surer of them than each alone.
    """
    figures = [result[split][name] for result in results]
    return {key: mean(float(figure[key]) for figure in figures) for key in ("value", "low", "high")}


def _training(result: Result) -> dict[str, Any]:
    diagnosis, training = result["diagnosis"], result["training"]
    return {
        "seed": result["seed"],
        "epochs": training["epochs"],
        "best_epoch": training["best_epoch"],
        "stopped": training["stopped"],
        "networks": max(1, sum(member["joins"] for member in training["members"])),
        "seconds": training["total_seconds"],
        "verdict": diagnosis["verdict"],
        "gap": diagnosis["gap"],
        **{name: result["test"][name]["value"] for name in FIGURES},
    }
