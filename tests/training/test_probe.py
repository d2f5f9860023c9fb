"""The probe is scikit-learn's regression with the prior taken off, its strength chosen on images that were left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn

from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.metrics import balanced_accuracy, softmax
from steadylens.models.pretrained import Backbone, from_file
from steadylens.training.probe import FOLDS, STRENGTHS, cross_validate, deal_folds, features_of, fit_probe

MakeWeights = Callable[..., Path]


def features(
    counts: tuple[int, ...], seed: int = 0, apart: float = 2.0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Clouds around one place for each class, on axes of very different scales."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    places = np.random.default_rng(99).normal(0, apart, (len(counts), 6))
    points = places[labels] + rng.normal(0, 1, (len(labels), 6))
    return (points * 10.0 ** np.arange(-2, 4) + 5).astype(np.float32), labels


def test_it_separates_what_can_be_separated() -> None:
    (x, y), (new, truth) = features((60, 30, 12)), features((20, 20, 20), seed=1)
    probe = fit_probe([x], y, 3, remedy="logit-adjust", seed=0)
    assert balanced_accuracy(truth, probe.logits(new).argmax(1), 3) > 0.9
    assert probe.strength in STRENGTHS
    assert probe.folds == FOLDS


def test_the_prior_is_taken_off_and_nothing_else() -> None:
    x, y = features((60, 30, 12))
    plain, adjusted = (fit_probe([x], y, 3, remedy=remedy, seed=0) for remedy in ("none", "logit-adjust"))
    if plain.strength == adjusted.strength:
        assert adjusted.bias - plain.bias == pytest.approx(-np.log(np.array([60, 30, 12]) / 102), abs=1e-4)
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
    model = LogisticRegression(C=plain.strength, max_iter=1000, tol=1e-6).fit(scaled, y)
    assert softmax(plain.logits(x)) == pytest.approx(model.predict_proba(scaled), abs=0.02)


def test_a_rare_class_is_found_more_often_with_a_remedy() -> None:
    (x, y), (new, truth) = features((200, 8), apart=0.6), features((300, 300), seed=1, apart=0.6)
    recalls = {
        remedy: float((fit_probe([x], y, 2, remedy=remedy, seed=0).logits(new).argmax(1) == 1)[truth == 1].mean())
        for remedy in ("none", "logit-adjust", "class-weights", "effective-number", "oversample")
    }
    assert min(recalls[name] for name in ("logit-adjust", "class-weights", "effective-number")) > recalls["none"] + 0.1
    assert recalls["oversample"] == recalls["class-weights"]


def test_noise_gets_a_stronger_penalty_than_signal() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (120, 40)).astype(np.float32)
    labels = np.arange(120) % 3
    signal, of_signal = features((40, 40, 40), apart=6.0)
    assert (
        cross_validate(noise, labels, 3, remedy="none", seed=0).strength
        < cross_validate(signal, of_signal, 3, remedy="none", seed=0).strength
    )


def test_a_second_view_changes_the_regression_and_not_its_strength() -> None:
    x, y = features((40, 40, 40))
    alone, twice, moved = (fit_probe(views, y, 3, remedy="none", seed=0) for views in ([x], [x, x], [x, x[::-1]]))
    assert alone.strength == twice.strength == moved.strength
    assert twice.weight == pytest.approx(alone.weight, rel=0.05, abs=1e-3)
    assert not np.allclose(moved.weight, alone.weight, rtol=0.2)


@settings(max_examples=60)
@given(
    counts=st.lists(st.integers(1, 12), min_size=2, max_size=5),
    seed=st.integers(0, 5),
    sets=st.none() | st.integers(1, 20),
)
def test_copies_stay_together_and_every_fold_learns_every_class(counts: list[int], seed: int, sets: int | None) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    clusters = None if sets is None else np.random.default_rng(seed).integers(0, sets, len(labels))
    folds = deal_folds(labels, clusters, seed)
    if clusters is not None:
        for number in np.unique(clusters):
            assert len(np.unique(folds[clusters == number])) == 1
    else:
        for fold in range(int(folds.max(initial=-1)) + 1):
            assert set(labels[folds != fold]) == set(labels)
        alone = np.flatnonzero(np.array(counts) == 1)
        assert (folds[np.isin(labels, alone)] == -1).all()
        assert (folds[~np.isin(labels, alone)] >= 0).all()
    assert np.array_equal(folds, deal_folds(labels, clusters, seed))


def test_copies_across_folds_would_flatter_and_clusters_prevent_it() -> None:
    rng = np.random.default_rng(0)
    noise = np.repeat(rng.normal(0, 1, (60, 80)), 2, axis=0).astype(np.float32)  # each image twice, labels at random
    labels, pairs = np.repeat(rng.permutation(np.arange(60) % 3), 2), np.repeat(np.arange(60), 2)
    apart, together = (
        cross_validate(noise, labels, 3, remedy="none", seed=0, clusters=clusters) for clusters in (None, pairs)
    )
    hits = [float((found.logits.argmax(1) == labels[found.rows]).mean()) for found in (apart, together)]
    assert hits[0] > 0.6
    assert hits[1] < 0.5


def test_single_images_of_each_class_are_enough() -> None:
    x, y = features((1, 1, 1))
    probe = fit_probe([x], y, 3, remedy="logit-adjust", seed=0)
    assert probe.folds == 0
    assert (probe.logits(x).argmax(1) == y).all()


def test_rare_classes_among_many_images_help_to_choose_too() -> None:
    labels = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [19_000, 980, 20]))
    x = np.random.default_rng(1).normal(0, 1, (len(labels), 2)).astype(np.float32) + labels[:, None]
    found = cross_validate(x, labels, 3, remedy="logit-adjust", seed=0)
    assert np.bincount(labels[found.rows]).tolist() == [7600, 392, 10]
    assert found.folds == FOLDS
    labels = np.where(labels == 1, 0, labels)[: len(labels)] // 2  # two classes, of which one has 20 of 20,000
    assert (labels[cross_validate(x, labels, 2, remedy="none", seed=0).rows] == 1).sum() == 10


def test_a_class_whose_images_all_hang_together_with_others_is_not_asked_for_where_it_was_not_learned() -> None:
    x, y = features((30, 6))
    clusters = np.arange(len(y))
    clusters[np.isin(np.arange(len(y)), [*np.flatnonzero(y == 1), np.flatnonzero(y == 0)[0]])] = len(y)
    found = cross_validate(x, y, 2, remedy="none", seed=0, clusters=clusters)
    assert set(y[found.rows].tolist()) == {0}  # without it, a fold cannot be learned from, nor the class be judged
    assert found.folds == FOLDS - 1
    one = cross_validate(x, y, 2, remedy="none", seed=0, clusters=np.zeros(len(y), np.int64))
    assert (one.folds, len(one.rows)) == (0, 0)


def test_two_classes_are_told_apart_and_the_head_gives_the_same_logits() -> None:
    x, y = features((30, 20))
    probe = fit_probe([x], y, 2, remedy="none", seed=0)
    head = nn.Linear(6, 2)
    probe.write_into(head)
    with torch.no_grad():
        assert head(torch.from_numpy(x)).numpy() == pytest.approx(probe.logits(x), rel=1e-4, abs=1e-4)
    assert (probe.logits(x).argmax(1) == y).mean() > 0.95


@pytest.fixture
def network(make_weights: MakeWeights) -> Backbone:
    network = Backbone("test_efficientnet", 2, 0.0, {})
    network.take_in(from_file(make_weights()))
    return network


IMAGES = LabelledPixels(
    np.random.default_rng(0).integers(0, 256, (300, 16, 16, 3), np.uint8), np.arange(0, 300, 2), np.zeros(150, np.int64)
)
PREPROCESSING = Preprocessing(16, (0.5,) * 3, (0.25,) * 3)


def test_features_are_computed_once(network: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[int] = []
    first = features_of(network, IMAGES, PREPROCESSING, weights="a", cache=tmp_path, advance=told.append)
    assert first.shape == (150, network.head.in_features)
    assert told == [150]
    monkeypatch.setattr(network, "features", None)  # so that looking again would fail
    again = features_of(network, IMAGES, PREPROCESSING, weights="a", cache=tmp_path)
    assert np.array_equal(first, again)


def test_other_features_are_never_taken_for_these(network: Backbone, tmp_path: Path) -> None:
    first = features_of(network, IMAGES, PREPROCESSING, weights="a", cache=tmp_path)
    mirrored = features_of(network, IMAGES, PREPROCESSING, weights="a", cache=tmp_path, mirrored=True)
    flipped = LabelledPixels(np.ascontiguousarray(IMAGES.pixels[:, :, ::-1]), IMAGES.rows, IMAGES.labels)
    assert mirrored == pytest.approx(features_of(network, flipped, PREPROCESSING, weights="a"), abs=1e-5)
    others = [
        mirrored,
        features_of(network, IMAGES, replace(PREPROCESSING, mean=(0.4, 0.5, 0.5)), weights="a", cache=tmp_path),
        features_of(network, replace(IMAGES, rows=IMAGES.rows + 1), PREPROCESSING, weights="a", cache=tmp_path),
    ]
    assert not any(np.allclose(first, other) for other in others)
    with torch.no_grad():
        next(network.body.parameters()).mul_(2)
    assert not np.allclose(first, features_of(network, IMAGES, PREPROCESSING, weights="b", cache=tmp_path))


def test_damaged_features_in_the_cache_are_computed_anew(network: Backbone, tmp_path: Path) -> None:
    first = features_of(network, IMAGES, PREPROCESSING, weights="a", cache=tmp_path)
    (kept,) = tmp_path.glob("*/features.npy")
    for damage in (kept.read_bytes()[:-100], b"", kept.read_bytes()[:-4] + b"\xff\xff\xff\xff"):
        kept.write_bytes(damage)
        assert np.array_equal(features_of(network, IMAGES, PREPROCESSING, weights="a", cache=tmp_path), first)


def test_effective_numbers_weight_the_probe_as_published() -> None:
    """With 60 and 12 images the ratio of the weights is (1 - beta^60) / (1 - beta^12), however many views there are."""
    x, y = features((60, 12))
    scaled = (x - x.mean(0)) / (x.std(0) + 1e-6)
    for views in ([x], [x, x]):
        probe = fit_probe(views, y, 2, remedy="effective-number", seed=0)
        by_hand = [1.0, (1 - 0.9999**60) / (1 - 0.9999**12)]
        by_hand = [w * 72 / (60 * by_hand[0] + 12 * by_hand[1]) for w in by_hand]
        model = LogisticRegression(C=probe.strength, class_weight=dict(enumerate(by_hand)), max_iter=1000, tol=1e-8)
        model.fit(scaled, y)
        assert softmax(probe.logits(x)) == pytest.approx(model.predict_proba(scaled), abs=0.02)
