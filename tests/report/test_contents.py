"""The blocks of report.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from steadylens.config import Recipe
from steadylens.data.audit import audit
from steadylens.data.augment import GREATEST_STRENGTH
from steadylens.data.batches import epoch_order
from steadylens.data.duplicates import NearDuplicates, find_near_duplicates
from steadylens.data.findings import AppliedFixes, Finding
from steadylens.data.images import Preprocessing
from steadylens.data.sources import ImageIndex, RefusedImage, read_index
from steadylens.data.split import Splits
from steadylens.report import contents
from steadylens.training.imbalance import balance
from steadylens.training.state import Epoch, Fitted

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
PIXELS = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)


def index_of(make_images: Callable[..., Path]) -> ImageIndex:
    """Eight bolts, one of them twice, and three nuts; one refused."""
    data = make_images({"bolt": 8, "nut": 3})
    (data / "bolt" / "copy.png").write_bytes((data / "bolt" / "000.png").read_bytes())
    return replace(read_index(data), refusals=(RefusedImage("nut/x.png", "nut", "is empty"),), notes=("A note.",))


def test_the_data_block_counts_what_there_is(make_images: Callable[..., Path]) -> None:
    index = index_of(make_images)
    splits = Splits(np.array([0, 1, 2, 3, 9]), np.array([4, 5, 10]), np.array([6, 7, 8, 11]), ("No test nut.",))
    near = NearDuplicates(
        np.array([0, 1, 2, 2, 2, 3, 4, 5, 0, 6, 7, 8]), np.array([[2, 3], [3, 4]]), np.array([0.97, 0.98])
    )
    block = contents.data_block(index, splits, audit(index, PIXELS, near), near, foreign=True)
    json.dumps(block, allow_nan=False)
    assert (block["images"], block["refused"], block["duplicates"], block["leakage"]) == (12, 1, 1, 0)
    assert block["per_class"] == {"bolt": 9, "nut": 3}
    assert block["imbalance_factor"] == 3.0
    given = replace(index, splits=tuple("test" if row in (0, 1, 2, 3, 4, 5, 9) else "train" for row in range(12)))
    of_given = contents.data_block(given, splits, (), near, foreign=True)
    assert of_given["imbalance_factor"] == 1.5, "a test split that is given says nothing of what is learned from"
    assert block["splits"] == {
        "train": {"bolt": 4, "nut": 1},
        "validation": {"bolt": 2, "nut": 1},
        "test": {"bolt": 3, "nut": 1},
    }
    assert block["refusals"] == [{"path": "nut/x.png", "class": "nut", "reason": "is empty"}]
    assert block["notes"][:2] == ["A note.", "No test nut."]
    assert "checked on the 7 images of validation and test" in block["notes"][2]
    assert {finding["kind"] for finding in block["findings"]} >= {
        "refused",
        "duplicate",
        "near-duplicate",
        "tiny-class",
    }
    assert block["near_duplicates"] == 2
    assert block["label_issues"] == 0
    doubtful = Finding("label", "Two look wrong.", "possible", "Look.", ("bolt/0.png", "nut/1.png"))
    short_of_time = contents.data_block(index, splits, [doubtful], near, foreign=False)
    assert short_of_time["label_issues"] == 2
    assert "no time to look for images that are like no others" in short_of_time["notes"][2]
    assert "no time" not in block["notes"][2]
    assert block["fixes"] is None


def test_what_fixes_did_is_in_both_blocks(make_images: Callable[..., Path]) -> None:
    applied = AppliedFixes("mine.csv", 2, 1, frozenset({("nut/000.png", "grey")}))
    index = replace(index_of(make_images), fixes=applied)
    told = {"file": "mine.csv", "dropped": 2, "relabelled": 1, "kept": 1}
    splits = Splits(np.arange(12), np.arange(0), np.arange(0), ())
    near = find_near_duplicates(index, PIXELS)
    findings = audit(index, PIXELS, near)
    assert contents.data_block(index, splits, findings, near, foreign=True)["fixes"] == told
    block = contents.audit_block(index, findings, Path("out"))
    json.dumps(block, allow_nan=False)
    assert (block["fixes"], block["images"], block["refused"], block["folder"]) == (told, 12, 1, "out")
    assert block["per_class"] == {"bolt": 9, "nut": 3}
    assert block["refusals"] == [{"path": "nut/x.png", "class": "nut", "reason": "is empty"}]
    assert [one["kind"] for one in block["findings"]] == [one.kind for one in findings]


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


@pytest.mark.parametrize(("blend", "order"), [(0.0, ["probe", "fine-tune"]), (2 / 3, ["fine-tune", "probe"])])
def test_of_a_pretrained_backbone_what_was_kept_is_chosen(blend: float, order: list[str]) -> None:
    figures = {"balanced_accuracy": 0.88, "balanced_log_loss": 0.6, "worst_class_recall": 0.8, "seconds": 3.0}
    account = {"probe": figures, "fine_tuned": {**figures, "balanced_accuracy": 0.5, "seconds": 9.0}, "blend": blend}
    recipe = replace(RECIPE, transfer="fine-tune", minority_augment=0.25)
    fitted = replace(FITTED, best_epoch=FITTED.best_epoch if blend else 0)
    block = contents.selection_block(recipe, {}, COUNTS, VALIDATION, fitted, account)
    assert [trial["recipe"]["transfer"] for trial in block["trials"]] == order
    assert block["chosen"] == block["trials"][0]["recipe"]
    of = {trial["recipe"]["transfer"]: trial for trial in block["trials"]}
    assert (of["probe"]["validation"]["balanced_accuracy"], of["probe"]["stopped_at"]) == (0.88, 0)
    kept = FITTED.kept.validation_balanced_accuracy if blend else 0.5  # of the blend, or of what was not taken
    assert of["fine-tune"]["validation"]["balanced_accuracy"] == kept
    assert (block["minority"] is None) == (blend == 0), "no epoch of what is kept drew anything"


def test_minority_classes_are_shown_where_they_are_treated_otherwise() -> None:
    for recipe, drawn in (
        (replace(RECIPE, imbalance="oversample"), {"bolt": 50, "nut": 50}),
        (replace(RECIPE, minority_augment=0.5), {"bolt": 75, "nut": 25}),
    ):
        minority = contents.selection_block(recipe, {}, COUNTS, VALIDATION, FITTED)["minority"]["per_class"]
        assert {name: row["drawn_per_epoch"] for name, row in minority.items()} == drawn
        assert {name: row["images"] for name, row in minority.items()} == {"bolt": 90, "nut": 10}
        assert (minority["nut"]["strength"] > minority["bolt"]["strength"]) == bool(recipe.minority_augment)


def minority_of(**recipe: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a recipe
    block = contents.selection_block(replace(RECIPE, **recipe), {}, COUNTS, VALIDATION, FITTED)
    minority: dict[str, Any] = block["minority"]
    return minority


def test_effective_images_are_draws_as_far_as_augmentation_goes() -> None:
    # 7 epochs in which 50 nuts are drawn, from 10 images.
    for augment, flip, images in (
        ("off", False, 10),  # the same 10 again and again
        ("off", True, 20),  # each, and each mirrored
        ("light", False, 10 * 9),  # shifts by -1, 0 or 1 pixels of 8 in two directions
        ("medium", False, 7 * 50),  # turned and coloured: no two alike
    ):
        nut = minority_of(imbalance="oversample", augment=augment, flip=flip, image_size=16)["per_class"]["nut"]
        assert (nut["images"], nut["drawn_per_epoch"], nut["draws_per_image"]) == (10, 50, 5.0)
        assert nut["effective_images"] == images, augment


def test_minority_figures_are_those_of_the_training() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        counts = rng.integers(1, 500, 5)
        names = tuple("abcde")
        recipe = replace(RECIPE, classes=names, minority_augment=float(rng.uniform(0.01, 1)), augment="medium")
        minority = contents.selection_block(recipe, {}, counts, VALIDATION, FITTED)["minority"]
        remedy = balance(counts, recipe.imbalance, recipe.minority_augment, 1.0)
        labels = np.repeat(np.arange(5), counts)
        order = epoch_order(labels, remedy.shares, 0, 1)
        drawn = np.bincount(labels[order], minlength=5).tolist()
        assert [minority["per_class"][name]["drawn_per_epoch"] for name in names] == drawn
        strengths = [minority["per_class"][name]["strength"] for name in names]
        assert strengths == pytest.approx(remedy.strengths.clip(max=GREATEST_STRENGTH), abs=1e-3)
        assert minority["epochs"] == FITTED.epochs


def test_the_strength_told_is_the_one_used_and_not_beyond_the_greatest() -> None:
    recipe = replace(RECIPE, minority_augment=1.0, augment="strong")
    counts = np.array([10**7, 10])
    per_class = contents.selection_block(recipe, {}, counts, VALIDATION, FITTED)["minority"]["per_class"]
    assert per_class["nut"]["strength"] == GREATEST_STRENGTH


def test_the_training_block_says_how_it_ended() -> None:
    block = contents.training_block(FITTED, RECIPE, 42.0)
    assert block == {
        "epochs": 7, "best_epoch": 4, "stopped": "early", "seconds": 12.5, "images_per_second": 321.0,
        "precision": "fp32", "mirrored": False, "members": [], "resumed": False, "budget_s": 60.0,
        "total_seconds": 42.0,
    }  # fmt: skip


def test_the_environment_names_versions_and_machine() -> None:
    found = contents.environment()
    json.dumps(found)
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert found["cpu"]
    assert (found["gpu"] is None) == (not torch.cuda.is_available())
