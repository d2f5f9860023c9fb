"""Several networks are trained apart, answer together where that is better, and are gone on with after a crash."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import steadylens
from recipes import PLAIN
from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.deployment.artifact import load
from steadylens.metrics import balanced_accuracy, balanced_log_loss, softmax
from steadylens.models import answering, spec_answering
from steadylens.models.ensemble import Ensemble
from steadylens.models.inference import logits_of
from steadylens.training import ensembling
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.ensembling import fit_members
from steadylens.training.gain import Gain
from steadylens.training.loop import fit
from steadylens.training.position import fitted_from, outcome_of
from steadylens.training.state import Fitted, Step

SIDE = 10
PREPROCESSING = Preprocessing(SIDE, (0.4, 0.4, 0.4), (0.25, 0.25, 0.25))
RECIPE = replace(PLAIN, classes=("bright", "dark"), image_size=SIDE, members=3)


class Crashed(BaseException):
    """Stands for whatever ends a process."""


def images(n: int = 60, seed: int = 0) -> LabelledPixels:
    """Noise that is a little brighter in one class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    pixels = rng.normal(120, 60, (n, SIDE, SIDE, 3)) + 15 * (1 - labels)[:, None, None, None]
    return LabelledPixels(pixels.clip(0, 255).astype(np.uint8), np.arange(n), labels)


def together(recipe: Recipe = RECIPE, **more: Any) -> Fitted:  # noqa: ANN401 - arguments of fit_members
    return fit_members(images(), images(40, 1), recipe, PREPROCESSING, **more)


@pytest.fixture
def welcome(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is trained joins."""
    monkeypatch.setattr(ensembling, "gain_of", lambda *_: Gain(0.5, 0.1, 0.2))


@pytest.mark.usefixtures("welcome")
def test_members_are_the_networks_that_their_seeds_give() -> None:
    found = together()
    assert isinstance(found.network, Ensemble)
    assert len(found.network.members) == len(found.members) == 3
    first = fit(answering(RECIPE, 1, mirrored=False), images(), images(40, 1), RECIPE, PREPROCESSING)
    weights = [member.state_dict() for member in found.network.members]
    assert all(torch.equal(tensor, weights[0][name]) for name, tensor in first.network.state_dict().items())
    assert all(not torch.equal(weights[0]["head.weight"], other["head.weight"]) for other in weights[1:])
    assert not torch.equal(weights[1]["head.weight"], weights[2]["head.weight"])
    assert [row.epoch for row in found.curve] == [row.epoch for row in first.curve]


@pytest.mark.usefixtures("welcome")
def test_the_figures_are_those_of_all_together() -> None:
    train, validation = images(), images(40, 1)
    found = together()
    unseen, seen = (logits_of(found.network, part, PREPROCESSING) for part in (validation, train))
    assert found.kept.validation_balanced_accuracy == balanced_accuracy(validation.labels, unseen.argmax(1), 2)
    assert found.kept.validation_balanced_log_loss == pytest.approx(
        balanced_log_loss(validation.labels, softmax(unseen)), abs=1e-5
    )
    assert found.kept.train_balanced_accuracy == balanced_accuracy(train.labels, seen.argmax(1), 2)
    assert found.members[-1].together == found.kept.validation_balanced_accuracy


def test_who_surely_harms_stays_out(monkeypatch: pytest.MonkeyPatch) -> None:
    # What those before have over all together: more than chance, then less.
    gains, compared = iter([Gain(1.0, -0.5, 0.4), Gain(1.0, -0.3, 0.4)]), list[Any]()

    def noted(*logits_and_labels: Any) -> Gain:  # noqa: ANN401
        compared.append(logits_and_labels)
        return next(gains)

    monkeypatch.setattr(ensembling, "gain_of", noted)
    said = list[str]()
    found = together(say=said.append)
    assert isinstance(found.network, Ensemble)
    alone = logits_of(found.network.members[0], images(40, 1), PREPROCESSING)
    assert np.allclose(compared[0][0], alone, atol=1e-5), "those without it are asked whether they are surely better"
    assert not np.allclose(compared[0][1], alone, atol=1e-3)
    assert [member.joins for member in found.members] == [True, False, True]
    assert isinstance(found.network, Ensemble)
    assert len(found.network.members) == 2
    assert said == [
        "network 2 of 3 does not join: balanced log-loss on validation 1.500 with it, 1.000 without",
        "network 3 of 3 joins: balanced log-loss on validation 1.300 with it, 1.000 without",
    ]


def test_where_all_harm_the_first_answers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensembling, "gain_of", lambda *_: Gain(1.0, -0.5, 0.4))
    found, alone = together(), together(replace(RECIPE, members=1))
    assert not isinstance(found.network, Ensemble)
    assert found.kept == replace(alone.kept, seconds=found.kept.seconds, images_per_second=found.kept.images_per_second)
    assert alone.members == ()


def test_the_time_is_shared_out_among_them() -> None:
    begin, steps = time.perf_counter(), list[Step]()
    found = together(replace(RECIPE, epochs=None), seconds=3.0, on_step=steps.append)
    assert 2.5 < time.perf_counter() - begin < 4.5
    assert all(0.3 < member.seconds < 1.7 for member in found.members)
    assert [step.progress for step in steps] == sorted(step.progress for step in steps)
    assert steps[-1].progress > 0.9


@pytest.mark.parametrize("kept", [True, False])
def test_what_a_member_had_used_before_is_part_of_its_share(monkeypatch: pytest.MonkeyPatch, kept: bool) -> None:
    given = list[float]()

    def begun(*_: Any, seconds: float, **__: Any) -> Fitted:  # noqa: ANN401
        given.append(seconds)
        raise Crashed

    place = Checkpoint({"clock": {"elapsed": 90.0}}, {})
    monkeypatch.setattr(ensembling, "fit", begun)
    monkeypatch.setattr(Checkpoints, "position", lambda _, stage: place if kept and stage == "training" else None)
    with pytest.raises(Crashed):
        together(replace(RECIPE, members=4), seconds=310.0, place=None if kept else place)
    assert given == [pytest.approx(10.0, abs=0.5)]  # a hundred seconds in all, as the other three


@pytest.mark.usefixtures("welcome")
def test_what_was_kept_answers_as_before(tmp_path: Path) -> None:
    found = together()
    spec = spec_answering(RECIPE, found.network)
    assert (spec.members, spec.mirrored) == (3, False)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.keep("trained", outcome_of(found))
    kept = checkpoints.outcome("trained")
    assert kept is not None
    again = fitted_from(kept, answering(RECIPE, 3, mirrored=False), PREPROCESSING)
    assert again.members == found.members
    assert np.array_equal(
        logits_of(again.network, images(), PREPROCESSING), logits_of(found.network, images(), PREPROCESSING)
    )


OPTIONS: dict[str, Any] = {
    "network": "cnn-s", "width": 0.2, "epochs": 3, "precision": "fp32", "device": "cpu", "members": 3,
}  # fmt: skip


@pytest.mark.parametrize("crash_at", [1, 3, 6])
def test_a_run_that_crashed_goes_on_with_the_member_it_was_at(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: int
) -> None:
    whole = steadylens.train(images_folder, out=tmp_path / "whole", quiet=True, **OPTIONS)
    trained = list[int]()

    def counted(*arguments: Any, **options: Any) -> Fitted:  # noqa: ANN401
        trained.append(arguments[3].seed)
        return fit(*arguments, **options)

    monkeypatch.setattr(ensembling, "fit", counted)
    original: Callable[..., Any] = Checkpoints.offer
    offers = 0

    def crashing(*arguments: Any, epoch_ended: bool, **more: Any) -> None:  # noqa: ANN401
        nonlocal offers
        original(*arguments, epoch_ended=epoch_ended, **more)
        offers += epoch_ended
        if offers == crash_at:
            arguments[0].settle()
            raise Crashed

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("steadylens.training.checkpoint.COST_SHARE", 1e9)  # a position after each epoch
        patch.setattr(Checkpoints, "offer", crashing)
        with pytest.raises(Crashed):
            steadylens.train(images_folder, out=run, quiet=True, **OPTIONS)
    before = len(set(trained))
    trained.clear()
    report = steadylens.train(images_folder, out=run, quiet=True, **OPTIONS).report
    assert len(trained) == 3 - before + 1
    assert report["training"]["resumed"]
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, whole.folder)]
    assert weights[0] == weights[1]
    assert [m["joins"] for m in report["training"]["members"]] == [
        m["joins"] for m in whole.report["training"]["members"]
    ]


def test_the_page_and_the_model_tell_of_all_members(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ensembling, "gain_of", lambda *_: Gain(0.5, 0.1, 0.2))
    run = steadylens.train(images_folder, out=tmp_path / "run", quiet=True, **{**OPTIONS, "epochs": 1})
    page = (run.folder / "report.html").read_text()
    assert "3 networks were trained one after another." in page
    assert "the mean of those that do not surely harm on validation: 3." in page
    assert isinstance(load(run.folder / "model").network, Ensemble)
