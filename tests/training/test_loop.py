"""The loop learns, repeats itself to the bit, keeps the best weights, and uses all that the recipe says."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from recipes import PLAIN
from steadylens.config import IMBALANCE, Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.errors import ConfigError, ResourceError
from steadylens.metrics import balanced_accuracy, balanced_log_loss, softmax, worst_class_recall
from steadylens.models import NetworkSpec, build, spec_of
from steadylens.models.heads import SCALE
from steadylens.models.inference import logits_of
from steadylens.training import loop, steps
from steadylens.training.checkpoint import Checkpoints
from steadylens.training.gain import tempered_log_loss
from steadylens.training.loop import fit
from steadylens.training.optimizers import rate_at
from steadylens.training.state import Epoch, Fitted, Step, Training

SIDE = 10
PREPROCESSING = Preprocessing(SIDE, (0.4, 0.4, 0.4), (0.25, 0.25, 0.25))
RECIPE = replace(PLAIN, classes=("bolt", "nut", "washer"), image_size=SIDE)
COUNTS = (48, 24, 12)
STEPS = 5  # 84 images in batches of about 16


def images(counts: tuple[int, ...], seed: int) -> LabelledPixels:
    """Noise, with one colour brighter for each class."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), counts))
    pixels = rng.integers(0, 160, (len(labels), SIDE, SIDE, 3))
    pixels[np.arange(len(labels)), :, :, labels] += 60
    return LabelledPixels(pixels.astype(np.uint8), np.arange(len(labels)), labels)


TRAIN, VALIDATION = images(COUNTS, 0), images((10, 10, 10), 1)
# To learn is to get worse at these: the best epoch comes first, and what follows must not be kept.
CONTRARY = replace(VALIDATION, labels=(VALIDATION.labels + 1) % 3)


def fitted(recipe: Recipe, validation: LabelledPixels = VALIDATION, **others: Any) -> Fitted:  # noqa: ANN401
    torch.manual_seed(0)
    return fit(build(spec_of(recipe)), TRAIN, validation, recipe, others.pop("preprocessing", PREPROCESSING), **others)


def weights_of(result: Fitted) -> NDArray[np.float32]:
    state = result.network.state_dict().values()
    return torch.cat([value.flatten().float().cpu() for value in state]).numpy()


@functools.cache
def weights(recipe: Recipe) -> NDArray[np.float32]:
    return weights_of(fitted(recipe))


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A wall clock on which every look takes 10 ms, however fast or busy the machine is."""
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks) * 0.01)
    yield
    monkeypatch.undo()


@pytest.mark.parametrize("network", ["cnn-s", "keras-blog"])
def test_it_learns(network: str) -> None:
    recipe = replace(RECIPE, network=network, depth=1, epochs=8, averaging=0.9)
    result = fitted(recipe)
    found = logits_of(result.network, VALIDATION, PREPROCESSING).argmax(1)
    assert balanced_accuracy(VALIDATION.labels, found, 3) >= 0.95
    assert result.curve[-1].train_loss < 0.6 * result.curve[0].train_loss
    assert not result.network.training


RANDOM = replace(RECIPE, augment="strong", flip=True, dropout=0.3, mixup=0.5, minority_augment=0.5, averaging=0.9)


def test_the_same_seed_gives_the_same_bits_whatever_was_drawn_before() -> None:
    first = weights(RANDOM)
    torch.manual_seed(0)
    network = build(NetworkSpec("cnn-s", 3, SIDE, 1, 0.25, 0.3))
    torch.manual_seed(12345)
    again = fit(network, TRAIN, VALIDATION, RANDOM, PREPROCESSING)
    assert np.array_equal(weights_of(again), first)


@pytest.mark.parametrize("recipe", [RECIPE, RANDOM], ids=["plain", "random"])
def test_another_seed_gives_other_weights(recipe: Recipe) -> None:
    assert not np.array_equal(weights(replace(recipe, seed=1)), weights(recipe))


@pytest.mark.parametrize(
    "change",
    [
        {"l1": 0.1},
        {"l2": 0.5},
        {"dropout": 0.5},
        {"label_smoothing": 0.1},
        {"mixup": 1.0},
        {"augment": "light"},
        {"augment": "medium"},
        {"augment": "strong"},
        {"augment": "light", "flip": True},
        {"flip": True},
        {"minority_augment": 0.5},
        {"imbalance": "class-weights"},
        {"imbalance": "oversample"},
        {"imbalance": "logit-adjust"},
        {"imbalance": "effective-number"},
        {"imbalance": "focal"},
        {"imbalance": "ldam-drw"},
        {"averaging": 0.9},
        {"learning_rate": 1e-3},
        {"batch_size": 32},
        {"precision": "bf16"},
        {"epochs": 3},
    ],
    ids=lambda change: "-".join(f"{name}={value}" for name, value in change.items()),
)
def test_every_part_of_a_recipe_has_an_effect(change: dict[str, Any]) -> None:
    changed = weights(replace(RECIPE, **change))
    assert np.isfinite(changed).all()
    without = replace(RECIPE, augment="light") if len(change) > 1 else RECIPE
    assert not np.array_equal(changed, weights(without))


def test_remedies_for_imbalance_differ_from_each_other() -> None:
    results = [
        weights(replace(RECIPE, imbalance=name)) for name in IMBALANCE if name != "ldam-drw"
    ]  # a head of its own
    assert not any(np.array_equal(a, b) for a, b in itertools.combinations(results, 2))


def zeros_of(recipe: Recipe) -> float:
    parameters = [p for p in fitted(recipe).network.parameters() if p.ndim > 1]
    return float(sum((p == 0).sum() for p in parameters)) / sum(p.numel() for p in parameters)


@pytest.mark.parametrize(
    "averaging",
    [0.0],
)
def test_l1_leaves_exact_zeros(averaging: float) -> None:
    recipe = replace(RECIPE, epochs=4, averaging=averaging)
    assert zeros_of(recipe) == 0
    assert zeros_of(replace(recipe, l1=1.0)) > 0.3


@pytest.mark.usefixtures("ticking")
@pytest.mark.parametrize(
    ("stopped", "change", "seconds"),
    [
        ("epochs", {"epochs": 5, "early_stopping": 100}, None),
        ("epochs", {"epochs": 5, "early_stopping": 100}, 1000.0),
        ("early", {"epochs": 40, "early_stopping": 3}, None),
        ("early", {"epochs": None, "early_stopping": 3}, 8.0),
        ("budget", {"epochs": None, "early_stopping": 100}, 2.0),
        ("budget", {"epochs": 1000, "early_stopping": 100}, 2.0),
    ],
)
def test_the_best_weights_are_kept_however_it_ends(stopped: str, change: dict[str, Any], seconds: float | None) -> None:
    result = fitted(replace(RECIPE, **change), CONTRARY, seconds=seconds)
    figures = [row.validation_tempered_log_loss for row in result.curve]
    best = int(np.argmin(figures))
    assert result.stopped == stopped
    assert result.best_epoch == result.curve[best].epoch
    assert figures[-1] > 1.001 * figures[best], "the last weights are worse, or this shows nothing"
    kept = logits_of(result.network, CONTRARY, PREPROCESSING)
    assert tempered_log_loss(kept, CONTRARY.labels) == pytest.approx(figures[best], rel=1e-5)
    if stopped == "early":
        assert result.epochs - result.best_epoch == 3


def test_by_the_sure_rule_few_images_do_not_choose_an_epoch() -> None:
    few, recipe = CONTRARY.sample(3, 0), replace(RECIPE, epochs=5, early_stopping=100)
    strict, sure = (fitted(replace(recipe, stopping=rule), few) for rule in ("strict", "sure"))
    assert strict.best_epoch < sure.best_epoch == 5
    assert fitted(replace(recipe, stopping="sure"), CONTRARY).best_epoch < 5, "many images do"


def test_without_early_stopping_the_last_weights_are_kept() -> None:
    result = fitted(replace(RECIPE, epochs=4), CONTRARY)
    assert result.best_epoch == result.epochs == 4
    kept = logits_of(result.network, CONTRARY, PREPROCESSING)
    last = result.curve[-1].validation_tempered_log_loss
    assert tempered_log_loss(kept, CONTRARY.labels) == pytest.approx(last, rel=1e-5)


@pytest.mark.usefixtures("ticking")
def test_a_training_ends_within_its_seconds() -> None:
    shares: list[float] = []
    result = fitted(replace(RECIPE, epochs=None), seconds=3.0, on_step=lambda step: shares.append(step.progress))
    assert result.stopped == "budget"
    assert 2.7 < result.seconds <= 3.1
    assert shares == sorted(shares)
    assert result.curve[-1].epoch == result.epochs, "it measures itself once more at the end"
    assert result.curve[-1].learning_rate < 0.1 * RECIPE.learning_rate, "the schedule ends with the budget"


@pytest.mark.parametrize("seconds", [0.0, -1.0])
def test_without_any_time_there_is_one_step_and_one_measurement(seconds: float) -> None:
    steps: list[Step] = []
    result = fitted(replace(RECIPE, epochs=None, early_stopping=3), seconds=seconds, on_step=steps.append)
    assert (len(steps), len(result.curve), result.epochs, result.best_epoch) == (1, 1, 1, 1)
    assert result.stopped == "budget"
    assert np.isfinite(result.curve[0].train_loss)


def test_the_curve_says_what_the_weights_do() -> None:
    rows: list[Epoch] = []
    result = fitted(replace(RECIPE, epochs=3, averaging=0.9), on_epoch=rows.append)
    assert tuple(rows) == result.curve
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert all(np.isfinite(getattr(row, field.name)) for row in rows for field in fields(Epoch))
    assert [row.seconds for row in rows] == sorted(row.seconds for row in rows)
    assert rows[-1].seconds <= result.seconds
    assert result.images_per_second > 0

    logits = logits_of(result.network, VALIDATION, PREPROCESSING)
    last, labels = rows[-1], VALIDATION.labels
    assert last.validation_balanced_accuracy == balanced_accuracy(labels, logits.argmax(1), 3)
    assert last.validation_worst_class_recall == worst_class_recall(labels, logits.argmax(1), 3)
    assert last.validation_balanced_log_loss == pytest.approx(balanced_log_loss(labels, softmax(logits)), rel=1e-5)
    assert last.validation_tempered_log_loss <= last.validation_balanced_log_loss
    seen = logits_of(result.network, TRAIN, PREPROCESSING)  # so few images are all in the sample
    assert last.train_balanced_accuracy == balanced_accuracy(TRAIN.labels, seen.argmax(1), 3)
    assert last.train_balanced_log_loss == pytest.approx(balanced_log_loss(TRAIN.labels, softmax(seen)), rel=1e-5)


def test_every_step_is_told() -> None:
    steps: list[Step] = []
    result = fitted(replace(RECIPE, epochs=3), on_step=steps.append)
    assert [step.epoch for step in steps] == [1] * STEPS + [2] * STEPS + [3] * STEPS
    assert [step.progress for step in steps] == pytest.approx(np.arange(1, 16) / 15)
    assert all(step.loss > 0 and step.images_per_second > 0 for step in steps)
    for epoch in (1, 2, 3):
        losses = [step.loss for step in steps if step.epoch == epoch]
        assert result.curve[epoch - 1].train_loss == pytest.approx(np.mean(losses))
    assert [row.learning_rate for row in result.curve] == pytest.approx(
        [RECIPE.learning_rate * rate_at((epoch * STEPS - 1) / 15) for epoch in (1, 2, 3)]
    )


def test_a_loss_that_is_no_number_is_named_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"after epoch 1, step 1, the loss is nan.*learning_rate"):
        fitted(RECIPE, preprocessing=Preprocessing(SIDE, (0.4,) * 3, (0.0,) * 3))
    with pytest.raises(ConfigError, match=r"after epoch \d+, step \d+, .* no number any more"):
        fitted(replace(RECIPE, learning_rate=1e30, epochs=4))


@pytest.mark.parametrize("patience", [0, 5])
def test_diverging_in_the_very_last_step_is_named_too(patience: int) -> None:
    recipe = replace(RECIPE, network="keras-blog", epochs=1, batch_size=1000, l2=1e38, early_stopping=patience)
    with np.errstate(all="ignore"), pytest.raises(ConfigError, match="no number any more"):
        fitted(recipe)


def test_after_diverging_the_last_good_weights_are_kept_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steadylens.training.checkpoint.EVERY_S", 0.0)
    recipe, one_step, kept = replace(RECIPE, epochs=4), steps.next_step, Checkpoints(tmp_path)

    def poisoned(training: Training, positions: NDArray[np.int64], epoch: int, *place: Any) -> Tensor:  # noqa: ANN401
        if epoch == 3:
            next(training.network.parameters()).data.fill_(float("nan"))
        return one_step(training, positions, epoch, *place)

    monkeypatch.setattr(loop, "next_step", poisoned)
    with pytest.raises(
        ConfigError, match=r"after epoch 3, step 1, the loss is nan.*The last good weights are in "
    ) as e:
        fitted(recipe, checkpoints=kept)
    name = str(e.value).rsplit("/", 1)[-1].removesuffix(".safetensors.")
    assert (tmp_path / f"{name}.safetensors").is_file()
    place = kept.position("training")
    assert place is not None
    assert all(tensor.isfinite().all() for tensor in place.tensors.values())
    assert place.state["clock"]["epoch"] == 2
    assert "best.head.weight" in place.tensors


def test_too_little_memory_names_a_batch_size_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    take = LabelledPixels.take

    def greedy(self: LabelledPixels, positions: NDArray[np.int64]) -> Any:  # noqa: ANN401
        if len(positions) > 5:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")
        return take(self, positions)

    monkeypatch.setattr(LabelledPixels, "take", greedy)
    with pytest.raises(ResourceError, match=r"a batch of 16 images; a batch of 4 fits.*--set batch_size=4"):
        fitted(RECIPE)
    assert fitted(replace(RECIPE, batch_size=4, epochs=1)).epochs == 1


def test_a_class_without_validation_images_is_no_obstacle() -> None:
    some = replace(
        VALIDATION, rows=VALIDATION.rows[VALIDATION.labels != 1], labels=VALIDATION.labels[VALIDATION.labels != 1]
    )
    assert np.isfinite(fitted(RECIPE, some).curve[-1].validation_balanced_log_loss)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_on_a_gpu(precision: str) -> None:
    recipe = replace(RECIPE, epochs=8, averaging=0.9, device="cuda", precision=precision, dropout=0.1, mixup=0.3)
    result = fitted(replace(recipe, augment="light", imbalance="logit-adjust", early_stopping=8))
    assert next(result.network.parameters()).device.type == "cuda"
    found = logits_of(result.network, VALIDATION, PREPROCESSING).argmax(1)
    assert balanced_accuracy(VALIDATION.labels, found, 3) >= 0.9


@pytest.mark.parametrize("network", ["cnn-s", "keras-blog"])
def test_ldam_learns_and_its_last_fifth_is_re_weighted(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(RECIPE, network=network, imbalance="ldam-drw", epochs=10, early_stopping=0)
    result = fitted(recipe)
    assert result.kept.validation_balanced_accuracy > 0.9
    assert np.abs(logits_of(result.network, VALIDATION.pixels, PREPROCESSING)).max() <= SCALE * (1 + 1e-5)
    monkeypatch.setattr("steadylens.training.imbalance.DEFERRED", 1.1)
    never = fitted(recipe)
    train_losses = [[row.train_loss for row in each.curve] for each in (result, never)]
    assert train_losses[0][:8] == train_losses[1][:8]
    assert train_losses[0][8:] != train_losses[1][8:]


def test_patience_runs_anew_from_where_re_weighting_begins() -> None:
    recipe = replace(RECIPE, imbalance="ldam-drw", epochs=40, early_stopping=3)
    result = fitted(recipe, CONTRARY)
    assert result.stopped == "early"
    assert result.best_epoch < 10
    assert result.epochs == 0.8 * 40 - 1 + 3, "epoch 31 is the last measured one before"
