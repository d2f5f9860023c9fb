"""Every image is judged by networks that saw neither it nor its copies, and flipped labels show."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadylens.config import Config, Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.evaluation.labels import doubt
from steadylens.training.crossfit import CrossFit, choose_recipe, cross_fit, deal

PREPROCESSING = Preprocessing(8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
RECIPE = Recipe(
    classes=("red", "green", "blue"), network="cnn-s", depth=1, width=0.125, image_size=8, imbalance="none",
    minority_augment=0.0, augment="off", flip=False, l1=0.0, l2=0.01, dropout=0.0, label_smoothing=0.0, mixup=0.0,
    early_stopping=0, epochs=12, budget=None, batch_size=16, learning_rate=1e-2, averaging=0.8, precision="fp32",
    seed=3, device="cpu",
)  # fmt: skip


def coloured(n: int = 150, seed: int = 0) -> LabelledPixels:
    """Noisy images, each of one of three colours."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    means = 100 + 60 * np.eye(3)[labels][:, None, None, :]
    pixels = (means + rng.normal(0, 40, (n, 8, 8, 3))).clip(0, 255).astype(np.uint8)
    return LabelledPixels(pixels, np.arange(n), labels)


def judged(images: LabelledPixels, units: NDArray[np.int64] | None = None, **options: float) -> CrossFit:
    every = np.arange(len(images)) if units is None else units
    return cross_fit(images, every, RECIPE, PREPROCESSING, **{"folds": 3, **options})  # type: ignore[arg-type]


def test_flipped_labels_are_found() -> None:
    images = coloured()
    flipped = np.array([4, 31, 77, 90, 122])
    labels = images.labels.copy()
    labels[flipped] = (labels[flipped] + 1) % 3
    result = judged(LabelledPixels(images.pixels, images.rows, labels))
    assert np.array_equal(result.judged, np.arange(150))
    doubts = doubt(result.logits, labels, result.seen)
    assert set(flipped) <= set(np.flatnonzero(doubts.suspicious))
    assert doubts.suspicious.sum() <= len(flipped) + 3
    assert np.array_equal(doubts.other[flipped], images.labels[flipped])


def test_no_network_has_seen_the_images_that_it_judges() -> None:
    """Labels that follow from nothing can only be known by heart: held-out images get them right by chance alone."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (120, 8, 8, 3), dtype=np.uint8)
    labels = rng.integers(0, 3, 120)
    copies = LabelledPixels(np.concatenate([pixels, pixels]), np.arange(240), np.concatenate([labels, labels]))
    apart, together = judged(copies, np.arange(240)), judged(copies, np.arange(240) % 120)
    assert (apart.logits.argmax(1) == copies.labels).mean() > 0.55  # a copy was trained on
    assert (together.logits.argmax(1) == copies.labels).mean() < 0.5


def test_the_same_seed_gives_the_same_bits() -> None:
    first, again = judged(coloured()), judged(coloured())
    assert np.array_equal(first.logits, again.logits)
    assert np.array_equal(first.seen, again.seen)
    assert np.array_equal(first.distances, again.distances)


def test_foreign_images_are_the_farthest() -> None:
    images = coloured()
    pixels = images.pixels.copy()
    pixels[[10, 20]] = np.where(np.indices((8, 8)).sum(0) % 2, 255, 0)[..., None]  # chequered
    result = judged(LabelledPixels(pixels, images.rows, images.labels))
    assert {10, 20} <= set(np.argsort(-result.distances)[:10].tolist())


def test_a_budget_ends_it_and_progress_only_rises() -> None:
    told: list[float] = []
    endless = replace(RECIPE, epochs=None)
    cross_fit(coloured(), np.arange(150), endless, PREPROCESSING, folds=2, seconds=1.0, on_progress=told.append)
    assert all(0 <= a <= b <= 1 for a, b in pairwise(told))
    assert told[-1] > 0.9


def test_an_image_that_alone_shows_its_class_is_not_judged() -> None:
    images = coloured(61)
    labels = np.where(np.arange(61) == 60, 2, np.arange(61) % 2)
    result = judged(LabelledPixels(images.pixels, images.rows, labels))
    assert np.array_equal(result.judged, np.arange(60))
    assert result.logits.shape == (60, 3)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 60), st.integers(1, 5), st.integers(1, 60))
@settings(max_examples=100)
def test_folds_keep_units_whole_and_leave_every_class_something_to_learn_from(
    seed: int, folds: int, n: int, classes: int, units: int
) -> None:
    rng = np.random.default_rng(seed)
    labels, unit_of = rng.integers(0, classes, n), rng.integers(0, units, n)
    fold_of = deal(labels, unit_of, folds, seed)
    assert ((fold_of >= -1) & (fold_of < folds)).all()
    assert all(len(np.unique(fold_of[unit_of == unit])) == 1 for unit in np.unique(unit_of))
    for fold in range(folds):
        assert set(labels[fold_of == fold]) <= set(labels[fold_of != fold])


def test_the_recipe_is_chosen_by_a_fold_that_holds_something_out() -> None:
    images = coloured(61)
    labels = np.where(np.arange(61) < 1, 0, 1 + np.arange(61) % 2)
    some = LabelledPixels(images.pixels, images.rows, labels)
    for folds in range(2, 6):  # whose first one the only image of class 0 comes to
        assert deal(labels, np.arange(61), folds, 0)[0] == -1
        recipe = choose_recipe(
            some, np.arange(61), ("a", "b", "c"), PREPROCESSING, Config(epochs=1, precision="fp32"), folds=folds,
            seconds=None,
        )  # fmt: skip
        assert (recipe.imbalance, recipe.optimizer, recipe.l2) == ("none", "adamw", 0.05)


def test_folds_are_stratified() -> None:
    labels = np.repeat([0, 1, 2], [100, 40, 8])
    fold_of = deal(labels, np.arange(148), 4, 0)
    counts = np.array([np.bincount(labels[fold_of == fold], minlength=3) for fold in range(4)])
    assert np.array_equal(counts, np.tile([25, 10, 2], (4, 1)))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_deal_depends_on_the_seed_alone(seed: int) -> None:
    labels = np.arange(90) % 3
    assert np.array_equal(deal(labels, np.arange(90), 3, seed), deal(labels, np.arange(90), 3, seed))
    assert not np.array_equal(deal(labels, np.arange(90), 3, seed), deal(labels, np.arange(90), 3, seed + 1))
