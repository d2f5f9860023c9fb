"""A second training, on train and validation together, from the command to the artifact, and after a crash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import steadylens
from steadylens.pipeline import Run
from steadylens.report import run_folder
from steadylens.training import loop, refit
from steadylens.training.checkpoint import Checkpoints

MakeWeights = Callable[..., Path]
SCRATCH: dict[str, Any] = {"network": "cnn-s", "width": 0.2, "epochs": 3, "precision": "fp32", "device": "cpu"}


class Crashed(BaseException):
    """Stands for whatever ends a process."""


def train(data: Path, run: Path, **options: Any) -> Run:  # noqa: ANN401
    return steadylens.train(data, out=run, quiet=True, **options)


def weights_of(run: Path) -> bytes:
    return (run / "model" / "model.safetensors").read_bytes()


@pytest.fixture(params=["from scratch", "probe", "fine-tuned"])
def options(
    request: pytest.FixtureRequest, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """Small trainings of each kind."""
    if request.param == "from scratch":
        return SCRATCH
    shared = {"weights": make_weights(), "image_size": 24, "precision": "fp32", "device": "cpu", "epochs": 3}
    if request.param == "probe":
        return {**shared, "transfer": "probe"}
    monkeypatch.setattr("steadylens.training.finetune.FEWEST_TO_JUDGE", 1)
    monkeypatch.setattr("steadylens.training.resolution.FEWEST_TO_JUDGE", 1)
    monkeypatch.setattr("steadylens.training.gain.SURE", 1e-12)
    return {**shared, "transfer": "auto", "learning_rate": 1e-3}


def test_the_network_that_is_kept_has_seen_train_and_validation(
    images_folder: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    plain = train(images_folder, tmp_path / "plain", **options).report
    again = train(images_folder, tmp_path / "again", **options, refit=True).report
    splits = again["data"]["splits"]
    images = sum(splits["train"].values()) + sum(splits["validation"].values())
    block = again["training"]["refit"]
    assert block.keys() == {"images", "epochs", "seconds"}
    assert block["images"] == images
    assert block["epochs"] == again["training"]["best_epoch"]
    assert block["seconds"] > 0
    assert plain["training"]["refit"] is None
    assert (block["epochs"] > 0) == (options.get("transfer") != "probe")
    assert f"trained again on all {images} images" in again["selection"]["why"]["refit"]
    for name in ("validation", "diagnosis"):  # of the first network, as if there were no second
        assert again[name] == plain[name]
    assert again["training"]["best_epoch"] == plain["training"]["best_epoch"]
    assert weights_of(tmp_path / "again") != weights_of(tmp_path / "plain")
    assert (tmp_path / "again" / "metrics.jsonl").read_text().count("\n") == (
        tmp_path / "plain" / "metrics.jsonl"
    ).read_text().count("\n")


@pytest.mark.parametrize("stage", ["refitted", "refitted-test"])
def test_after_a_crash_it_goes_on_to_the_same_bits(
    images_folder: Path, tmp_path: Path, options: dict[str, Any], stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    train(images_folder, whole, **options, refit=True)
    keep, begun = Checkpoints.keep, list[str]()

    def kept(self: Checkpoints, name: str, outcome: Any) -> None:  # noqa: ANN401
        begun.append(name)
        if name == stage:
            raise Crashed
        keep(self, name, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "keep", kept)
        with pytest.raises(Crashed):
            train(images_folder, run, **options, refit=True)
    assert begun[-1] == stage
    assert not (run / "report.json").exists()
    measured = list[int]()
    measure = loop.measure

    def counted(*arguments: Any) -> Any:  # noqa: ANN401
        measured.append(1)
        return measure(*arguments)

    monkeypatch.setattr(loop, "measure", counted)
    report = train(images_folder, run, **options, refit=True).report
    assert report["training"]["resumed"]
    assert weights_of(run) == weights_of(whole)
    if stage == "refitted-test":
        assert not measured  # nothing was trained again
    assert not (run / run_folder.CHECKPOINTS / "refitted.json").exists()


def test_a_crash_within_the_second_training_costs_no_more_than_an_epoch(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**SCRATCH, "epochs": 6, "early_stopping": "off", "refit": True}
    train(images_folder, tmp_path / "whole", **options)
    measure, count = loop.measure, 0

    def crashing(*arguments: Any) -> Any:  # noqa: ANN401
        nonlocal count
        count += 1
        if count == 6 + 4:
            raise Crashed
        return measure(*arguments)

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "measure", crashing)
        patch.setattr("steadylens.training.checkpoint.COST_SHARE", 1e9)  # a position after each epoch
        with pytest.raises(Crashed):
            train(images_folder, run, **options)
    kept = Checkpoints(run / run_folder.CHECKPOINTS)
    place = kept.position("refitting")
    assert place is not None
    assert place.state["clock"]["epoch"] >= 1
    assert kept.position("training") is None or kept.outcome("trained") is not None
    count = 100
    monkeypatch.setattr(loop, "measure", crashing)
    train(images_folder, run, **options)
    assert count < 100 + 6  # only what was missing of the second training
    assert weights_of(run) == weights_of(tmp_path / "whole")


def test_where_the_time_does_not_suffice_the_first_network_is_kept_and_that_is_said(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(refit, "SLACK", 0.0)  # nothing is set aside
    options = {**SCRATCH, "epochs": None, "budget": "9s", "out": tmp_path / "run", "refit": True}
    report = steadylens.train(images_folder, **options).report
    assert report["training"]["refit"] is None
    why = report["selection"]["why"]["refit"]
    assert "the first network is kept: training again takes" in why
    assert why.removeprefix("given: ") in capfd.readouterr().err


def test_both_trainings_fit_into_the_budget(images_folder: Path, tmp_path: Path) -> None:
    report = train(images_folder, tmp_path / "run", **{**SCRATCH, "epochs": None}, budget="12s", refit=True).report
    block, training = report["training"]["refit"], report["training"]
    assert block["epochs"] <= training["best_epoch"]
    assert training["total_seconds"] < 12
    assert training["seconds"] < 12 / 2
