"""Networks from scratch beside a backbone at hand: tried where there is time, kept where they are better."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

import steadylens
from steadylens import fitting, from_scratch, pipeline
from steadylens.config import Config, parse
from steadylens.console import Console
from steadylens.data.sources import index_arrays
from steadylens.deployment.predictor import load
from steadylens.errors import ResourceError
from steadylens.fitting import Learned, Told, fit_network
from steadylens.from_scratch import Rival, beside
from steadylens.models import hub
from steadylens.models.pretrained import Pretrained, from_file
from steadylens.preparation import Prepared, Stopwatch, prepare
from steadylens.report.page import read_report
from steadylens.training import ensembling, gain, loop, resolution
from steadylens.training.backbones import CURATED
from steadylens.training.checkpoint import Checkpoints
from steadylens.training.divergence import DivergedError
from steadylens.training.gain import Gain
from steadylens.training.memory import TooLittleMemoryError
from steadylens.training.selection import Beside, Selection, select
from steadylens.training.state import Epoch, Fitted

MakeWeights = Callable[..., Path]
COUNTS = {"bolt": 160, "nut": 110, "washer": 90}
SECONDS = 120.0  # that are planned with: what is measured meanwhile takes a second or two
EACH = 0.25  # for a network here
QUICK = {"precision": "fp32", "device": "cpu", "augment": "light", "flip": "off", "image_fit": "squash"}


PLANS: dict[str, Beside] = {}


class Crashed(BaseException):
    """Stands for whatever ends a process."""


ROW = Epoch(1, 1.0, 0.1, 1.0, 0.5, 1.0, 0.5, 1.0, 1.0, 0.5, 1.0)


def photos() -> tuple[NDArray[np.uint8], list[str]]:
    """Noise of 72 px that one brighter colour tells apart; there are enough colours for photographs."""
    rng = np.random.default_rng(0)
    names = [name for name, count in COUNTS.items() for _ in range(count)]
    pixels = rng.integers(0, 160, (len(names), 72, 72, 3))
    pixels[np.arange(len(names)), :, :, [list(COUNTS).index(name) for name in names]] += 60
    return pixels.astype(np.uint8), names


@pytest.fixture
def put_at_hand(make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts the weights of a tiny backbone on this machine, which may have learned nothing: all of them are 0."""

    def put(*, empty: bool = False) -> None:
        path = make_weights()
        if empty:
            tensors = {name: torch.zeros_like(t) for name, t in safetensors.torch.load(path.read_bytes()).items()}
            path.write_bytes(safetensors.torch.save(tensors))
        tiny = from_file(path)
        fields = {name: getattr(tiny, name) for name in tiny.__dataclass_fields__}
        monkeypatch.setattr(hub, "cached", {CURATED[0].network}.__contains__)
        monkeypatch.setattr(hub, "from_hub", lambda network: Pretrained(**{**fields, "source": network}))

    return put


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several networks in trainings of seconds too, however busy the machine is."""
    monkeypatch.setattr(resolution, "STEPS_A_MEMBER", 0.01)
    monkeypatch.setattr(resolution, "EPOCHS_A_MEMBER", 0.01)
    monkeypatch.setattr(resolution, "FEWEST_STEPS", math.inf)
    monkeypatch.setattr(resolution, "MANY_STEPS", math.inf)
    monkeypatch.setattr(from_scratch, "DECODING_SHARE", 10.0)


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:  # noqa: ANN401
        raise error

    return fail


def prepared_for(config: Config) -> Prepared:
    prepared = prepare(lambda _: index_arrays(*photos()), config, Console(quiet=True), Stopwatch(), 60.0)
    assert prepared.backbone.pretrained is not None
    return prepared


def planned(config: Config, prepared: Prepared, seconds: float | None = SECONDS) -> Beside | None:
    return beside(config, prepared, seconds, Console(quiet=True), Stopwatch())[0]


def why_not(config: Config, prepared: Prepared, seconds: float | None = SECONDS) -> str:
    plan, why = beside(config, prepared, seconds, Console(quiet=True), Stopwatch())
    assert plan is None
    return why


def learned(options: dict[str, Any], told: Told | None = None) -> tuple[Selection, Learned]:
    """What was chosen, and what was kept of it."""
    config = parse({**QUICK, **options})
    prepared = prepared_for(config)
    train, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    selection, _ = select(
        config, prepared.store.index.classes, train, validation, prepared.preprocessing,
        prepared.reasons["image_size"],
        seconds=SECONDS, backbone=prepared.backbone.pretrained, reasons=prepared.reasons, units=prepared.units,
    )  # fmt: skip
    if repr(options) not in PLANS:  # networks are timed for a plan, which takes seconds
        found = planned(config, prepared)
        assert found is not None
        PLANS[repr(options)] = found
    plan = PLANS[repr(options)]
    selection = replace(selection, beside=replace(plan, seconds=EACH))
    return selection, fit_network(
        prepared, selection, lambda _: 2 * plan.recipe.members * EACH, Checkpoints(None), told or Told()
    )


def seeds_of_trainings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets the seed of each network from scratch that is trained from now on."""
    fit, trained = loop.fit, list[int]()

    def counted(network: Any, train: Any, validation: Any, recipe: Any, *others: Any, **more: Any) -> Any:  # noqa: ANN401
        trained.append(recipe.seed)
        return fit(network, train, validation, recipe, *others, **more)

    monkeypatch.setattr(ensembling, "fit", counted)
    return trained


def test_half_of_the_time_is_planned_for_several_networks(put_at_hand: Callable[..., None]) -> None:
    put_at_hand()
    prepared = prepared_for(parse(QUICK))
    plan = planned(parse(QUICK), prepared)
    assert plan is not None
    assert (plan.recipe.network, plan.recipe.image_size, plan.recipe.weights) == ("cnn-s", 64, "")
    assert plan.recipe.members == resolution.MOST_MEMBERS
    assert 0.25 * SECONDS < plan.seconds * plan.recipe.members <= 0.5 * SECONDS


@pytest.mark.parametrize(
    "options",
    [{"epochs": 3}, {"refit": True}, {"members": 1}, {"selection": "off"}, {"transfer": "auto"}],
    ids=str,
)
def test_nothing_is_planned_where_one_of_the_two_was_asked_for(
    options: dict[str, Any], put_at_hand: Callable[..., None]
) -> None:
    put_at_hand()
    config = parse({**QUICK, **options})
    assert planned(config, prepared_for(config)) is None


def test_nothing_is_planned_with_a_backbone_that_was_asked_for(
    put_at_hand: Callable[..., None], make_weights: MakeWeights
) -> None:
    put_at_hand()
    for options in ({"network": "timm:test_efficientnet"}, {"weights": str(make_weights())}):
        config = parse({**QUICK, **options})
        assert planned(config, prepared_for(config)) is None


def test_nothing_is_planned_without_the_time_for_it(
    put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand()
    config = parse(QUICK)
    prepared = prepared_for(config)
    assert why_not(config, prepared, None) == ""
    with monkeypatch.context() as patch:
        patch.setattr(from_scratch, "FEWEST_TO_JUDGE", 1000)
        assert "validation images could not tell which is better" in why_not(config, prepared)
    with monkeypatch.context() as patch:
        patch.setattr(resolution, "STEPS_A_MEMBER", 1e9)
        assert "half of the time does not suffice for 3 of them" in why_not(config, prepared)
    with monkeypatch.context() as patch:
        patch.setattr(from_scratch, "decoded", raising(ResourceError("The disk is full.")))
        assert "could not be decoded for it (The disk is full)." in why_not(config, prepared)
    monkeypatch.setattr(from_scratch, "DECODING_SHARE", 1e-9)
    monkeypatch.setattr(from_scratch, "decoded", raising(AssertionError("all images were decoded again")))
    assert "too much of the time there is" in why_not(config, prepared)


def test_where_one_larger_network_would_be_chosen_several_small_ones_are(
    put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand()
    config = parse(QUICK)
    prepared = prepared_for(config)
    resolve, asked = resolution.resolve, list[str]()

    def one_larger(config: Config, *others: Any, **more: Any) -> resolution.Resolution:  # noqa: ANN401
        asked.append(config.network)
        found = resolve(config, *others, **more)
        return found if config.network != "auto" else replace(found, recipe=replace(found.recipe, members=2))

    monkeypatch.setattr(from_scratch, "resolve", one_larger)
    plan = planned(config, prepared)
    assert plan is not None
    assert asked == ["auto", "cnn-s"]
    assert plan.recipe.members >= from_scratch.FEWEST_NETWORKS
    assert "there is time for several" in plan.why["network"]


def test_what_is_behind_the_probe_gets_no_more_time(
    put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand()
    monkeypatch.setattr(fitting, "fit_members", lambda *_, **__: pytest.fail("more networks were trained"))
    selection, kept = learned({"learning_rate": 1e-8})  # the probe has no such rate
    assert kept.selection.recipe == selection.recipe
    assert kept.account is not None
    assert kept.fitted.kept.validation_balanced_accuracy > 0.8
    (trial,) = kept.selection.trials
    assert (trial["recipe"]["network"], trial["recipe"]["image_size"]) == ("cnn-s", 64)
    assert trial["validation"]["balanced_accuracy"] < kept.fitted.kept.validation_balanced_accuracy
    story = kept.selection.why["trials"]
    assert "a network from scratch (cnn-s at 64 px) was trained" in story
    assert "nothing more was spent on it" in story


def test_the_better_of_both_is_kept_and_the_first_network_is_one_of_several(
    put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand(empty=True)
    monkeypatch.setattr(gain, "SURE", 0.5)  # any lead: on a busy machine little is learned in so short a time
    trained, rows = seeds_of_trainings(monkeypatch), list[Epoch]()
    selection, kept = learned({}, Told(beside_epoch=rows.append))
    plan = selection.beside
    assert plan is not None
    assert kept.selection.recipe == plan.recipe
    assert kept.account is None
    assert kept.prepared.preprocessing.image_size == 64
    assert len(trained) == len(set(trained)) == len(kept.fitted.members) == plan.recipe.members
    assert tuple(rows) == kept.fitted.curve, "of the first network"
    backbone = kept.selection.trials[0]
    assert backbone["recipe"]["network"] == "timm:test_efficientnet"
    assert backbone["validation"]["balanced_accuracy"] < kept.fitted.kept.validation_balanced_accuracy
    story = kept.selection.why["trials"]
    assert "networks from scratch got half of the time" in story
    assert f"with {plan.recipe.members} networks from scratch: the latter were kept" in story
    assert "was better on validation images than timm:test_efficientnet" in kept.selection.why["network"]


@pytest.mark.parametrize("goes_on", [False, True])
def test_the_seconds_are_asked_for_once_and_half_of_them_are_the_backbones(
    goes_on: bool, put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand()
    config = parse(QUICK)
    prepared = prepared_for(config)
    plan = planned(config, prepared)
    assert plan is not None
    first = Fitted(nn.Identity(), prepared.preprocessing, (), 0, ROW, 1, "budget", 1.0, 1.0)
    rival = Rival("Tried.", {}, prepared, first) if goes_on else Rival("Tried.", {})
    given: dict[str, float] = {}

    def adapted(*_: Any, seconds: float, after_probe: Any, **__: Any) -> Any:  # noqa: ANN401
        given["backbone"] = after_probe(np.zeros((1, 3), np.float32), seconds)
        raise Crashed

    asked = list[Selection | Beside]()

    def left(chosen: Selection | Beside) -> float:
        asked.append(chosen)
        return 1000.0

    monkeypatch.setattr(fitting, "try_rival", lambda *_, **__: rival)
    monkeypatch.setattr(fitting, "adapt", adapted)
    recipe = replace(plan.recipe, network="timm:test_efficientnet", weights="some", image_size=32)
    plan = replace(plan, recipe=replace(plan.recipe, members=4), seconds=125.0)
    selection = Selection(recipe, {}, 0.0, beside=plan)
    with pytest.raises(Crashed):
        fit_network(prepared, selection, left, Checkpoints(None), Told())
    assert asked == [selection, plan]
    assert given["backbone"] == pytest.approx(1000.0 - 3 * 125.0 if goes_on else 1000.0, abs=20.0)


def test_a_backbone_that_is_better_in_the_end_is_kept(
    put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand()
    monkeypatch.setattr(from_scratch, "gain_of", lambda *_: Gain(0.1, -0.1, 0.0))
    selection, kept = learned({"learning_rate": 1e-8})
    assert kept.selection.recipe == selection.recipe
    assert kept.account is not None
    assert "the backbone was kept" in kept.selection.why["trials"]
    (trial,) = kept.selection.trials
    assert trial["validation"]["balanced_accuracy"] < kept.fitted.kept.validation_balanced_accuracy


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (DivergedError("its loss is nan", "Try a lower --learning-rate."), "could not be: its loss is nan."),
        (TooLittleMemoryError("Take a smaller batch."), "could not be: there was too little memory for a step."),
    ],
)
def test_one_that_fails_is_out(
    failure: Exception, told: str, put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand()
    monkeypatch.setattr(from_scratch, "fit_first", raising(failure))
    selection, kept = learned({})
    assert kept.selection.recipe == selection.recipe
    assert told in kept.selection.why["trials"]
    (trial,) = kept.selection.trials
    assert trial["validation"] is None


def test_where_a_further_one_fails_the_first_is_still_there(
    put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand(empty=True)
    monkeypatch.setattr(gain, "SURE", 0.5)
    monkeypatch.setattr(fitting, "fit_members", raising(DivergedError("its loss is nan", "")))
    selection, kept = learned({})
    assert selection.beside is not None
    assert kept.selection.recipe == selection.beside.recipe
    assert (
        "with 1 network from scratch (a further one failed: its loss is nan): the latter was kept"
        in (kept.selection.why["trials"])
    )


def test_a_checkpoint_that_cannot_be_written_is_no_failure_of_the_network(
    put_at_hand: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand()
    monkeypatch.setattr(from_scratch, "fit_first", raising(ResourceError("The disk is full.")))
    with pytest.raises(ResourceError, match="The disk is full"):
        learned({})


def test_after_a_crash_the_same_is_tried_and_what_is_kept_is_the_whole_run(
    put_at_hand: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_at_hand(empty=True)
    monkeypatch.setattr(gain, "SURE", 0.5)
    monkeypatch.setattr(pipeline, "REPORT_S", 1.0)
    pixels, names = photos()
    options: dict[str, Any] = {**QUICK, "budget": "11s", "log": "tensorboard", "out": tmp_path / "run", "quiet": True}
    keep = Checkpoints.keep

    def crashing(self: Checkpoints, stage: str, outcome: Any) -> None:  # noqa: ANN401
        keep(self, stage, outcome)
        if stage == "beside":
            raise Crashed

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "keep", crashing)
        with pytest.raises(Crashed):
            steadylens.train(pixels, names, **options)
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["network"] == "timm:test_efficientnet"
    trained = seeds_of_trainings(monkeypatch)
    run = steadylens.train(pixels, names, **options)
    report = read_report(run.folder)
    assert 0 not in trained, "the first network was trained before"
    assert report["selection"]["chosen"]["network"] == "cnn-s"
    assert json.loads((run.folder / "recipe.json").read_text()) == report["selection"]["chosen"]
    assert report["training"]["pretrained"] is None
    assert report["test"]["balanced_accuracy"]["value"] > 0.8
    networks = [trial["recipe"]["network"] for trial in report["selection"]["trials"]]
    assert (networks[0], set(networks[1:])) == ("cnn-s", {"timm:test_efficientnet"})
    epochs = [json.loads(line)["epoch"] for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs
    assert 0 not in epochs, "the probe's row is not of what was kept"
    assert f"{len(epochs)} of {len(epochs)} epochs" in report["environment"]["loggers"]["tensorboard"]
    page = (run.folder / "report.html").read_text()
    assert "Beside the backbone, a network from scratch (cnn-s at 64 px) was trained" in page
    predictor = load(run.folder)
    assert predictor.probabilities_of_arrays(pixels[:4]).shape == (4, 3)
