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
@settings(max_examples=60)
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
@settings(max_examples=60)
def test_every_interval_holds_its_value(case: Case, seed: int) -> None:
    labels, probabilities = case
    got = metrics.figures(labels, probabilities, seed=seed, draws=40)
    assert set(got) == FIGURES
    for name, figure in got.items():
        assert figure.low <= figure.value <= figure.high, name
        assert figure.low >= 0.0
        assert figure.high <= 1.0 or "log_loss" in name


@given(cases())
@settings(max_examples=40)
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
@settings(max_examples=40)
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


def answers(labels: NDArray[np.int64], skill: float, rng: np.random.Generator, seeds: int = 1) -> metrics.Answers:
    """Answers of some skill for three classes, and losses that go with them."""
    logits = rng.normal(size=(seeds, len(labels), 3))
    logits[:, np.arange(len(labels)), labels] += skill
    losses = np.log(np.exp(logits).sum(2)) - logits[:, np.arange(len(labels)), labels]
    return metrics.Answers(logits.argmax(2), losses)


LONG_TAIL = np.repeat([0, 1, 2], [60, 30, 12])


def test_differences_are_those_of_the_figures_averaged_over_seeds() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = answers(LONG_TAIL, 2.0, rng, seeds=3), answers(LONG_TAIL, 1.0, rng, seeds=2)
    got = metrics.paired_differences(LONG_TAIL, ours, theirs)

    def figures(one: metrics.Answers) -> dict[str, float]:
        rows = [
            (sk.recall_score(LONG_TAIL, p, average=None), [loss[c == LONG_TAIL].mean() for c in range(3)])
            for p, loss in zip(one.predicted, one.losses, strict=True)
        ]
        return {
            "balanced_accuracy": float(np.mean([recall.mean() for recall, _ in rows])),
            "worst_class_recall": float(np.mean([recall.min() for recall, _ in rows])),
            "balanced_log_loss": float(np.mean([np.mean(losses) for _, losses in rows])),
        }

    mine, other = figures(ours), figures(theirs)
    assert set(got) == set(mine)
    for name, figure in got.items():
        assert figure.value == pytest.approx(mine[name] - other[name])
        assert figure.low <= figure.value <= figure.high
    assert got["balanced_accuracy"].low > 0, "a method so much better is told from the other"
    assert metrics.paired_differences(LONG_TAIL, ours, theirs) == got


def test_a_method_is_not_told_from_itself_and_its_equality_is_not_certain() -> None:
    right = metrics.Answers(LONG_TAIL[None], np.zeros((1, len(LONG_TAIL))))
    some = answers(LONG_TAIL, 1.0, np.random.default_rng(1))
    for one in (right, some):
        found = metrics.paired_differences(LONG_TAIL, one, one)
        assert [figure.value for figure in found.values()] == [0, 0, 0]
        assert found["balanced_accuracy"].low < -0.005 < 0.005 < found["balanced_accuracy"].high
        assert found["balanced_log_loss"].high == found["balanced_log_loss"].low == 0


def test_pairing_leaves_out_what_is_hard_for_both() -> None:
    """Two methods that fail on the same images differ surely, though their own intervals overlap widely."""
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], 200)
    theirs = answers(labels, 1.0, rng)
    helped = np.flatnonzero(theirs.predicted[0] != labels)[:30]
    predicted = theirs.predicted.copy()
    predicted[0, helped] = labels[helped]
    found = metrics.paired_differences(labels, metrics.Answers(predicted, theirs.losses), theirs)["balanced_accuracy"]
    assert found.value == pytest.approx(30 / 600)
    assert found.low > 0.03
    p = np.sqrt(0.5 * 0.5 / 600 * 2) * 1.96
    assert found.high - found.low < 2 * p


def test_the_intervals_of_many_images_are_those_of_a_plain_paired_bootstrap() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], [600, 300, 300])
    ours, theirs = answers(labels, 1.5, rng), answers(labels, 1.2, rng)
    members, drawn = [np.flatnonzero(labels == c) for c in range(3)], []
    for _ in range(2000):
        rows = [rng.choice(one, len(one)) for one in members]
        recalls = [[(answer.predicted[0, r] == labels[r]).mean() for r in rows] for answer in (ours, theirs)]
        losses = [[answer.losses[0, r].mean() for r in rows] for answer in (ours, theirs)]
        drawn.append(
            [np.subtract(*(f(x) for x in y)) for f, y in ((np.mean, recalls), (min, recalls), (np.mean, losses))]
        )
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    found = metrics.paired_differences(labels, ours, theirs).values()
    assert [figure.low for figure in found] == pytest.approx(low, abs=0.006)
    assert [figure.high for figure in found] == pytest.approx(high, abs=0.006)


def test_the_interval_of_a_difference_covers_the_true_one() -> None:
    """Images of which 20, 50 and 100 are drawn at random: 95 % intervals hold the truth in at least 90 % of tests."""
    rng = np.random.default_rng(4)
    labels, held = np.repeat([0, 1, 2], [100, 50, 20]), 0
    ours, theirs = np.array([0.9, 0.7, 0.5]), np.array([0.9, 0.6, 0.3])
    truth, tests = float(np.mean(ours - theirs)), 120
    for _ in range(tests):
        hardness = rng.random(len(labels))  # shared: an image is hard for both
        noise = rng.random((2, len(labels))) < 0.3
        pair = [
            np.where(noise[i], rng.random(len(labels)), hardness) < recall[labels]
            for i, recall in enumerate((ours, theirs))
        ]
        both = [metrics.Answers(np.where(right, labels, (labels + 1) % 3)[None], np.zeros((1, 170))) for right in pair]
        figure = metrics.paired_differences(labels, *both, draws=200)["balanced_accuracy"]
        held += figure.low <= truth <= figure.high
    assert held >= 0.9 * tests
