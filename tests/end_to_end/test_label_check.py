"""A run says which labels of its held-out images look wrong, and changes none of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import steadylens
from steadylens.deployment.predictor import Prediction
from steadylens.errors import ConfigError
from steadylens.pipeline import Run

COLOURS = {"bolt": (60, 120, 180), "nut": (180, 60, 120), "washer": (120, 180, 60)}
OPTIONS: dict[str, Any] = {
    "network": "cnn-s",
    "width": 0.2,
    "augment": "off",
    "mixup": 0,
    "epochs": 12,
    "batch_size": 16,
    "seed": 0,
}


def write(folder: Path, name: str, colour: tuple[int, int, int], rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = (np.array(colour) + rng.normal(0, 12, (12, 12, 3))).clip(0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(folder / f"{name}.png")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, rng = tmp_path_factory.mktemp("data") / "parts", np.random.default_rng(0)
    for split, count in (("train", 30), ("validation", 15), ("test", 25)):
        for class_name, colour in COLOURS.items():
            for number in range(count):
                write(data / split / class_name, f"{number:02d}", colour, rng)
    for name in ("wrong-1", "wrong-2", "wrong-3"):
        write(data / "test" / "nut", name, COLOURS["bolt"], rng)
    return data


@pytest.fixture(scope="module")
def run(parts: Path) -> Run:
    return steadylens.train(parts, out=parts.parent / "run", quiet=True, **OPTIONS)


def suggestions(run: Run) -> tuple[list[dict[str, Any]], dict[str, str]]:
    findings = [one for one in json.loads((run.folder / "audit.json").read_text("utf-8")) if one["kind"] == "label"]
    return findings, {Path(s["path"]).stem: s["new_class"] for one in findings for s in one["suggestions"]}


def test_wrong_labels_of_held_out_images_are_found(run: Run) -> None:
    findings, suggested = suggestions(run)
    assert {"wrong-1", "wrong-2", "wrong-3"} <= set(suggested)
    assert [suggested[f"wrong-{i}"] for i in (1, 2, 3)] == ["bolt"] * 3
    assert run.report["data"]["label_issues"] == len(suggested) <= 6
    report = json.loads((run.folder / "report.json").read_text("utf-8"))
    assert [one for one in report["data"]["findings"] if one["kind"] == "label"] == findings


@pytest.mark.parametrize("imbalance", ["focal", "ldam-drw", "effective-number"])
def test_they_are_found_whatever_loss_the_network_was_trained_with(parts: Path, tmp_path: Path, imbalance: str) -> None:
    run = steadylens.train(parts, out=tmp_path / "run", quiet=True, **{**OPTIONS, "imbalance": imbalance})
    _, suggested = suggestions(run)
    assert {name: suggested.get(f"wrong-{name}") for name in (1, 2, 3)} == dict.fromkeys((1, 2, 3), "bolt")
    assert len(suggested) <= 6
    model = steadylens.load(run.folder)
    image = parts / "test" / "nut" / "00.png"
    (answer,) = model.predict_bytes([image.read_bytes()])
    assert isinstance(answer, Prediction)
    assert answer.class_name == "nut"
    assert answer.probability > 0.6


def test_the_figures_keep_the_labels_as_they_are(run: Run) -> None:
    assert run.report["test"]["n"] == 78
    assert run.report["test"]["confusion"][1] == [3, 25, 0]


def test_the_page_says_what_was_checked(run: Run) -> None:
    page = (run.folder / "report.html").read_text("utf-8")
    assert "checked on the 123 images of validation and test" in page
    assert "labelled &#39;nut&#39;" in page


def test_the_audit_finds_wrong_labels_among_all_images(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for class_name, colour in COLOURS.items():
        for number in range(40):
            write(tmp_path / "parts" / class_name, f"{number:02d}", colour, rng)
    for name in ("wrong-1", "wrong-2", "wrong-3"):
        write(tmp_path / "parts" / "nut", name, COLOURS["bolt"], rng)
    plain = steadylens.audit(tmp_path / "parts", out=tmp_path / "plain", quiet=True)
    assert not [finding for finding in plain.findings if finding.kind == "label"]
    found = steadylens.audit(tmp_path / "parts", out=tmp_path / "audit", labels=True, quiet=True, **OPTIONS)
    suggested = {Path(s.path).stem: s.new_class for f in found.findings if f.kind == "label" for s in f.suggestions}
    assert {"wrong-1", "wrong-2", "wrong-3"} <= set(suggested)
    assert len(suggested) <= 8
    fixes = (tmp_path / "audit" / "fixes.csv").read_text("utf-8")
    assert "nut/wrong-1.png,nut,label," in fixes
    assert fixes.count(",relabel,bolt") >= 3


def test_options_of_networks_are_refused_where_labels_are_not_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without --labels there is no budget"):
        steadylens.audit(tmp_path, out=tmp_path / "audit", budget="1m", quiet=True)


def test_an_audit_has_no_network_to_train_again(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leave refit out"):
        steadylens.audit(tmp_path, out=tmp_path / "audit", labels=True, refit=True, quiet=True)
