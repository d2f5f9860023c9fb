"""What report.json says: the contract of the design, filled from the stages' results."""

from __future__ import annotations

import importlib.metadata
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steadylens.config import Recipe
from steadylens.data.audit import duplicate_count, leakage_count
from steadylens.data.augment import base_strength
from steadylens.data.findings import Finding
from steadylens.data.sources import ImageIndex
from steadylens.data.split import Splits
from steadylens.training.imbalance import balance
from steadylens.training.loop import Epoch, Fitted

SCHEMA = 1
_LIBRARIES = ("torch", "timm", "numpy", "scikit-learn", "scipy", "pillow", "safetensors", "pyarrow")


def data_block(index: ImageIndex, splits: Splits, findings: Sequence[Finding]) -> dict[str, Any]:
    """What images there were, how they were split and what the audit found."""
    counts = np.bincount(index.labels, minlength=len(index.classes))
    return {
        "images": len(index),
        "refused": len(index.refusals),
        "per_class": _by_class(index.classes, counts),
        "imbalance_factor": float(counts.max() / counts.min()),
        "duplicates": duplicate_count(index),
        "near_duplicates": None,
        "leakage": leakage_count(index),
        "label_issues": None,
        "refusals": [{"path": r.path, "class": r.class_name, "reason": r.reason} for r in index.refusals],
        "findings": [asdict(f) for f in findings],
        "notes": [*index.notes, *splits.notes],
        "splits": {
            name: _by_class(index.classes, np.bincount(index.labels[rows], minlength=len(index.classes)))
            for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
        },
    }


def selection_block(
    recipe: Recipe,
    why: Mapping[str, str],
    train_counts: NDArray[np.int64],
    validation: Mapping[str, Any],
    fitted: Fitted,
    account: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The recipe, why it is so, the trials that there were, and what minority augmentation came to.

    `account` is that of a pretrained backbone, whose probe is a trial of its own where it was fine-tuned as well.
    """
    trial = {
        "recipe": recipe_block(recipe),
        "validation": {
            name: validation[name]["value"] for name in ("balanced_accuracy", "balanced_log_loss", "worst_class_recall")
        },
        "seconds": fitted.seconds,
        "stopped_at": fitted.epochs,
    }
    trials = [trial]
    if account is not None and account["fine_tuned"] is not None:
        figures = dict(account["probe"])
        probe = {**recipe_block(recipe), "transfer": "probe"}
        trials.append({"recipe": probe, "seconds": figures.pop("seconds"), "validation": figures, "stopped_at": 0})
    return {
        "trials": trials,
        "chosen": recipe_block(recipe),
        "why": dict(why),
        "minority": _minority(recipe, train_counts),
    }


def _minority(recipe: Recipe, counts: NDArray[np.int64]) -> dict[str, Any] | None:
    if not recipe.minority_augment and recipe.imbalance != "oversample":
        return None
    strength = base_strength(recipe.augment, flip=recipe.flip, minority_only=recipe.minority_augment > 0)
    remedy = balance(counts, recipe.imbalance, recipe.minority_augment, strength)
    rows = zip(recipe.classes, counts, remedy.shares, remedy.strengths, strict=True)
    return {
        "per_class": {
            name: {
                "images": int(images),
                "drawn_per_epoch": round(float(share) * int(counts.sum())),
                "strength": round(float(strength), 3),
            }
            for name, images, share, strength in rows
        }
    }


def training_block(fitted: Fitted, recipe: Recipe, total_seconds: float) -> dict[str, Any]:
    """How the training went."""
    return {
        "epochs": fitted.epochs,
        "best_epoch": fitted.best_epoch,
        "stopped": fitted.stopped,
        "seconds": fitted.seconds,
        "images_per_second": fitted.images_per_second,
        "precision": recipe.precision,
        "resumed": False,
        "budget_s": recipe.budget,
        "total_seconds": total_seconds,
    }


def recipe_block(recipe: Recipe) -> dict[str, Any]:
    """The recipe as recipe.json has it."""
    return {**asdict(recipe), "classes": list(recipe.classes)}


def curve_row(epoch: Epoch) -> dict[str, Any]:
    """One line of metrics.jsonl; what is not a number becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(epoch).items()}


def environment() -> dict[str, Any]:
    """What ran the training: versions, processor and accelerator."""
    return {
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in _LIBRARIES},
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def cpu_name() -> str:
    """The processor's name, as well as the system tells it."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _by_class(classes: Sequence[str], counts: NDArray[np.int64]) -> dict[str, int]:
    return dict(zip(classes, map(int, counts), strict=True))
