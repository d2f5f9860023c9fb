"""Trials cost what they may and no more, change what they may and no more, and the best one goes on as the training."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from steadylens.config import Recipe, parse
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.errors import ConfigError
from steadylens.interruption import Interrupted
from steadylens.models import build, spec_of
from steadylens.training import clock, resolution, selection, steps
from steadylens.training.challengers import CHANGEABLE, Challenger, challengers_of
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.folds import MOST
from steadylens.training.loop import fit
from steadylens.training.selection import (
    FIRST,
    MOST_CHALLENGERS,
    SHARE,
    Selection,
    best_of,
    decided,
    most_challengers,
    rungs_of,
    select,
)
from steadylens.training.state import Step
from steadylens.training.trial import Standing

CLASSES = ("bolt", "nut", "washer")
PREPROCESSING = Preprocessing(8, (0.4, 0.4, 0.4), (0.25, 0.25, 0.25))
SMALL: dict[str, Any] = {"precision": "fp32", "device": "cpu", "width": 0.2, "averaging": 0.5, "network": "cnn-s"}
SECONDS, STEP_S = 40.0, 0.25  # of the training, and of each step: 128 of them are planned for


def images(counts: tuple[int, ...], seed: int) -> LabelledPixels:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    pixels = rng.integers(0, 200, (len(labels), 8, 8, 3))
    pixels[np.arange(len(labels)), :, :, labels] += 50
    return LabelledPixels(pixels.astype(np.uint8), np.arange(len(labels)), labels)


def split(train: int, validation: int, classes: int = 3) -> tuple[LabelledPixels, LabelledPixels]:
    """So many images of each class to learn from and to judge on, in one store."""
    every = images((train + validation,) * classes, 0)
    judged = np.concatenate([np.flatnonzero(every.labels == c)[:validation] for c in range(classes)])
    known = np.setdiff1d(np.arange(len(every)), judged)
    return tuple(LabelledPixels(every.pixels, rows, every.labels[rows]) for rows in (known, judged))  # type: ignore[return-value]


TRAIN, VALIDATION = split(20, 12)


class Crashed(BaseException):
    """Stands for whatever ends a process."""


@pytest.fixture(autouse=True)
def wall(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that passes with each step alone, speed that is known, and small trainings that are long enough."""
    now, end_step = [0.0], clock.Clock.end_step

    def counted(self: clock.Clock, images: int) -> None:
        now[0] += STEP_S
        end_step(self, images)

    monkeypatch.setattr(clock.Clock, "end_step", counted)
    monkeypatch.setattr(clock, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(selection, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    monkeypatch.setattr(resolution, "measure_speed", lambda *_: (1000.0, 1e-4))
    monkeypatch.setattr(selection, "measure_speed", lambda *_: (1000.0, 1e-4))
    monkeypatch.setattr(selection, "FEWEST_STEPS", 100)
    monkeypatch.setattr(selection, "LEARNED", 10.0)


def chosen(
    options: dict[str, Any] | None = None,
    *,
    seconds: float | None = SECONDS,
    **more: Any,  # noqa: ANN401
) -> tuple[Selection, Checkpoint | None]:
    arguments = {"train": TRAIN, "validation": VALIDATION, **more}
    config = parse({**SMALL, **(options or {})})
    train, validation = arguments.pop("train"), arguments.pop("validation")
    return select(config, CLASSES, train, validation, PREPROCESSING, "its reason", seconds=seconds, **arguments)


def recipe_of(trial: dict[str, Any]) -> dict[str, Any]:
    return {**trial["recipe"], "classes": tuple(trial["recipe"]["classes"])}


@pytest.mark.parametrize("folds", range(1, MOST + 1))
@pytest.mark.parametrize("challengers", range(1, MOST_CHALLENGERS + 1))
def test_what_does_not_go_on_takes_its_share_of_the_time(challengers: int, folds: int) -> None:
    first, last = rungs_of(challengers, folds)
    lost = (challengers - 1) * first + (2 - 1 / folds) * last
    assert (1 - SHARE) * lost == pytest.approx(SHARE)
    if challengers <= most_challengers(folds):
        assert last >= 2 * first
    assert 1 <= most_challengers(folds) <= MOST_CHALLENGERS


def test_trials_are_halved_and_take_their_share_and_the_best_one_goes_on() -> None:
    said: list[str] = []
    result, place = chosen(say=said.append)
    trials = result.trials
    assert trials[0]["change"] == ""
    assert 2 <= len(trials) <= 1 + MOST_CHALLENGERS
    went_on = [trial for trial in trials if trial["became"] == "went on as the training"]
    assert [recipe_of(trial) for trial in went_on] == [asdict(result.recipe)]
    further = [trial for trial in trials if trial["rung"] > FIRST]
    assert len(further) in (0, 2)
    assert trials[0] in further or not further
    lost = sum(trial["seconds"] for trial in trials if trial not in went_on)
    assert lost <= SHARE * SECONDS + STEP_S * len(trials)
    assert len(said) == len(trials) + len(further)
    for trial in trials:
        assert set(trial["validation"]) == {"balanced_accuracy", "balanced_log_loss", "worst_class_recall"}
        assert trial["stopped_at"] >= 1
        assert trial["verdict"] in ("overfitting", "underfitting", "open")
    for words in ("At 5% of the training", "Tried beside it", "went on"):
        assert words in result.why["trials"]
    assert place is not None
    assert place.state["clock"]["elapsed"] == pytest.approx(went_on[0]["seconds"])


def test_only_what_was_left_open_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "_LOOK", {})  # both ways, for one alone may hold nothing that is left open
    given = {"mixup": 0.5, "l2": 0.01, "augment": "light", "dropout": 0.1, "minority_augment": "off"}
    for name in given:
        options = {key: value for key, value in given.items() if key != name}
        result, _ = chosen(options)
        for trial in result.trials:
            for key in options:
                assert trial["recipe"][key] == result.trials[0]["recipe"][key]
        changed = {key for trial in result.trials for key in CHANGEABLE if
                   trial["recipe"][key] != result.trials[0]["recipe"][key]}  # fmt: skip
        assert changed <= {name}
        assert changed or name == "minority_augment"


@pytest.mark.parametrize(
    ("options", "seconds", "reason"),
    [
        ({"selection": "off"}, SECONDS, "that was asked for"),
        ({"epochs": 50}, None, "the number of epochs is given"),
        ({"epochs": 50}, SECONDS, "the number of epochs is given"),
        ({}, 1.0, "the time suffices for 17 epochs"),
        (dict.fromkeys(("mixup", "dropout", "l2"), 0.1) | {"augment": "off", "minority_augment": "off"}, SECONDS,
         "every option that a trial could change is given"),
    ],
)  # fmt: skip
def test_where_nothing_is_tried_nothing_is_lost_and_the_reason_is_said(
    options: dict[str, Any], seconds: float | None, reason: str
) -> None:
    result, place = chosen(options, seconds=seconds)
    assert (result.trials, result.continues, place) == ((), "", None)
    assert reason in result.why["trials"]
    assert set(result.why) == {*asdict(result.recipe), "trials"}


def test_a_network_that_has_learned_nothing_yet_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "LEARNED", 0.0)
    result, place = chosen()
    assert len(result.trials) == 1
    assert "had learned too little" in result.why["trials"]
    assert place is not None


def test_what_stands_still_is_underfitting_and_a_larger_network_is_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "FEWEST_STEPS", 10**9)  # so that the rules take the smallest
    monkeypatch.setattr(resolution, "MANY_STEPS", 10**9)
    trials = chosen({"network": "auto", "learning_rate": 1e-7})[0].trials
    assert trials[0]["rungs"][0]["verdict"] == "underfitting"
    assert (trials[1]["axis"], trials[1]["direction"]) == ("capacity", "weaker")
    assert trials[1]["recipe"]["network"] == "cnn-m"
    assert "cnn-m" in trials[1]["change"]


def test_the_training_goes_on_from_the_first_step_after_the_trial() -> None:
    result, place = chosen()
    assert place is not None
    network, told = build(spec_of(result.recipe)), list[Step]()
    before: dict[str, torch.Tensor] = {}

    def first_step(step: Step) -> None:
        told.append(step)
        before.update({name: tensor.clone() for name, tensor in network.state_dict().items()})
        raise Crashed

    with pytest.raises(Crashed):
        fit(network, TRAIN, VALIDATION, result.recipe, PREPROCESSING, seconds=5.0, place=place, on_step=first_step)
    trained = {name.removeprefix("network."): t for name, t in place.tensors.items() if name.startswith("network.")}
    moved = [float((before[name] - tensor).abs().max()) for name, tensor in trained.items() if name.endswith("weight")]
    assert 0 < max(moved) < 0.2  # one step from where the trial was, and not from first weights
    assert told[0].epoch in (place.state["clock"]["epoch"], place.state["clock"]["epoch"] + 1)
    assert told[0].progress > FIRST / 2


def test_the_curve_of_the_trial_is_the_beginning_of_the_curve_of_the_training() -> None:
    result, place = chosen()
    assert place is not None
    told: list[int] = []
    fitted = fit(
        build(spec_of(result.recipe)), TRAIN, VALIDATION, result.recipe, PREPROCESSING, seconds=5.0, place=place,
        on_epoch=lambda row: told.append(row.epoch),
    )  # fmt: skip
    epochs = [row["epoch"] for row in place.state["curve"]]
    assert told[: len(epochs)] == epochs
    assert told == [row.epoch for row in fitted.curve] == sorted(set(told))
    assert fitted.seconds >= place.state["clock"]["elapsed"] + 4.0


def test_with_few_validation_images_trials_are_judged_on_several_folds() -> None:
    train, validation = split(30, 4)
    result, place = chosen(train=train, validation=validation, seconds=3 * SECONDS)
    assert {trial["folds"] for trial in result.trials} == {3}
    assert "trained on 3 splits, and judged on all 36 images" in result.why["trials"]
    assert place is not None
    lost = sum(trial["seconds"] for trial in result.trials) - place.state["clock"]["elapsed"]
    assert lost <= SHARE * 3 * SECONDS + 3 * STEP_S * len(result.trials)


def broken(base: Recipe, *_: object, **__: object) -> list[Challenger]:
    return [Challenger(replace(base, learning_rate=1e30), "learning rate 0.002 to 1e30", "strength", "weaker")]


def test_a_challenger_that_diverges_is_out_and_the_run_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "challengers_of", broken)
    with np.errstate(all="ignore"):
        result, _ = chosen()
    assert result.trials[1]["became"].startswith("failed: The training has diverged")
    assert result.trials[1]["validation"] is None
    assert result.trials[0]["became"] == "went on as the training"


def test_where_the_recipe_of_the_rules_diverges_the_error_stands() -> None:
    with np.errstate(all="ignore"), pytest.raises(ConfigError, match="has diverged"):
        chosen({"learning_rate": 10.0, "l2": 1e30})


def test_a_challenger_that_needs_too_much_memory_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*arguments: Any, **named: Any) -> list[Challenger]:  # noqa: ANN401
        return [replace(one, recipe=replace(one.recipe, batch_size=61)) for one in challengers_of(*arguments, **named)]

    learn = steps.learn

    def short_of_memory(training: Any, *arguments: Any) -> Any:  # noqa: ANN401
        if training.recipe.batch_size == 61:
            raise MemoryError
        return learn(training, *arguments)

    monkeypatch.setattr(selection, "challengers_of", greedy)
    monkeypatch.setattr(steps, "learn", short_of_memory)
    result, _ = chosen()
    assert {trial["became"] for trial in result.trials[1:]} == {
        "failed: There is too little memory for a step of this recipe."
    }


class EveryStep(Checkpoints):
    """Saves at every step and waits for the disk."""

    def offer(self, stage: str, take: Callable[[], Checkpoint], *, epoch_ended: bool) -> None:
        del epoch_ended
        self.save_now(stage, take)


def test_interrupted_anywhere_the_same_is_chosen_and_goes_on_from_the_same_place(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "again").mkdir()
    steps: list[Step] = []
    whole, place = chosen(on_step=steps.append, checkpoints=Checkpoints(tmp_path / "whole"))
    assert place is not None
    told, ends = itertools.count(1), {5, 8, 9, 30, 31, len(steps) // 2, len(steps) - 1}

    def crash(_: Step) -> None:
        if next(told) in ends:
            raise Crashed

    again, crashes = None, 0
    while again is None:
        try:
            again, same = chosen(on_step=crash, checkpoints=EveryStep(tmp_path / "again"))
        except Crashed:
            crashes += 1
    assert crashes == len(ends)
    assert next(told) - 1 == len(steps) + len(ends)  # what was done is not done again, but for the step of the crash
    assert again == whole
    assert same is not None
    kept = Checkpoints(tmp_path / "again").outcome(again.continues)
    assert kept is not None
    assert kept.state == json.loads(json.dumps(same.state))


def test_a_signal_during_a_trial_leaves_it_to_go_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = itertools.count(1)
    monkeypatch.setattr("steadylens.interruption.asked", lambda: next(told) == 20)
    with pytest.raises(Interrupted):
        chosen(checkpoints=Checkpoints(tmp_path))
    monkeypatch.undo()
    kept = Checkpoints(tmp_path)
    names = [f"trial.{number}-0-{rung}" for number in range(1 + MOST_CHALLENGERS) for rung in (0, 1)]
    places = [kept.position(name) for name in names]
    assert any(place is not None for place in places)


def standing(
    number: int,
    wrong: float,
    *,
    rung: float = 0.15,
    verdict: str = "open",
    direction: str = "stronger",
    failed: str = "",
) -> Standing:
    """A trial that is wrong about a share of 200 images, always the same ones first."""
    labels = np.arange(200) % 2
    order = np.random.default_rng(0).permutation(200)
    said = labels.copy()
    said[order[: round(wrong * 200)]] ^= 1
    logits = torch.from_numpy(np.eye(2, dtype=np.float32)[said] * 2 + number * 1e-6)
    row = {"epoch": 3, "train_balanced_accuracy": 0.9, "train_balanced_log_loss": 0.3,
           "validation_balanced_accuracy": 0.9, "validation_balanced_log_loss": 0.3}  # fmt: skip
    leg = Checkpoint({"row": row, "curve": [], "clock": {"elapsed": 1.0, "epoch": 3}}, {"answers": logits})
    recipe = Recipe(**{**asdict(RECIPE), "classes": ("bolt", "nut")})
    challenger = Challenger(recipe, f"change {number}", "strength", direction)  # type: ignore[arg-type]
    found = Standing(number, challenger, rung, f"trial.{number}-0-1", (leg,), labels, failed)
    found.__dict__["verdict"] = verdict
    return found


RECIPE = Recipe(
    classes=("bolt", "nut"), network="cnn-s", depth=1, width=1.0, image_size=8, imbalance="none", minority_augment=0.0,
    augment="light", flip=False, l1=0.0, l2=0.05, dropout=0.0, label_smoothing=0.0, mixup=0.7, early_stopping=9,
    epochs=None, budget=60.0, batch_size=64, learning_rate=2e-3, averaging=0.9, precision="fp32", seed=0, device="cpu",
)  # fmt: skip


@pytest.mark.parametrize(
    ("challenger", "lead", "wins", "words"),
    [
        (standing(1, 0.10), 0.0, True, "Change 1 won, and went on as the training"),
        (standing(1, 0.10), -9.0, False, "its lead had shrunk from 9.000"),
        (standing(1, 0.29), 0.0, False, "was not surely better"),
        (standing(1, 0.50), 0.0, False, "was not surely better"),
        (standing(1, 0.10, verdict="underfitting"), 0.0, False, "was ahead, but is underfitting"),
        (standing(1, 0.10, verdict="overfitting"), 0.0, True, "won"),
        (standing(1, 0.10, verdict="overfitting", direction="weaker"), 0.0, False, "is overfitting"),
        (standing(1, 0.10, failed="No memory."), 0.0, False, "failed. No memory."),
    ],
)
def test_a_challenger_must_be_surely_better_and_not_lose_its_lead(
    challenger: Standing, lead: float, wins: bool, words: str
) -> None:
    reference = standing(0, 0.30)
    winner, text = decided(reference, challenger, lead)
    assert winner is (challenger if wins else reference)
    assert words.lower() in text.lower()


def test_of_equally_good_ones_one_that_did_not_go_too_far_is_taken() -> None:
    close, far = standing(1, 0.20, verdict="underfitting"), standing(2, 0.205)
    assert best_of([close, far]) is far
    assert best_of([close, standing(2, 0.40)]) is close
    assert best_of([standing(1, 0.20), far]) is not far
    assert best_of([]) is None
