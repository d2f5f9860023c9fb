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

from steadylens import __version__
from steadylens.config import Recipe
from steadylens.data.audit import duplicate_count, leakage_count
from steadylens.data.augment import GREATEST_STRENGTH, base_strength, different_copies, policy_of
from steadylens.data.batches import quotas
from steadylens.data.duplicates import NearDuplicates
from steadylens.data.findings import Finding
from steadylens.data.near_findings import near_duplicate_count
from steadylens.data.sources import ImageIndex
from steadylens.data.split import Splits
from steadylens.models.mirrored import Mirrored
from steadylens.training.imbalance import balance
from steadylens.training.state import Epoch, Fitted, validation_figures

SCHEMA = 1
_LIBRARIES = ("torch", "timm", "numpy", "scikit-learn", "scipy", "pillow", "safetensors", "pyarrow")


def data_block(
    index: ImageIndex, splits: Splits, findings: Sequence[Finding], near: NearDuplicates, *, foreign: bool
) -> dict[str, Any]:
    """What images there were, how they were split and what was found; `foreign`: also those that are like no others."""
    counts = np.bincount(index.labels, minlength=len(index.classes))
    learned = np.bincount(index.labels[index.but_test()], minlength=len(index.classes))
    return {
        "images": len(index),
        "refused": len(index.refusals),
        "per_class": _by_class(index.classes, counts),
        "imbalance_factor": float(learned.max() / learned.min()),
        "duplicates": duplicate_count(index),
        "near_duplicates": near_duplicate_count(index, near),
        "leakage": leakage_count(index, near),
        "label_issues": sum(len(finding.paths) for finding in findings if finding.kind == "label"),
        "refusals": _refusals(index),
        "fixes": _fixes(index),
        "findings": [asdict(f) for f in findings],
        "notes": [*index.notes, *splits.notes, _checked(splits, foreign)],
        "splits": {
            name: _by_class(index.classes, np.bincount(index.labels[rows], minlength=len(index.classes)))
            for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test))
        },
    }


def audit_block(index: ImageIndex, findings: Sequence[Finding], folder: Path) -> dict[str, Any]:
    """What audit.json of an audit says: the counts, what was refused and what was found."""
    counts = np.bincount(index.labels, minlength=len(index.classes))
    return {
        "schema": SCHEMA,
        "steadylens_version": __version__,
        "data": str(index.root) if index.root is not None else "arrays",
        "folder": str(folder),
        "images": len(index),
        "refused": len(index.refusals),
        "per_class": _by_class(index.classes, counts),
        "refusals": _refusals(index),
        "notes": list(index.notes),
        "fixes": _fixes(index),
        "findings": [asdict(f) for f in findings],
    }


def _checked(splits: Splits, foreign: bool) -> str:
    held_out = len(splits.validation) + len(splits.test)
    also = ", and whether the images are like the others," if foreign else ""
    left_out = "" if foreign else " There was no time to look for images that are like no others."
    return (
        f"The labels{also} were checked on the {held_out:,} images of validation and test, on which the network was "
        f"not trained.{left_out} `steadylens audit DATA --labels` checks all images."
    )


def selection_block(
    recipe: Recipe,
    why: Mapping[str, str],
    train_counts: NDArray[np.int64],
    validation: Mapping[str, Any],
    fitted: Fitted,
    account: Mapping[str, Any] | None = None,
    tried: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The recipe, why it is so, the trials that there were, and what minority augmentation came to.

    The first trial is the finished training. `account` is that of a pretrained backbone, whose probe is a trial of its
    own where it was fine-tuned as well; `tried` are trials that were judged at a rung, the one that became the training
    among them.
    """
    trial = {
        "recipe": recipe_block(recipe),
        "validation": {
            name: validation[name]["value"] for name in ("balanced_accuracy", "balanced_log_loss", "worst_class_recall")
        },
        "seconds": fitted.seconds,
        "stopped_at": fitted.epochs,
    }
    trials = [trial, *map(dict, tried)]
    if account is not None and account["fine_tuned"] is not None:
        trials[:1] = adapted_trials(recipe, fitted, account)
    return {
        "trials": trials,
        "chosen": trials[0]["recipe"],
        "why": dict(why),
        "minority": _minority(recipe, train_counts, fitted.epochs if fitted.best_epoch else 0),
    }


def adapted_trials(recipe: Recipe, fitted: Fitted, account: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The probe and the fine-tuning of a pretrained backbone as trials, the kept one first; neither is calibrated."""
    both = []
    for transfer, name, epochs in (("probe", "probe", 0), ("fine-tune", "fine_tuned", fitted.epochs)):
        if account[name] is not None:
            figures = dict(account[name])
            seconds = figures.pop("seconds")
            tried = {**recipe_block(recipe), "transfer": transfer}
            both.append({"recipe": tried, "seconds": seconds, "validation": figures, "stopped_at": epochs})
    return both if account["blend"] == 0 else [{**both[1], "validation": validation_figures(fitted.kept)}, both[0]]


def _refusals(index: ImageIndex) -> list[dict[str, str]]:
    return [{"path": r.path, "class": r.class_name, "reason": r.reason} for r in index.refusals]


def _fixes(index: ImageIndex) -> dict[str, Any] | None:
    """What a file of fixes changed, in numbers; None where there was none."""
    fixes = index.fixes
    if fixes is None:
        return None
    return {
        "file": fixes.file,
        "dropped": fixes.dropped,
        "relabelled": fixes.relabelled,
        "kept": len(fixes.kept),
    }


def _minority(recipe: Recipe, counts: NDArray[np.int64], epochs: int) -> dict[str, Any] | None:
    """What drawing small classes more often and changing them more came to; None where neither was done, or no epoch.

    `effective_images` is how many different images of a class the network can have seen: each draw of the training
    gives a new one, until augmentation has no further outcome for an image. It is an upper bound, because two draws may
    come to the same, and it counts variations of the images there are, which teach less than as many images would.
    """
    if not epochs or (not recipe.minority_augment and recipe.imbalance != "oversample"):
        return None
    only = recipe.minority_augment > 0
    policy = policy_of(recipe.augment, flip=recipe.flip, minority_only=only)
    base = base_strength(recipe.augment, flip=recipe.flip, minority_only=only)
    remedy = balance(counts, recipe.imbalance, recipe.minority_augment, base)
    strengths = remedy.strengths.clip(0.0, GREATEST_STRENGTH).tolist()
    drawn = quotas(remedy.shares, int(counts.sum())).tolist()
    rows = zip(recipe.classes, counts.tolist(), drawn, strengths, strict=True)
    return {
        "epochs": epochs,
        "per_class": {
            name: {
                "images": images,
                "drawn_per_epoch": per_epoch,
                "draws_per_image": round(per_epoch / images, 2),
                "strength": round(strength, 3),
                "effective_images": int(
                    min(epochs * per_epoch, images * different_copies(policy, strength, recipe.image_size))
                ),
            }
            for name, images, per_epoch, strength in rows
        },
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
        "mirrored": isinstance(fitted.network, Mirrored),
        "members": [asdict(member) for member in fitted.members],
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
