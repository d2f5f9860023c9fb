"""The files of a run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from steadylens.config import Recipe
from steadylens.data.findings import Finding
from steadylens.data.sources import RefusedImage, index_arrays, read_index
from steadylens.data.split import Splits
from steadylens.errors import ConfigError, ResourceError
from steadylens.report import run_folder
from steadylens.training.state import Epoch

RECIPE = Recipe(
    classes=("a", "b"), network="cnn-s", depth=1, width=0.5, image_size=8, imbalance="none", minority_augment=0.0,
    augment="off", flip=True, l1=0.0, l2=0.05, dropout=0.0, label_smoothing=0.0, mixup=0.0, early_stopping=3, epochs=2,
    budget=None, batch_size=64, learning_rate=0.002, averaging=0.99, precision="fp32", seed=0, device="cpu",
)  # fmt: skip
EPOCH = Epoch(
    epoch=1, seconds=1.5, learning_rate=0.001, train_loss=math.nan, train_balanced_accuracy=0.5,
    validation_balanced_accuracy=0.4, train_balanced_log_loss=1.0, validation_balanced_log_loss=math.inf,
    validation_tempered_log_loss=1.1, validation_worst_class_recall=0.0, images_per_second=10.0,
)  # fmt: skip


def test_a_folder_is_claimed_once(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    run_folder.claim(run)
    run_folder.claim(run)  # still empty
    (run / "recipe.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"run exists already.*--out"):
        run_folder.claim(run)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="exists already"):
        run_folder.claim(tmp_path / "file")
    with pytest.raises(ResourceError):
        run_folder.claim(tmp_path / "file" / "run")


def test_a_free_name_is_the_first_that_is_not_taken(tmp_path: Path) -> None:
    wanted = tmp_path / "photos-run"
    assert run_folder.free_name(wanted) == wanted
    for name in ("photos-run", "photos-run-2", "photos-run-4"):
        (tmp_path / name).mkdir()
    assert run_folder.free_name(wanted) == tmp_path / "photos-run-3"


def test_the_index_tells_of_every_image_used_or_refused(make_images: Callable[..., Path], tmp_path: Path) -> None:
    index = read_index(make_images({"bolt": 3, "nut": 2}))
    index = replace(index, groups=("day 1", "", "", "", ""), refusals=(RefusedImage("nut/x.png", "nut", "is empty"),))
    run_folder.write_index(tmp_path, index, Splits(np.array([0, 3]), np.array([1]), np.array([2, 4]), ()))
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert [row["split"] for row in rows] == ["train", "validation", "test", "train", "test", ""]
    assert [row["label"] for row in rows] == ["bolt"] * 3 + ["nut"] * 3
    assert [row["path"] for row in rows] == [*index.paths, str(tmp_path / "parts" / "nut" / "x.png")]
    assert [row["sha256"] for row in rows] == [*index.sha256, ""]
    assert rows[0] | {"path": "", "sha256": ""} == {
        "path": "", "label": "bolt", "split": "train", "group": "day 1", "sha256": "", "width": 12, "height": 12,
        "refusal": None,
    }  # fmt: skip
    assert (rows[-1]["refusal"], rows[-1]["width"], rows[-1]["height"]) == ("is empty", None, None)


def test_the_index_of_arrays_numbers_them(tmp_path: Path) -> None:
    index = index_arrays(np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8), ["a", "b", "a", "b"])
    run_folder.write_index(tmp_path, index, Splits(np.array([0, 1]), np.array([2]), np.array([3]), ()))
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert [row["path"] for row in rows] == ["array[0]", "array[1]", "array[2]", "array[3]"]


def test_audit_recipe_and_report_are_json(tmp_path: Path) -> None:
    run_folder.write_audit(
        tmp_path, [Finding("leakage", "Größe: equal.", "certain", "Remove one.", ("a.png", "b.png"))]
    )
    run_folder.write_recipe(tmp_path, RECIPE)
    run_folder.write_report(tmp_path, {"schema": 1})
    audit, recipe, report = (
        json.loads((tmp_path / f"{name}.json").read_text("utf-8")) for name in ("audit", "recipe", "report")
    )
    told = {"kind": "leakage", "text": "Größe: equal.", "sure": "certain", "advice": "Remove one."}
    assert audit == [told | {"paths": ["a.png", "b.png"], "sets": [], "suggestions": []}]
    assert (recipe["classes"], recipe["flip"], recipe["budget"]) == (["a", "b"], True, None)
    assert Recipe(**{**recipe, "classes": tuple(recipe["classes"])}) == RECIPE
    assert report == {"schema": 1}
    with pytest.raises(ValueError, match="JSON"):
        run_folder.write_report(tmp_path, {"schema": math.nan})
    assert json.loads((tmp_path / "report.json").read_text()) == {"schema": 1}


def test_epochs_are_appended_and_what_is_no_number_is_null(tmp_path: Path) -> None:
    run_folder.append_epoch(tmp_path, EPOCH)
    run_folder.append_epoch(tmp_path, replace(EPOCH, epoch=2, train_loss=0.5))
    first, second = map(json.loads, (tmp_path / "metrics.jsonl").read_text().splitlines())
    assert (first["epoch"], first["train_loss"], first["validation_balanced_log_loss"]) == (1, None, None)
    assert (second["epoch"], second["train_loss"]) == (2, 0.5)
