"""A run that tries recipes tells the whole story of it, and goes on with its trials after a crash."""

from __future__ import annotations

import itertools
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import steadylens
from faults import assert_valid
from kills import begun, ended
from steadylens.report import run_folder
from steadylens.report.page import read_report
from steadylens.training import loop, optimizers, selection
from steadylens.training.checkpoint import Checkpoints

OPTIONS: dict[str, Any] = {
    "network": "cnn-s", "width": 0.2, "averaging": 0.9, "precision": "fp32", "device": "cpu", "budget": "14s",
}  # fmt: skip
CLASSES = {"bolt": 90, "nut": 70}


class Crashed(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try recipes in trainings of seconds too, and whatever was learned until the first rung."""
    monkeypatch.setattr(selection, "FEWEST_STEPS", 0)
    monkeypatch.setattr(selection, "FEWEST_EPOCHS", 0)  # however busy the machine is
    monkeypatch.setattr(selection, "LEARNED", 10.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, one of which is greener, hard enough not to be known at once."""
    folder, rng = tmp_path_factory.mktemp("data") / "parts", np.random.default_rng(0)
    for label, (name, count) in enumerate(CLASSES.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 200, (12, 12, 3))
            pixels[..., 1] += 25 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:03d}.png")
    return folder


def test_a_run_tells_what_was_tried_and_goes_on_with_the_best(data: Path, tmp_path: Path) -> None:
    run = steadylens.train(data, out=tmp_path / "run", quiet=True, **OPTIONS)
    told = run.report["selection"]
    finished, *tried = told["trials"]
    assert finished["validation"]["balanced_accuracy"] == run.report["validation"]["balanced_accuracy"]["value"]
    assert len(tried) >= 2
    winner = [trial for trial in tried if trial["became"] == "went on as the training"]
    assert [trial["recipe"] for trial in winner] == [told["chosen"]]
    assert "went on" in told["why"]["trials"]
    rows = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    epochs = [row["epoch"] for row in rows]
    assert epochs == sorted(set(epochs))
    assert run.report["training"]["seconds"] > winner[0]["rungs"][-1]["seconds"] / winner[0]["folds"]
    page = (run.folder / "report.html").read_text()
    assert "How the recipe was chosen" in page
    for trial in tried:
        assert (trial["change"] or "the recipe of the rules") in page
    assert list((run.folder / run_folder.CHECKPOINTS).glob("trial*")) == []


def test_switched_off_nothing_is_tried(data: Path, tmp_path: Path) -> None:
    run = steadylens.train(data, out=tmp_path / "run", quiet=True, selection="off", **OPTIONS)
    assert len(run.report["selection"]["trials"]) == 1
    assert run.report["selection"]["why"]["trials"] == "No other recipe was tried: that was asked for."
    assert "No other recipe was tried: that was asked for." in (run.folder / "report.html").read_text()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be forked")
def test_killed_in_its_trials_a_run_goes_on_with_them(data: Path, tmp_path: Path) -> None:
    run, kills = tmp_path / "run", 0
    for wanted in (1, 2, 4):
        process = begun(data, run, OPTIONS)
        while len(list((run / run_folder.CHECKPOINTS).glob("trial.*.json"))) < wanted:
            if ended(process, timeout_s=0.01) is not None:
                break
        else:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            kills += 1
            assert_valid(run)
    assert kills
    assert ended(begun(data, run, OPTIONS), timeout_s=120.0) == 0
    assert len(read_report(run)["selection"]["trials"]) >= 3


def test_crashed_in_its_trials_a_run_goes_on_with_them(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steadylens.training.checkpoint.EVERY_S", 0.0)
    real, told, run = optimizers.set_rate, itertools.count(1), tmp_path / "run"
    ends = {15, 16, 40, 60}

    def crash(*arguments: Any) -> None:  # noqa: ANN401
        if next(told) in ends:
            raise Crashed
        real(*arguments)

    monkeypatch.setattr(loop, "set_rate", crash)
    kept: list[set[str]] = [set()]
    for _ in ends:
        with pytest.raises(Crashed):
            steadylens.train(data, out=run, quiet=True, **OPTIONS)
        assert_valid(run)
        names = {path.name for path in (run / run_folder.CHECKPOINTS).glob("trial.*.json")}
        assert names >= kept[-1]
        kept.append(names)
    assert Checkpoints(run / run_folder.CHECKPOINTS).outcome("resolved") is not None
    report = steadylens.train(data, out=run, quiet=True, **OPTIONS).report
    assert report["training"]["resumed"]
    assert len(report["selection"]["trials"]) >= 3
