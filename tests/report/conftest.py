"""Synthetic run folders: what the pipeline writes, with classes and figures of our choosing."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from steadylens.data.findings import Finding

TEN = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
HOSTILE = ("<script>alert(1)</script>", '"quo\'te"', "two\nlines", "$\\alpha$ & co", "{{ 7 * 7 }}", "\u5bff\u53f8")

MakeRun = Callable[..., Path]


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run folder for the given classes and returns it; `change` edits the report first."""

    def make(
        classes: Sequence[str] = TEN,
        change: Callable[[dict[str, Any]], None] | None = None,
        plots: bool = True,
    ) -> Path:
        run = tmp_path / "steadylens-run"
        (run / "examples").mkdir(parents=True)
        report = report_of(classes)
        if not plots:  # a page without them is made five times as fast
            report["test"]["reliability"] = []
            report["data"]["per_class"] = {}
        if change is not None:
            change(report)
        write(run / "report.json", report)
        write(run / "recipe.json", recipe_of(report))
        write(run / "audit.json", findings_of(classes))
        lines = [json.dumps(line) for line in metrics_of(30 if plots else 0)]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_examples(run / "examples", classes)
        return run

    return make


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def png(width: int, seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (width, width, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def write_examples(folder: Path, classes: Sequence[str]) -> None:
    rows = []
    for number, group in enumerate(("right", "wrong", "confident-wrong") * 4):
        true, predicted = classes[number % len(classes)], classes[(number + (group != "right")) % len(classes)]
        name = f"{number:03d}.png"
        (folder / name).write_bytes(png(32 if number else 96, number))
        probability = round(0.4 + 0.05 * number + 0.0012, 4)
        path = f"/data/{true}/{number}.jpg"
        rows.append({"file": name, "group": group, "path": path, "true_class": true, "predicted_class": predicted})
        rows[-1]["probability"] = probability  # type: ignore[assignment]
    write(folder / "examples.json", rows)


def confusion_of(classes: Sequence[str], support: int = 100) -> NDArray[np.int64]:
    """Classes further down the list are found less often; what is missed goes mostly to the class before."""
    n = len(classes)
    confusion = np.zeros((n, n), dtype=np.int64)
    for row, recall in enumerate(np.linspace(0.97, 0.63, n)):
        found = round(support * float(recall))
        confusion[row, row] = found
        confusion[row, row - 1] += (support - found + 1) // 2
        confusion[row, row - 2] += (support - found) // 2
    return confusion


def scores_of(classes: Sequence[str]) -> dict[str, Any]:
    confusion = confusion_of(classes)
    support, found, called = confusion.sum(1), np.diag(confusion), confusion.sum(0)
    recall, precision = found / support, found / np.maximum(called, 1)
    f1 = 2 * recall * precision / (recall + precision)
    rows = zip(classes, support, precision, recall, f1, strict=True)
    centres = np.linspace(0.35, 0.97, 12)
    return {
        "n": int(support.sum()),
        "accuracy": around(float(found.sum() / support.sum()), 0.013),
        "balanced_accuracy": around(float(recall.mean()), 0.0131),
        "macro_f1": around(float(f1.mean()), 0.0135),
        "worst_class_recall": around(float(recall.min()), 0.0912),
        "log_loss": around(0.6423, 0.031),
        "balanced_log_loss": around(0.6789, 0.034),
        "ece": around(0.0214, 0.006),
        "worst_class": classes[int(recall.argmin())],
        "per_class": [
            {"class": c, "support": int(s), "precision": float(p), "recall": float(r), "f1": float(f)}
            for c, s, p, r, f in rows
        ],
        "confusion": confusion.tolist(),
        "calibration": {"temperature": 1.4142, "ece_before": 0.0876},
        "reliability": [
            {"confidence": float(c), "accuracy": float(c - 0.05 * np.sin(6 * c)), "count": int(3 + 400 * c**8)}
            for c in centres
        ],
    }


def around(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


def report_of(classes: Sequence[str]) -> dict[str, Any]:
    steps = np.linspace(0, 1, len(classes))
    train = {c: round(5000 * 100 ** -float(step)) for c, step in zip(classes, steps, strict=True)}
    validation = {c: max(5, n // 10) for c, n in train.items()}
    test = dict.fromkeys(classes, 100)
    per_class = {c: train[c] + validation[c] + test[c] for c in classes}
    refusals = [
        {"path": f"{classes[i % len(classes)]}/broken-{i}.jpg", "class": classes[i % len(classes)], "reason": why}
        for i, why in enumerate(
            ("is truncated: 1,204 of 8,811 bytes", "is not an image: it holds HTML", "is empty") * 5
        )
    ]
    return {
        "schema": 1,
        "steadylens_version": "0.1.0",
        "command": 'steadylens train "my photos" --budget 10m --seed 7',
        "classes": list(classes),
        "seed": 7,
        "device": "cpu",
        "data": data_of(per_class, {"train": train, "validation": validation, "test": test}, refusals),
        "selection": selection_of(train),
        "training": {
            "epochs": 30,
            "best_epoch": 23,
            "stopped": "early",
            "seconds": 312.4,
            "images_per_second": 3871.25,
            "precision": "bfloat16",
            "resumed": False,
            "budget_s": 600,
            "total_seconds": 574.9,
        },
        "diagnosis": {
            "verdict": "overfitting",
            "train_balanced_accuracy": 0.9432,
            "validation_balanced_accuracy": 0.8051,
            "gap": 0.1381,
            "text": "Training reaches 94.3 % where validation reaches 80.5 %: 13.8 points are learnt by heart.",
            "advice": ["Raise the augmentation one step.", "Collect more images of the smallest classes."],
        },
        "validation": scores_of(classes),
        "test": scores_of(classes),
        "robustness": None,
        "abstention": None,
        "timing": {"index": 1.21, "decode": 14.8, "select": 231.0, "fit": 312.4, "evaluate": 9.3},
        "environment": {"python": "3.11.2", "torch": "2.8.0", "cpu": "two cores", "gpu": None},
    }


def data_of(per_class: dict[str, int], splits: dict[str, Any], refusals: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "images": sum(per_class.values()),
        "refused": len(refusals),
        "per_class": per_class,
        "imbalance_factor": 100.0,
        "duplicates": 12,
        "near_duplicates": None,
        "leakage": 0,
        "label_issues": None,
        "refusals": refusals,
        "notes": ["The folder new class holds no images."],
        "splits": splits,
    }


def selection_of(train: dict[str, int]) -> dict[str, Any]:
    tried = [
        {"imbalance": imbalance, "network": network, "mixup": 0.2}
        for imbalance in ("none", "class-weights", "logit-adjust")
        for network in ("cnn-s", "cnn-m")
    ]
    return {
        "trials": [
            {
                "recipe": recipe,
                "validation": {
                    "balanced_accuracy": 0.61 + 0.033 * i,
                    "balanced_log_loss": 1.1 - 0.07 * i,
                    "worst_class_recall": 0.2 + 0.06 * i,
                },
                "seconds": 20.5 + 7 * i,
                "stopped_at": 6 + i,
            }
            for i, recipe in enumerate(tried)
        ],
        "chosen": tried[-1],
        "why": {
            "imbalance": "Best balanced accuracy on the validation split, 4.1 points above none.",
            "network": "The larger network gained 2.0 points and fits the budget.",
        },
        "minority": {
            "per_class": {
                c: {"images": n, "drawn_per_epoch": max(n, 800), "strength": round(1 - n / 5000, 2)}
                for c, n in train.items()
            }
        },
    }


def recipe_of(report: dict[str, Any]) -> dict[str, Any]:
    chosen: dict[str, Any] = report["selection"]["chosen"]
    return chosen | {
        "depth": 3,
        "image_size": 32,
        "dropout": 0.1,
        "l1": 0.0,
        "l2": 0.0005,
        "label_smoothing": 0.05,
        "early_stopping": 7,
        "seed": 7,
        "weights": None,
        "class_weights": [1.0, 2.5],
        "flip": True,
    }


def findings_of(classes: Sequence[str]) -> list[dict[str, Any]]:
    paths = (f"{classes[0]}/a.jpg", f"{classes[-1]}/b.jpg")
    findings = [
        Finding("duplicate", "12 files are copies of others, byte for byte.", "certain", "Remove them.", paths),
        Finding("conflicting-label", "1 image lies in two classes: look at it.", "certain", "Keep one.", paths),
        Finding("tiny-class", f"{classes[-1]} has 50 training images.", "certain", "Add images."),
    ]
    return [asdict(finding) for finding in findings]


def metrics_of(epochs: int) -> list[dict[str, Any]]:
    lines = []
    for epoch in range(1, epochs + 1):
        grown = 1 - float(np.exp(-epoch / 7))
        lines.append(
            {
                "epoch": epoch,
                "seconds": 10.4,
                "learning_rate": 0.01,
                "train_loss": 2.3 - 1.9 * grown,
                "train_balanced_accuracy": None if epoch == 1 else 0.1 + 0.85 * grown,
                "validation_balanced_accuracy": 0.1 + 0.7 * grown + 0.012 * float(np.sin(epoch)),
                "train_balanced_log_loss": 2.3 - 2.0 * grown,
                "validation_balanced_log_loss": 2.3 - 1.75 * grown + 0.008 * epoch,
                "validation_worst_class_recall": 0.5 * grown,
                "images_per_second": 3800.0,
            }
        )
    return lines
