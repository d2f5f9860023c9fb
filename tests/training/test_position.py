"""A training that is interrupted anywhere ends with the same bits as one that is not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.models import build, spec_of
from steadylens.models.pretrained import Backbone, from_file
from steadylens.report.metrics_log import by_epoch
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.finetune import STAGE, Adapted, adapt
from steadylens.training.loop import fit
from steadylens.training.position import fitted_from, outcome_of
from steadylens.training.state import Epoch, Fitted, Step

MakeWeights = Callable[..., Path]
SIDE = 10
PREPROCESSING = Preprocessing(SIDE, (0.4, 0.4, 0.4), (0.25, 0.25, 0.25))
PLAIN = Recipe(
    classes=("bolt", "nut", "washer"), network="cnn-s", depth=1, width=0.25, image_size=SIDE, imbalance="none",
    minority_augment=0.0, augment="off", flip=False, l1=0.0, l2=0.0, dropout=0.0, label_smoothing=0.0, mixup=0.0,
    early_stopping=0, epochs=3, budget=None, batch_size=16, learning_rate=5e-3, averaging=0.0, precision="fp32", seed=0,
    device="cpu",
)  # fmt: skip
EVERYTHING = replace(
    PLAIN, imbalance="logit-adjust", minority_augment=0.5, augment="strong", flip=True, l1=1e-4, l2=0.05, dropout=0.3,
    label_smoothing=0.1, mixup=0.5, early_stopping=2, averaging=0.9, epochs=4, optimizer="muon",
)  # fmt: skip
DEFERRED = replace(EVERYTHING, imbalance="ldam-drw", early_stopping=1)
KERAS = replace(EVERYTHING, network="keras-blog", depth=3, optimizer="adamw")


def images(counts: tuple[int, ...], seed: int, side: int = SIDE) -> LabelledPixels:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(3), counts))
    pixels = rng.integers(0, 160, (len(labels), side, side, 3))
    pixels[np.arange(len(labels)), :, :, labels] += 60
    return LabelledPixels(pixels.astype(np.uint8), np.arange(len(labels)), labels)


TRAIN, VALIDATION = images((48, 24, 12), 0), images((10, 10, 10), 1)


class CrashedError(Exception):
    """Stands for whatever ends a process."""


class EveryStep(Checkpoints):
    """Saves at every step and waits for the disk, so that a test can go on from any of them."""

    def offer(self, stage: str, take: Callable[[], Checkpoint], *, epoch_ended: bool) -> None:
        del epoch_ended
        self.save_now(stage, take)


def weights_of(network: nn.Module) -> NDArray[np.float32]:
    return torch.cat([value.flatten().float() for value in network.state_dict().values()]).numpy()


def crash_at(step: int | None) -> Callable[[Step], None]:
    """What ends a process at a step, counted from its own first one; None never does."""
    told = itertools.count(1)

    def on_step(_: Step) -> None:
        if next(told) == step:
            raise CrashedError

    return on_step


def trained(recipe: Recipe, checkpoints: Checkpoints | None = None, crash_after: int | None = None) -> Fitted:
    """Train in a process that knows nothing of those before it, and ends after so many steps."""
    torch.manual_seed(recipe.seed)
    network = build(spec_of(recipe))
    torch.manual_seed(crash_after or 99)  # what a process drew before its first step makes no difference
    return fit(
        network, TRAIN, VALIDATION, recipe, PREPROCESSING, checkpoints=checkpoints, on_step=crash_at(crash_after)
    )


def comparable(rows: tuple[Epoch, ...]) -> list[Epoch]:
    return [replace(row, seconds=0.0, images_per_second=0.0) for row in rows]


@pytest.mark.parametrize(
    "recipe", [PLAIN, EVERYTHING, DEFERRED, KERAS], ids=["plain", "everything", "deferred", "keras-blog"]
)
@pytest.mark.parametrize("every", [1, 3, 7])
def test_however_often_it_crashes_it_ends_with_the_same_bits(tmp_path: Path, recipe: Recipe, every: int) -> None:
    whole, crashes = trained(recipe), 0
    while True:
        try:
            # One step more than it saves: the step in which it crashes is lost.
            again = trained(recipe, EveryStep(tmp_path), crash_after=every + 1)
            break
        except CrashedError:
            crashes += 1
    assert crashes >= 2
    assert np.array_equal(weights_of(again.network), weights_of(whole.network))
    assert comparable(again.curve) == comparable(whole.curve)
    assert (again.best_epoch, again.epochs, again.stopped) == (whole.best_epoch, whole.epochs, whole.stopped)


def test_positions_that_are_written_beside_the_training_do_not_change_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steadylens.training.checkpoint.EVERY_S", 0.0)
    kept = Checkpoints(tmp_path)
    assert np.array_equal(weights_of(trained(EVERYTHING, kept).network), weights_of(trained(EVERYTHING).network))
    kept.settle()
    assert kept.position("training") is not None


def test_a_position_holds_the_seconds_too(tmp_path: Path) -> None:
    kept = EveryStep(tmp_path)
    with pytest.raises(CrashedError):
        trained(PLAIN, kept, crash_after=4)
    place = kept.position("training")
    assert place is not None
    place.state["clock"]["elapsed"] = 1000.0
    place.state["clock"]["_all_measurements"] = 0.0
    kept.save_now("training", lambda: place)
    again = trained(PLAIN, EveryStep(tmp_path))
    assert again.seconds > 1000.0
    assert again.curve[-1].seconds > 1000.0


def test_with_a_clock_what_was_trained_before_counts(tmp_path: Path) -> None:
    kept, recipe = EveryStep(tmp_path), replace(PLAIN, epochs=None)
    with pytest.raises(CrashedError):
        timed(recipe, 60.0, kept, crash_at(3))
    place = kept.position("training")
    assert place is not None
    place.state["clock"]["elapsed"] = 90.0  # of 90 + 10
    kept.save_now("training", lambda: place)
    progress: list[float] = []

    def on_step(step: Step) -> None:
        progress.append(step.progress)
        raise CrashedError

    with pytest.raises(CrashedError):
        timed(recipe, 10.0, kept, on_step)
    assert 0.9 <= progress[0] < 0.99


def timed(recipe: Recipe, seconds: float, kept: Checkpoints, on_step: Callable[[Step], None]) -> Fitted:
    network = build(spec_of(recipe))
    return fit(network, TRAIN, VALIDATION, recipe, PREPROCESSING, seconds=seconds, checkpoints=kept, on_step=on_step)


def test_rows_that_were_told_before_a_crash_and_are_lost_do_not_count(tmp_path: Path) -> None:
    """Where a clock ends the training, another process measures other epochs than the one that crashed."""

    class Early(Checkpoints):
        """Saves after the second epoch alone."""

        def offer(self, stage: str, take: Callable[[], Checkpoint], *, epoch_ended: bool) -> None:
            if epoch_ended and (place := take()).state["clock"]["epoch"] == 2:
                self.save_now(stage, lambda: place)

    told = list[Epoch]()
    recipe, arguments = replace(PLAIN, epochs=8), (TRAIN, VALIDATION)
    with pytest.raises(CrashedError):
        fit(
            build(spec_of(recipe)), *arguments, recipe, PREPROCESSING,
            checkpoints=Early(tmp_path), on_step=crash_at(5 * 5 + 3), on_epoch=told.append,
        )  # fmt: skip
    assert [row.epoch for row in told] == [1, 2, 3, 4, 5]
    again = fit(
        build(spec_of(recipe)), *arguments, replace(recipe, epochs=3), PREPROCESSING,
        checkpoints=Checkpoints(tmp_path), on_epoch=told.append,
    )  # fmt: skip
    assert [row.epoch for row in again.curve] == [1, 2, 3]
    assert by_epoch(asdict(row) for row in told) == [asdict(row) for row in again.curve]


def test_a_finished_training_comes_back_as_it_was(tmp_path: Path) -> None:
    whole, kept = trained(EVERYTHING), Checkpoints(tmp_path)
    kept.keep("trained", outcome_of(whole))
    fresh = build(spec_of(EVERYTHING))
    outcome = kept.outcome("trained")
    assert outcome is not None
    again = fitted_from(outcome, fresh, PREPROCESSING)
    assert again == replace(whole, network=fresh)
    assert np.array_equal(weights_of(fresh), weights_of(whole.network))


TUNED = replace(
    EVERYTHING,
    network="timm:test_efficientnet",
    depth=0,
    width=1.0,
    image_size=24,
    transfer="fine-tune",
    l1=0.0,
    optimizer="adamw",
)
FINE = Preprocessing(24, (0.5,) * 3, (0.25,) * 3)
PHOTOS, UNSEEN = images((30, 20, 12), 0, 24), images((12, 12, 12), 1, 24)


def tuned(weights: Path, checkpoints: Checkpoints | None = None, crash_after: int | None = None) -> Adapted:
    torch.manual_seed(0)
    network = Backbone("test_efficientnet", 3, TUNED.dropout, {})
    network.take_in(from_file(weights))
    return adapt(network, PHOTOS, UNSEEN, TUNED, FINE, checkpoints=checkpoints, on_step=crash_at(crash_after))


@pytest.mark.parametrize("every", [2, 3])
def test_fine_tuning_goes_on_where_it_was(tmp_path: Path, make_weights: MakeWeights, every: int) -> None:
    weights, folder, crashes = make_weights(), tmp_path / "kept", 0
    folder.mkdir()
    whole = tuned(weights)
    found = 0
    while True:
        kept = EveryStep(folder)
        found += kept.position(STAGE) is not None
        try:
            again = tuned(weights, kept, crash_after=every + 1)
            break
        except CrashedError:
            crashes += 1
    assert crashes >= 3
    assert found == crashes
    assert np.array_equal(weights_of(again.fitted.network), weights_of(whole.fitted.network))
    assert comparable(again.fitted.curve) == comparable(whole.fitted.curve)
    for name in ("blend", "decision", "strength", "folds", "views"):
        assert again.account[name] == whole.account[name]


def test_the_probe_is_fitted_once(tmp_path: Path, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, kept = make_weights(), EveryStep(tmp_path)
    with pytest.raises(CrashedError):
        tuned(weights, kept, crash_after=1)
    monkeypatch.setattr("steadylens.training.finetune.fit_probe", lambda *_, **__: pytest.fail("fitted again"))
    monkeypatch.setattr("steadylens.training.finetune.features_of", lambda *_, **__: pytest.fail("looked again"))
    assert tuned(weights, kept).fitted.epochs >= 1
