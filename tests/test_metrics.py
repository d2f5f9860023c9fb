"""The figures agree with scikit-learn, and their intervals keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk

from steadylens import metrics

Case = tuple[NDArray[np.int64], NDArray[np.float64]]

FIGURES = {"accuracy", "balanced_accuracy", "macro_f1", "worst_class_recall", "log_loss", "balanced_log_loss", "ece"}


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Labels and probabilities of 2 to 6 classes, some perhaps without support, from useless to perfect."""
    classes, n = draw(st.integers(2, 6)), draw(st.integers(1, 60))
    skill = draw(st.sampled_from([0.0, 1.0, 3.0, 30.0]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.integers(0, draw(st.integers(1, classes)), n)
    logits = rng.normal(size=(n, classes))
    logits[np.arange(n), labels] += skill
    return labels, metrics.softmax(logits)


@given(cases())
@settings(deadline=None, max_examples=60)
def test_points_agree_with_scikit_learn(case: Case) -> None:
    labels, probabilities = case
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    supported = np.unique(labels)
    recall = sk.recall_score(labels, predicted, labels=supported, average=None, zero_division=0)
    got = metrics.recalls(labels, predicted, classes)

    assert got[supported] == pytest.approx(recall)
    assert np.isnan(np.delete(got, supported)).all()
    assert metrics.balanced_accuracy(labels, predicted, classes) == pytest.approx(recall.mean())
    assert metrics.worst_class_recall(labels, predicted, classes) == pytest.approx(recall.min())
    assert metrics.macro_f1(labels, predicted, classes) == pytest.approx(
        sk.f1_score(labels, predicted, labels=supported, average="macro", zero_division=0)
    )
    assert metrics.log_loss(labels, probabilities) == pytest.approx(
        sk.log_loss(labels, probabilities, labels=range(classes))
    )
    support = np.bincount(labels)[labels]
    assert metrics.balanced_log_loss(labels, probabilities) == pytest.approx(
        sk.log_loss(labels, probabilities, labels=range(classes), sample_weight=1 / support)
    )


def test_balanced_accuracy_agrees_with_scikit_learn_where_every_class_has_support() -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.permutation(np.arange(90) % 3), rng.integers(0, 3, 90)
    assert metrics.balanced_accuracy(labels, predicted, 3) == pytest.approx(
        sk.balanced_accuracy_score(labels, predicted)
    )


@given(cases(), st.integers(0, 3))
@settings(deadline=None, max_examples=60)
def test_every_interval_holds_its_value(case: Case, seed: int) -> None:
    labels, probabilities = case
    got = metrics.figures(labels, probabilities, seed=seed, draws=40)
    assert set(got) == FIGURES
    for name, figure in got.items():
        assert figure.low <= figure.value <= figure.high, name
        assert figure.low >= 0.0
        assert figure.high <= 1.0 or "log_loss" in name


@given(cases())
@settings(deadline=None, max_examples=40)
def test_values_are_those_of_the_single_functions(case: Case) -> None:
    labels, probabilities = case
    predicted, classes = probabilities.argmax(axis=1), probabilities.shape[1]
    got = {name: figure.value for name, figure in metrics.figures(labels, probabilities, draws=3).items()}
    assert got == pytest.approx(
        {
            "accuracy": sk.accuracy_score(labels, predicted),
            "balanced_accuracy": metrics.balanced_accuracy(labels, predicted, classes),
            "macro_f1": metrics.macro_f1(labels, predicted, classes),
            "worst_class_recall": metrics.worst_class_recall(labels, predicted, classes),
            "log_loss": metrics.log_loss(labels, probabilities),
            "balanced_log_loss": metrics.balanced_log_loss(labels, probabilities),
            "ece": metrics.expected_calibration_error(labels, probabilities),
        }
    )


@given(cases(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_the_order_of_images_does_not_matter(case: Case, random: object) -> None:
    labels, probabilities = case
    order = np.array(sorted(range(len(labels)), key=lambda _: random.random()))  # type: ignore[attr-defined]
    before = metrics.figures(labels, probabilities, seed=5, draws=30)
    after = metrics.figures(labels[order], probabilities[order], seed=5, draws=30)
    for name in FIGURES:
        assert list(after[name].as_dict().values()) == pytest.approx(list(before[name].as_dict().values())), name


def test_same_seed_same_interval_and_another_seed_another() -> None:
    rng = np.random.default_rng(0)
    labels, probabilities = rng.integers(0, 3, 100), metrics.softmax(rng.normal(size=(100, 3)))
    first, again, other = (metrics.figures(labels, probabilities, seed=seed, draws=50) for seed in (1, 1, 2))
    assert first == again
    assert first["log_loss"] != other["log_loss"]


def test_perfect_predictions_of_few_images_stay_uncertain() -> None:
    labels = np.array([0] * 50 + [1] * 5)
    got = metrics.figures(labels, np.eye(2)[labels])
    assert got["balanced_accuracy"].value == got["balanced_accuracy"].high == 1.0
    assert 0.5 < got["balanced_accuracy"].low < 0.95  # five images cannot tell 100 % from 80 %
    assert got["worst_class_recall"].low <= 0.8
    assert got["accuracy"].low < 1.0
    assert got["log_loss"].value == pytest.approx(0.0)
    assert got["ece"].value == 0.0


def test_a_class_never_recognised_stays_uncertain_too() -> None:
    labels = np.array([0] * 50 + [1] * 5)
    worst = metrics.figures(labels, np.eye(2)[np.zeros(55, dtype=int)])["worst_class_recall"]
    assert worst.value == worst.low == 0.0
    assert worst.high >= 0.2


def test_a_class_without_support_does_not_count() -> None:
    labels, predicted = np.array([0, 0, 2, 2]), np.array([0, 1, 2, 2])
    assert metrics.recalls(labels, predicted, 4) == pytest.approx([0.5, np.nan, 1.0, np.nan], nan_ok=True)
    assert metrics.balanced_accuracy(labels, predicted, 4) == 0.75
    assert metrics.worst_class_recall(labels, predicted, 4) == 0.5
    assert metrics.macro_f1(labels, predicted, 4) == pytest.approx((2 / 3 + 1) / 2)


def test_one_image_is_enough_for_every_figure() -> None:
    got = metrics.figures(np.array([1]), np.array([[0.25, 0.75]]), draws=20)
    assert got["balanced_accuracy"].value == 1.0
    assert got["log_loss"].value == pytest.approx(-np.log(0.75))


def test_a_sure_and_wrong_answer_has_a_finite_loss() -> None:
    loss = metrics.log_loss(np.array([1]), np.array([[1.0, 0.0]]))
    assert loss == pytest.approx(-np.log(np.finfo(np.float64).eps))


def test_softmax_survives_huge_logits() -> None:
    assert metrics.softmax(np.array([[1e4, 0.0], [-1e4, -1e4]])) == pytest.approx(np.array([[1.0, 0.0], [0.5, 0.5]]))


def test_calibration_error_of_a_case_worked_by_hand() -> None:
    # Two images at 0.9 (one right), two at 0.6 (both right): (2 * |0.5 - 0.9| + 2 * |1.0 - 0.6|) / 4.
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
    labels = np.array([0, 1, 0, 0])
    assert metrics.expected_calibration_error(labels, probabilities) == pytest.approx(0.4)
    rows = metrics.reliability(labels, probabilities)
    assert [(row.count, row.accuracy) for row in rows] == [(2, 1.0), (2, 0.5)]
    assert [row.confidence for row in rows] == pytest.approx([0.6, 0.9])


def test_probabilities_of_a_fair_source_are_calibrated() -> None:
    rng = np.random.default_rng(3)
    probabilities = metrics.softmax(rng.normal(size=(40_000, 4)) * 2)
    labels = (rng.random((40_000, 1)) < probabilities.cumsum(axis=1)).argmax(axis=1)
    assert metrics.expected_calibration_error(labels, probabilities) < 0.01


@pytest.mark.parametrize("support", [(100, 100), (200, 40, 20), (200, 5)])
def test_the_interval_of_balanced_accuracy_covers_the_truth(support: tuple[int, ...]) -> None:
    rng = np.random.default_rng(11)
    recall = np.linspace(0.9, 0.6, len(support))
    labels = np.repeat(np.arange(len(support)), support)
    covered = 0
    for test in range(200):
        right = rng.random(len(labels)) < recall[labels]
        predicted = np.where(right, labels, (labels + 1) % len(support))
        figure = metrics.figures(labels, np.eye(len(support))[predicted], seed=test, draws=300)["balanced_accuracy"]
        covered += figure.low <= recall.mean() <= figure.high
    assert 180 <= covered <= 198  # 95 % of 200, with what chance allows


def test_many_small_classes_do_not_pull_the_interval_down() -> None:
    rng = np.random.default_rng(2)
    labels = np.repeat(np.arange(100), 5)
    covered = 0
    for test in range(60):
        predicted = np.where(rng.random(500) < 0.95, labels, (labels + 1) % 100)
        figure = metrics.figures(labels, np.eye(100)[predicted], seed=test, draws=200)["balanced_accuracy"]
        covered += figure.low <= 0.95 <= figure.high
    assert covered >= 54
