"""Results of trainings that were never done, to compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadylens.evaluation.evaluate import evaluate
from steadylens.metrics import softmax
from steadylens.report.comparison_contents import comparison_block
from steadylens.training.diagnosis import diagnose
from steadylens.training.strategies import STRATEGIES, Strategy

CLASSES = ("bolt <x>", "nut", "washer")
LABELS = np.repeat([0, 1, 2], [120, 60, 30])


def result(strategy: str, seed: int, skill: float, train: float = 0.9, **changes: Any) -> dict[str, Any]:  # noqa: ANN401
    """As `comparison` writes it; more skill is more right answers."""
    rng = np.random.default_rng([seed, len(strategy)])
    logits = np.random.default_rng(5).normal(size=(len(LABELS), 3)) + 0.3 * rng.normal(size=(len(LABELS), 3))
    logits[np.arange(len(LABELS)), LABELS] += skill
    scores = evaluate(logits, LABELS, CLASSES, 1.0, seed=0)
    probabilities = softmax(logits)
    curve = [
        {
            "epoch": epoch, "seconds": float(epoch), "train_balanced_accuracy": train * epoch / 4,
            "validation_balanced_accuracy": scores["balanced_accuracy"]["value"] * epoch / 4,
            "train_balanced_log_loss": 1.0 / epoch, "validation_balanced_log_loss": 1.2 / epoch,
        }
        for epoch in (1, 2, 3, 4)
    ]  # fmt: skip
    value = scores["balanced_accuracy"]["value"]
    diagnosis = diagnose(
        curve, best_epoch=4, train=(train, 0.3), validation=(value, 0.5), margin=0.02, stopped="early"
    )  # fmt: skip
    return {
        "schema": 1, "strategy": strategy, "seed": seed,
        "recipe": {"network": "cnn-s", "imbalance": "none", "augment": "off", "mixup": 0.7, "l2": 0.05,
            "early_stopping": 5 * (strategy == "early-stopping"),
        },
        "why": {"network": "given"}, "parameters": 1000,
        "training": {
            "epochs": 4, "best_epoch": 4, "stopped": "early", "total_seconds": 12.5, "images_per_second": 900.0,
            "members": [],
        },
        "curve": curve, "diagnosis": diagnosis.as_dict(), "validation": scores, "test": scores,
        "answers": {
            "predicted": probabilities.argmax(1).tolist(),
            "losses": (-np.log(probabilities[np.arange(len(LABELS)), LABELS])).tolist(),
        },
        **changes,
    }  # fmt: skip


def strategies(*names: str) -> list[Strategy]:
    return [one for one in STRATEGIES if one.name in names]


def block(results: Sequence[Mapping[str, Any]], labels: NDArray[np.int64] = LABELS) -> dict[str, Any]:
    names = [one["strategy"] for one in results]
    return comparison_block(strategies(*names), results, labels, CLASSES, seed=0)


def report(results: Sequence[Mapping[str, Any]], jobs: int = 1) -> dict[str, Any]:
    """As compare.json holds it."""
    return {
        "schema": 1, "steadylens_version": "0.1.0", "command": "steadylens compare 'a <b>'",
        "settings": {
            "network": "keras-blog", "seeds": len({one["seed"] for one in results}), "seconds_each": 12.0,
            "epochs": None, "budget": 60.0, "jobs": jobs,
        },
        "data": {
            "splits": {"train": dict.fromkeys(CLASSES, 50)}, "imbalance_factor": 4.0, "notes": ["A note <b>."],
        },
        **block(results), "environment": {},
    }  # fmt: skip
