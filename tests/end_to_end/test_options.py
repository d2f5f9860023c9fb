"""No option is accepted and ignored: each changes what is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import steadylens
from steadylens.config import IMBALANCE
from steadylens.files import sha256_of_file

# One in which everything is switched on a little, so that a change to one option is not masked by another.
ALL_ON: dict[str, Any] = {
    "network": "cnn-s", "depth": 1, "width": 0.2, "image_size": 12, "imbalance": "logit-adjust",
    "minority_augment": 0.2, "augment": "light", "flip": "off", "l1": 1e-5, "l2": 0.05, "dropout": 0.1,
    "label_smoothing": 0.01, "mixup": 0.2, "early_stopping": "off", "epochs": 2, "batch_size": 16,
    "learning_rate": 0.002, "averaging": 0.9, "precision": "fp32", "seed": 0, "device": "cpu",
}  # fmt: skip
OTHER: dict[str, Any] = {
    "network": "keras-blog", "depth": 2, "width": 0.4, "image_size": 10, "imbalance": "class-weights",
    "minority_augment": 0.9, "augment": "strong", "flip": "on", "l1": 1e-2, "l2": 0.5, "dropout": 0.5,
    "label_smoothing": 0.2, "mixup": 1.0, "epochs": 3, "batch_size": 8, "learning_rate": 0.01, "averaging": 0,
    "precision": "bf16", "seed": 1, "refit": True,
}  # fmt: skip


def weights(images: Path, run: Path, **options: Any) -> str:  # noqa: ANN401 - each is checked by name
    steadylens.train(images, out=run, quiet=True, **options)
    return sha256_of_file(run / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def reference(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return weights(images_folder, tmp_path_factory.mktemp("runs") / "reference", **ALL_ON)


def test_the_same_options_give_the_same_weights(images_folder: Path, tmp_path: Path, reference: str) -> None:
    assert weights(images_folder, tmp_path / "run", **ALL_ON) == reference


@pytest.mark.parametrize("name", OTHER)
def test_another_value_gives_other_weights(images_folder: Path, tmp_path: Path, reference: str, name: str) -> None:
    assert weights(images_folder, tmp_path / "run", **{**ALL_ON, name: OTHER[name]}) != reference


@pytest.mark.parametrize("imbalance", [name for name in IMBALANCE if name not in ("logit-adjust", "class-weights")])
def test_every_remedy_gives_weights_of_its_own(
    images_folder: Path, tmp_path: Path, reference: str, imbalance: str
) -> None:
    assert weights(images_folder, tmp_path / "run", **{**ALL_ON, "imbalance": imbalance}) != reference


def test_patience_ends_a_training_that_gains_nothing(images_folder: Path, tmp_path: Path) -> None:
    # At this rate nothing is learned, and the first epoch stays the best but for noise.
    options = {**ALL_ON, "early_stopping": 2, "epochs": 400, "learning_rate": 1e-8, "averaging": 0}
    run = steadylens.train(images_folder, out=tmp_path / "run", quiet=True, **options)
    assert run.report["training"]["stopped"] == "early"
    assert run.report["training"]["epochs"] < 400
