"""Pretrained backbones, from the command to the artifact and back."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import steadylens
from steadylens import measurement, pipeline
from steadylens.console import Console
from steadylens.deployment import artifact
from steadylens.deployment.predictor import Prediction, load

MakeWeights = Callable[..., Path]
COUNTS = {"bolt": 160, "nut": 100, "washer": 80}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Elongated noise of three colours, 100 by 70."""
    root, rng = tmp_path_factory.mktemp("data") / "photos", np.random.default_rng(0)
    for label, (name, count) in enumerate(COUNTS.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 160, (70, 100, 3))
            pixels[:, :, label] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03d}.png")
    return root


def trained(photos: Path, run: Path, **options: Any) -> pipeline.Run:  # noqa: ANN401
    return steadylens.train(
        photos, out=run, quiet=True, **{"epochs": 2, "precision": "fp32", "device": "cpu", **options}
    )


def test_a_run_with_weights_becomes_an_artifact_that_needs_nothing_else(
    photos: Path,
    tmp_path: Path,
    make_weights: MakeWeights,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights = make_weights(interpolation="bilinear")
    run = trained(photos, tmp_path / "run", weights=weights, image_fit="pad", flip="on")
    report, recipe = run.report, json.loads((run.folder / "recipe.json").read_text())
    assert report["test"]["balanced_accuracy"]["value"] > 0.8
    assert (recipe["network"], recipe["transfer"], recipe["image_fit"]) == (
        "timm:test_efficientnet",
        "fine-tune",
        "pad",
    )
    assert recipe["weights"] == str(weights)
    about = report["training"]["pretrained"]
    assert about["views"] == 2
    assert about["decision"]
    assert min(about[name] for name in ("features_per_second", "bare_per_second", "decode_per_second")) > 0
    assert [trial["recipe"]["transfer"] for trial in report["selection"]["trials"]] == ["fine-tune", "probe"]
    assert about["decision"] in html.unescape((run.folder / "report.html").read_text())
    epochs = [json.loads(line)["epoch"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs == [0, 1, 2]

    weights.unlink()
    weights.with_suffix(".json").unlink()
    monkeypatch.setattr("steadylens.models.hub.from_hub", None)
    loaded = artifact.load(run.folder / "model")
    wanted = loaded.preprocessing
    assert (wanted.fit, wanted.interpolation, wanted.image_size) == ("pad", "bilinear", 32)
    assert (wanted.mean, wanted.std) == ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
    image = photos / "washer" / "000.png"
    ((_, answer),) = load(run.folder).predict_files([image])
    assert isinstance(answer, Prediction)
    array = np.asarray(Image.open(image))[None]
    assert load(run.folder).probabilities_of_arrays(array)[0] == pytest.approx(list(answer.probabilities.values()))
    again = measurement.evaluate_on(run.folder / "model", photos, Console())
    assert again["n"] == sum(COUNTS.values())
    held_out = pq.read_table(run.folder / "index.parquet")["split"].to_pylist().count("test")
    assert again["seen"] == sum(COUNTS.values()) - held_out
    assert "figures come out too good" in capsys.readouterr().err
    shutil.copytree(run.folder / "model", tmp_path / "apart")
    assert measurement.evaluate_on(tmp_path / "apart", photos, Console(quiet=True))["seen"] is None


def test_a_backbone_looks_at_mirror_images_where_that_is_asked_for(
    photos: Path, tmp_path: Path, make_weights: MakeWeights
) -> None:
    run = trained(photos, tmp_path / "run", weights=make_weights(), transfer="probe", mirror="on")
    assert run.report["training"]["mirrored"]
    assert artifact.load(run.folder / "model").spec.mirrored


def test_the_probe_alone_is_a_run_of_its_own(photos: Path, tmp_path: Path, make_weights: MakeWeights) -> None:
    run = trained(photos, tmp_path / "run", weights=make_weights(), transfer="probe")
    assert run.report["training"]["stopped"] == "probe"
    assert run.report["training"]["epochs"] == 0
    assert len(run.report["selection"]["trials"]) == 1
    assert run.report["test"]["balanced_accuracy"]["value"] > 0.8
    again = trained(photos, tmp_path / "again", weights=make_weights(), transfer="probe")
    models = [(one.folder / "model" / "model.safetensors").read_bytes() for one in (run, again)]
    assert models[0] == models[1], "the features come from the cache, and the rest is the same to the bit"


def test_build_arguments_travel_into_the_artifact(photos: Path, tmp_path: Path, make_weights: MakeWeights) -> None:
    weights = make_weights(arguments={"pad_type": "same"})
    run = trained(photos, tmp_path / "run", weights=weights, transfer="probe")
    loaded = artifact.load(run.folder / "model")
    assert loaded.spec.arguments == {"pad_type": "same"}
    plain = trained(photos, tmp_path / "plain", weights=make_weights(), transfer="probe")
    paths = sorted(photos.glob("*/*.png"))[:4]
    answers = [[a for _, a in load(one.folder).predict_files(paths)] for one in (run, plain)]
    assert answers[0] != answers[1]


def test_images_for_a_network_from_scratch_are_padded_where_it_is_asked_for(photos: Path, tmp_path: Path) -> None:
    options = {"network": "cnn-s", "width": 0.1, "image_size": 16}
    runs = [trained(photos, tmp_path / fit, **options, image_fit=fit) for fit in ("squash", "pad")]
    contents = [(run.folder / "model" / "model.safetensors").read_bytes() for run in runs]
    assert contents[0] != contents[1]


def command(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "steadylens", "train", *map(str, arguments)],
        capture_output=True, text=True, check=False, timeout=120, env={**os.environ, **environment},
    )  # fmt: skip


def test_offline_and_without_a_cache_it_fails_in_seconds_with_one_sentence(photos: Path, tmp_path: Path) -> None:
    begin = time.perf_counter()
    left = command(
        photos, "--network", "timm:resnet50", "--out", tmp_path / "run", "--quiet",
        HF_HUB_OFFLINE="1", HF_HUB_CACHE=str(tmp_path / "hub"),
    )  # fmt: skip
    assert left.returncode == 5
    assert time.perf_counter() - begin < 60
    (line,) = left.stderr.splitlines()
    assert "The pretrained weights of timm:resnet50 are not on this machine and could not be downloaded" in line
    assert "--weights FILE.safetensors" in line
    assert not (tmp_path / "run").exists()


def test_auto_without_weights_at_hand_goes_on_from_scratch_and_says_so(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    run = trained(photos, tmp_path / "run", image_size=16)
    assert run.report["selection"]["chosen"]["network"] == "cnn-s"
    why = run.report["selection"]["why"]["network"]
    assert "no pretrained weights are on this machine" in why
    assert why in html.unescape((run.folder / "report.html").read_text())
    assert run.report["training"]["pretrained"] is None
