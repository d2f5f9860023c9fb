"""The blocks of report.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from steadylens.config import Recipe
from steadylens.data.audit import audit
from steadylens.data.images import Preprocessing
from steadylens.data.sources import ImageIndex, RefusedImage, read_index
from steadylens.data.split import Splits
from steadylens.report import contents
from steadylens.training.loop import Epoch, Fitted

RECIPE = Recipe(
    classes=("bolt", "nut"), network="cnn-s", depth=1, width=0.5, image_size=8, imbalance="none", minority_augment=0.0,
    augment="off", flip=True, l1=0.0, l2=0.05, dropout=0.0, label_smoothing=0.0, mixup=0.0, early_stopping=3, epochs=9,
    budget=60.0, batch_size=64, learning_rate=0.002, averaging=0.99, precision="fp32", seed=0, device="cpu",
)  # fmt: skip
ROW = Epoch(4, 1.0, 0.001, *[0.5] * 8)
FITTED = Fitted(
    network=nn.Identity(), preprocessing=Preprocessing(8, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)), curve=(ROW,), best_epoch=4,
    kept=ROW, epochs=7, stopped="early", seconds=12.5, images_per_second=321.0,
)  # fmt: skip
VALIDATION = {name: {"value": 0.5} for name in ("balanced_accuracy", "balanced_log_loss", "worst_class_recall")}
COUNTS = np.array([90, 10])


def index_of(make_images: Callable[..., Path]) -> ImageIndex:
    """Eight bolts, one of them twice, and three nuts; one refused."""
    data = make_images({"bolt": 8, "nut": 3})
    (data / "bolt" / "copy.png").write_bytes((data / "bolt" / "000.png").read_bytes())
    return replace(read_index(data), refusals=(RefusedImage("nut/x.png", "nut", "is empty"),), notes=("A note.",))


def test_the_data_block_counts_what_there_is(make_images: Callable[..., Path]) -> None:
    index = index_of(make_images)
    splits = Splits(np.array([0, 1, 2, 3, 9]), np.array([4, 5, 10]), np.array([6, 7, 8, 11]), ("No test nut.",))
    block = contents.data_block(index, splits, audit(index))
    json.dumps(block, allow_nan=False)
    assert (block["images"], block["refused"], block["duplicates"], block["leakage"]) == (12, 1, 1, 0)
    assert block["per_class"] == {"bolt": 9, "nut": 3}
    assert block["imbalance_factor"] == 3.0
    assert block["splits"] == {
        "train": {"bolt": 4, "nut": 1},
        "validation": {"bolt": 2, "nut": 1},
        "test": {"bolt": 3, "nut": 1},
    }
    assert block["refusals"] == [{"path": "nut/x.png", "class": "nut", "reason": "is empty"}]
    assert block["notes"] == ["A note.", "No test nut."]
    assert {finding["kind"] for finding in block["findings"]} >= {"refused", "duplicate", "tiny-class"}
    assert (block["near_duplicates"], block["label_issues"]) == (None, None)  # not looked for, which is not 0


def test_the_selection_block_has_the_trial_and_its_reasons() -> None:
    block = contents.selection_block(RECIPE, {"network": "given"}, COUNTS, VALIDATION, FITTED)
    json.dumps(block, allow_nan=False)
    assert block["trials"] == [
        {
            "recipe": block["chosen"],
            "validation": {"balanced_accuracy": 0.5, "balanced_log_loss": 0.5, "worst_class_recall": 0.5},
            "seconds": 12.5,
            "stopped_at": 7,
        }
    ]
    assert (block["why"], block["minority"]) == ({"network": "given"}, None)


def test_minority_classes_are_shown_where_they_are_treated_otherwise() -> None:
    for recipe, drawn in (
        (replace(RECIPE, imbalance="oversample"), {"bolt": 50, "nut": 50}),
        (replace(RECIPE, minority_augment=0.5), {"bolt": 75, "nut": 25}),
    ):
        minority = contents.selection_block(recipe, {}, COUNTS, VALIDATION, FITTED)["minority"]["per_class"]
        assert {name: row["drawn_per_epoch"] for name, row in minority.items()} == drawn
        assert {name: row["images"] for name, row in minority.items()} == {"bolt": 90, "nut": 10}
        assert (minority["nut"]["strength"] > minority["bolt"]["strength"]) == bool(recipe.minority_augment)


def test_the_training_block_says_how_it_ended() -> None:
    block = contents.training_block(FITTED, RECIPE, 42.0)
    assert block == {
        "epochs": 7, "best_epoch": 4, "stopped": "early", "seconds": 12.5, "images_per_second": 321.0,
        "precision": "fp32", "resumed": False, "budget_s": 60.0, "total_seconds": 42.0,
    }  # fmt: skip


def test_the_environment_names_versions_and_machine() -> None:
    found = contents.environment()
    json.dumps(found)
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["cpu"]
    assert (found["gpu"] is None) == (not torch.cuda.is_available())
