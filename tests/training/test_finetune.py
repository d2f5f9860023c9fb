"""Fine-tuning starts at the probe, takes its place only where validation is sure, and leaves nothing half done."""

from __future__ import annotations

import copy
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.metrics import balanced_accuracy, balanced_log_loss, softmax
from steadylens.models.inference import logits_of
from steadylens.models.pretrained import Backbone, from_file
from steadylens.training import finetune, gain, loop
from steadylens.training.finetune import Adapted, adapt
from steadylens.training.gain import gain_of, tempered_log_loss
from steadylens.training.state import Epoch, Step

MakeWeights = Callable[..., Path]
SIDE = 24
PREPROCESSING = Preprocessing(SIDE, (0.5,) * 3, (0.25,) * 3)
RECIPE = Recipe(
    classes=("bolt", "nut", "washer"), network="timm:test_efficientnet", depth=0, width=1.0, image_size=SIDE,
    imbalance="logit-adjust", minority_augment=0.0, augment="off", flip=False, l1=0.0, l2=0.0, dropout=0.0,
    label_smoothing=0.0, mixup=0.0, early_stopping=5, epochs=4, budget=None, batch_size=16, learning_rate=2e-3,
    averaging=0.5, precision="fp32", seed=0, device="cpu", transfer="fine-tune",
)  # fmt: skip


def images(counts: tuple[int, ...], seed: int, difference: int = 25) -> LabelledPixels:
    """Noise, with one colour a little brighter for each class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), counts))
    pixels = rng.integers(0, 200, (len(labels), SIDE, SIDE, 3))
    pixels[np.arange(len(labels)), :, :, labels] += difference
    return LabelledPixels(pixels.astype(np.uint8), np.arange(len(labels)), labels)


TRAIN, VALIDATION = images((30, 20, 12), 0), images((12, 12, 12), 1)


@pytest.fixture
def network(make_weights: MakeWeights) -> Backbone:
    torch.manual_seed(0)
    network = Backbone("test_efficientnet", 3, 0.0, {})
    network.take_in(from_file(make_weights()))
    return network


def adapted(network: Backbone, recipe: Recipe = RECIPE, **others: Any) -> Adapted:  # noqa: ANN401
    return adapt(network, TRAIN, others.pop("validation", VALIDATION), recipe, PREPROCESSING, **others)


def body_of(network: Backbone) -> dict[str, torch.Tensor]:
    return copy.deepcopy(network.body.state_dict())


def test_the_probe_alone_leaves_the_backbone_as_it_was(network: Backbone) -> None:
    before, rows = body_of(network), list[Epoch]()
    result = adapted(network, replace(RECIPE, transfer="probe"), on_epoch=rows.append)
    assert all(torch.equal(t, before[name]) for name, t in network.body.state_dict().items())
    logits = logits_of(network, VALIDATION, PREPROCESSING)
    assert balanced_accuracy(VALIDATION.labels, logits.argmax(1), 3) > 0.6
    assert [row.epoch for row in rows] == [0]
    assert result.fitted.curve == tuple(rows)
    assert result.fitted.kept == rows[0]
    assert rows[0].validation_tempered_log_loss == pytest.approx(tempered_log_loss(logits, VALIDATION.labels), rel=1e-3)
    assert result.account["fine_tuned"] is None
    assert not network.training


def test_fine_tuning_is_blended_in_where_it_is_surely_better(network: Backbone) -> None:
    before, steps = body_of(network), list[Step]()
    hard = images((60, 60, 60), 1, difference=8)
    train = images((150, 150, 150), 0, difference=8)
    recipe = replace(RECIPE, epochs=8, learning_rate=5e-3)
    result = adapt(network, train, hard, recipe, PREPROCESSING, on_step=steps.append)
    share = result.account["blend"]
    assert share in finetune.BLENDS
    assert "fine-tuned weights are kept" in str(result.account["decision"])
    assert any(not torch.equal(t, before[name]) for name, t in network.body.state_dict().items())
    kept, probe = result.fitted.kept, result.fitted.curve[0]
    assert kept.validation_tempered_log_loss < probe.validation_tempered_log_loss
    logits = logits_of(network, hard, PREPROCESSING)
    assert kept.validation_tempered_log_loss == pytest.approx(tempered_log_loss(logits, hard.labels), rel=1e-4)
    sample = train.sample(len(hard), recipe.seed)
    seen = logits_of(network, sample, PREPROCESSING)
    assert kept.train_balanced_log_loss == pytest.approx(balanced_log_loss(sample.labels, softmax(seen)), rel=1e-4)
    assert kept.train_balanced_accuracy == balanced_accuracy(sample.labels, seen.argmax(1), 3)
    assert {step.epoch for step in steps} == set(range(1, 9))
    assert [row.epoch for row in result.fitted.curve] == list(range(9))
    assert result.fitted.epochs == 8
    assert result.fitted.best_epoch >= 1


@pytest.mark.parametrize("rate", [1e-8, 3.0])
def test_the_probe_is_kept_to_the_bit_where_fine_tuning_gains_nothing(network: Backbone, rate: float) -> None:
    before = body_of(network)
    result = adapted(network, replace(RECIPE, learning_rate=rate, epochs=2))
    alone = Backbone("test_efficientnet", 3, 0.0, {})
    alone.load_state_dict({**network.state_dict()})
    assert result.account["blend"] == 0.0
    assert "the probe is kept" in str(result.account["decision"])
    assert all(torch.equal(t, before[name]) for name, t in network.body.state_dict().items())
    logits = logits_of(network, VALIDATION, PREPROCESSING)
    figure = result.fitted.curve[0].validation_tempered_log_loss
    assert tempered_log_loss(logits, VALIDATION.labels) == pytest.approx(figure, rel=1e-3)
    assert (result.fitted.best_epoch, result.fitted.kept.epoch) == (0, 0)


def test_all_but_the_lowest_stages_are_trained_and_those_higher_up_at_higher_rates(
    network: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = [sum(p.numel() for p in stage) for stage in network.stages()]
    monkeypatch.setattr(finetune, "FROZEN_SHARE", sum(sizes[:2]) / sum(sizes))
    monkeypatch.setattr(gain, "SURE", 0.0)
    before = [[p.detach().clone() for p in stage] for stage in network.stages()]
    recipe = replace(RECIPE, epochs=1, learning_rate=1e-4)
    fit_with_rates, rates = loop.fit, list[float]()

    def watched(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        rates.extend(rate for _, rate in options["rates"])
        return fit_with_rates(*arguments, **options)

    monkeypatch.setattr(finetune, "fit", watched)
    assert adapted(network, recipe).account["blend"] != 0.0
    changed = [
        any(not torch.equal(p, was) for p, was in zip(stage, earlier, strict=True))
        for stage, earlier in zip(network.stages(), before, strict=True)
    ]
    assert changed == [False, False, *[True] * (len(sizes) - 2)]
    assert rates == sorted(set(rates))
    assert rates[-1] == 1.0


def test_it_ends_within_its_seconds(network: Backbone, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    with monkeypatch.context() as patch:  # a clock on which every look takes 10 ms, however busy the machine is
        patch.setattr(time, "perf_counter", lambda: next(ticks) * 0.01)
        result = adapted(network, replace(RECIPE, epochs=None, early_stopping=1000), seconds=3.0)
    assert 2.5 < result.fitted.seconds <= 3.2
    assert result.fitted.epochs >= 1


def test_mirror_images_are_looked_at_where_they_may_be(network: Backbone) -> None:
    probe = replace(RECIPE, transfer="probe")
    assert adapted(network, probe).account["views"] == 1
    assert adapted(network, replace(probe, flip=True)).account["views"] == 2
    assert adapted(network, replace(probe, flip=True), seconds=1e-3).account["views"] == 1


def test_features_from_the_cache_have_no_rate_of_their_own(network: Backbone, tmp_path: Path) -> None:
    probe, told = replace(RECIPE, transfer="probe"), list[tuple[float, float]]()
    first = adapted(network, probe, cache=tmp_path, on_features=lambda share, rate: told.append((share, rate)))
    assert told[-1][0] == 1.0
    assert isinstance(first.account["features_per_second"], float)
    assert adapted(network, probe, cache=tmp_path).account["features_per_second"] is None


def test_without_time_for_half_an_epoch_the_probe_is_kept(network: Backbone) -> None:
    result = adapted(network, replace(RECIPE, epochs=None), seconds=5.0, seconds_per_image=1.0)
    assert result.account["fine_tuned"] is None
    assert "too little time for fine-tuning" in str(result.account["decision"])
    assert result.fitted.stopped == "probe"


@pytest.mark.parametrize(
    "change",
    [
        {"l1": 0.05}, {"l2": 5.0}, {"dropout": 0.5}, {"label_smoothing": 0.3}, {"mixup": 1.0}, {"augment": "medium"},
        {"minority_augment": 0.7}, {"imbalance": "class-weights"}, {"averaging": 0.0}, {"batch_size": 8},
    ],
    ids="-".join,
)  # fmt: skip
def test_every_option_reaches_the_fine_tuning(
    make_weights: MakeWeights, change: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gain, "SURE", 0.0)  # a quantile of -inf: whatever was trained is kept
    found = []
    for recipe in (RECIPE, replace(RECIPE, **change)):
        torch.manual_seed(0)
        network = Backbone("test_efficientnet", 3, recipe.dropout, {})
        network.take_in(from_file(make_weights()))
        assert adapted(network, replace(recipe, epochs=1)).account["blend"] != 0.0
        found.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.isfinite(found[1]).all()
    assert not torch.equal(*found)


def logits_at(labels: NDArray[np.int64], sure: NDArray[np.float64]) -> NDArray[np.float32]:
    out = np.zeros((len(labels), 3), np.float32)
    out[np.arange(len(labels)), labels] = sure
    return out


def test_a_gain_is_believed_where_chance_does_not_give_it() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    base = logits_at(labels, rng.normal(1, 1, 90))
    assert gain_of(base + logits_at(labels, np.full(90, 1.0)), base, labels).is_sure
    assert not gain_of(base, base, labels).is_sure
    believed = [
        gain_of(base + rng.normal(0, 0.3, base.shape).astype(np.float32), base, labels).is_sure for _ in range(50)
    ]
    assert np.mean(believed) < 0.15


def test_few_images_ask_for_a_greater_gain_and_one_is_never_enough() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(6) % 3
    base = logits_at(labels, rng.normal(1, 1, 6))
    other = base + logits_at(labels, rng.normal(0.5, 0.5, 6))
    margins = [gain_of(np.tile(other, (n, 1)), np.tile(base, (n, 1)), np.tile(labels, n)).margin for n in (1, 5, 50)]
    assert margins[0] > 2 * margins[1] > 4 * margins[2] > 0
    one = np.zeros(1, np.int64)
    assert not gain_of(logits_at(one, np.array([9.0])), logits_at(one, np.array([0.1])), one).is_sure
