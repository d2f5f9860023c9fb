"""The block of report.json: complete, true, and JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from steadylens.errors import DataError
from steadylens.evaluation.evaluate import evaluate
from steadylens.metrics import expected_calibration_error, softmax

KEYS = {
    "n",
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "worst_class_recall",
    "log_loss",
    "balanced_log_loss",
    "ece",
    "worst_class",
    "per_class",
    "confusion",
    "calibration",
    "reliability",
    "abstention",
}


@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 40))
@settings(max_examples=30)
def test_the_block_is_whole_and_is_json(seed: int, classes: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    names = [f"class {i}" for i in range(classes)]
    labels = rng.integers(0, classes, n)
    logits = rng.normal(size=(n, classes)).astype(np.float32)
    block = evaluate(logits, labels, names, 1.5, seed=0)

    assert json.loads(json.dumps(block, allow_nan=False)) == block
    assert set(block) == KEYS
    assert block["n"] == n
    assert block["abstention"] is None
    for name in ("accuracy", "balanced_accuracy", "macro_f1", "worst_class_recall", "log_loss", "ece"):
        assert block[name]["low"] <= block[name]["value"] <= block[name]["high"]
    assert np.sum(block["confusion"]) == n
    assert sum(row["count"] for row in block["reliability"]) == n
    worst = next(row for row in block["per_class"] if row["class"] == block["worst_class"])
    assert worst["recall"] == pytest.approx(block["worst_class_recall"]["value"])


def test_per_class_figures_agree_with_scikit_learn() -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(120) % 3
    logits = rng.normal(size=(120, 3)) + np.eye(3)[labels]
    block = evaluate(logits, labels, ["a", "b", "c"], 2.0, seed=0)
    precision, recall, f1, support = sk.precision_recall_fscore_support(labels, logits.argmax(axis=1))
    for i, row in enumerate(block["per_class"]):
        got = [row["precision"], row["recall"], row["f1"], row["support"]]
        assert got == pytest.approx([precision[i], recall[i], f1[i], support[i]])
    assert block["confusion"] == sk.confusion_matrix(labels, logits.argmax(axis=1)).tolist()


def test_what_is_undefined_is_null() -> None:
    # "ghost" has no images and is predicted once; "shy" has images and is never predicted.
    logits = np.array([[5.0, 0, 0], [0, 5.0, 0], [5.0, 0, 0]])
    block = evaluate(logits, np.array([0, 0, 2]), ["seen", "ghost", "shy"], 1.0, seed=0)
    seen, ghost, shy = block["per_class"]
    assert seen == {"class": "seen", "support": 2, "precision": 0.5, "recall": 0.5, "f1": 0.5}
    assert ghost == {"class": "ghost", "support": 0, "precision": 0.0, "recall": None, "f1": None}
    assert shy == {"class": "shy", "support": 1, "precision": None, "recall": 0.0, "f1": 0.0}
    assert block["confusion"] == [[1, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert block["worst_class"] == "shy"
    assert block["balanced_accuracy"]["value"] == 0.25


def test_the_temperature_changes_probabilities_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, 50), rng.normal(size=(50, 2)) * 3
    cold, warm = (evaluate(logits, labels, ["a", "b"], temperature, seed=0) for temperature in (1.0, 3.0))
    assert cold["confusion"] == warm["confusion"]
    assert cold["log_loss"]["value"] > warm["log_loss"]["value"]
    assert warm["calibration"] == {
        "temperature": 3.0,
        "ece_before": pytest.approx(expected_calibration_error(labels, softmax(logits))),
    }
    assert cold["ece"]["value"] == pytest.approx(warm["calibration"]["ece_before"])


def test_a_network_that_gives_nan_is_told() -> None:
    logits = np.array([[1.0, 2.0], [np.nan, 0.0]])
    with pytest.raises(DataError, match="1 of 2 images"):
        evaluate(logits, np.array([0, 1]), ["a", "b"], 1.0, seed=0)


def test_no_images_are_told() -> None:
    with pytest.raises(DataError, match="no images"):
        evaluate(np.zeros((0, 2)), np.zeros(0, dtype=np.int64), ["a", "b"], 1.0, seed=0)
