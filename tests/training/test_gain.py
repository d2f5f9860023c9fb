"""Networks are compared by a figure that overconfidence does not spoil, and a gain is told from chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import ttest_rel

from steadylens.metrics import balanced_log_loss, softmax
from steadylens.training.gain import TEMPERATURES, gain_between, gain_of, tempered_log_loss, tempered_losses


def answers(n: int = 400, skill: float = 2.0, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    logits = rng.normal(size=(n, 4))
    logits[np.arange(n), labels] += skill
    return logits.astype(np.float32), labels


def test_the_figure_is_the_lowest_balanced_log_loss_over_the_temperatures() -> None:
    logits, labels = answers()
    by_hand = [balanced_log_loss(labels, softmax(logits / t)) for t in TEMPERATURES]
    assert tempered_log_loss(logits, labels) == pytest.approx(min(by_hand))
    assert min(TEMPERATURES) < 1 < max(TEMPERATURES)


@given(st.floats(1.0, 6.0), st.integers(0, 20))
def test_overconfidence_hardly_matters(scale: float, seed: int) -> None:
    logits, labels = answers(seed=seed)
    plain = tempered_log_loss(logits, labels)
    assert tempered_log_loss(logits * np.float32(scale), labels) == pytest.approx(plain, rel=0.02)


def test_overconfidence_would_matter_to_the_bare_log_loss() -> None:
    logits, labels = answers()
    assert balanced_log_loss(labels, softmax(logits * 5)) > 1.2 * balanced_log_loss(labels, softmax(logits))


def test_better_answers_have_a_lower_figure() -> None:
    figures = [tempered_log_loss(*answers(skill=skill)) for skill in (0.0, 1.0, 2.0, 4.0)]
    assert figures == sorted(figures, reverse=True)
    assert figures[0] == pytest.approx(np.log(4), rel=0.05)


def test_a_rare_class_counts_as_much_as_a_frequent_one() -> None:
    logits = np.zeros((101, 2), np.float32)
    logits[:, 0] = 3.0
    labels = np.array([0] * 100 + [1])
    assert tempered_log_loss(logits, labels) > np.log(2)


def test_the_losses_of_the_images_are_those_whose_balanced_mean_is_the_figure() -> None:
    logits, labels = answers(n=397)
    losses = tempered_losses(logits, labels)
    by_class = [losses[labels == label].mean() for label in range(4)]
    assert np.mean(by_class) == pytest.approx(tempered_log_loss(logits, labels))


@given(st.floats(-0.3, 0.3), st.floats(0.01, 1.0), st.integers(0, 1000))
def test_with_equally_many_images_of_each_class_it_is_students_paired_test(
    difference: float, spread: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    labels, other = np.repeat(np.arange(5), 8), rng.uniform(0, 2, 40)
    losses = other + difference + spread * rng.normal(size=40)
    gain = gain_between(losses, other, labels)
    assert gain.loss == pytest.approx(losses.mean())
    assert gain.difference == pytest.approx((losses - other).mean())
    assert gain.is_sure == (ttest_rel(losses, other, alternative="less").pvalue < 0.05)


def test_a_class_of_few_images_makes_the_margin_wide() -> None:
    even, uneven = np.repeat([0, 1], 50), np.repeat([0, 1], [96, 4])
    losses = np.tile([0.0, 1.0], 50)
    of_even, of_uneven = (gain_between(losses, np.full(100, 0.5), labels) for labels in (even, uneven))
    assert of_uneven.margin > 2 * of_even.margin > 0


def test_logits_are_compared_each_at_its_best_temperature() -> None:
    logits, labels = answers()
    gain = gain_of(4 * logits, logits, labels)
    assert abs(gain.difference) < 0.01
    assert not gain.is_sure
    assert gain_of(logits, answers(skill=1.0)[0], labels).is_sure


def test_the_best_of_many_has_to_be_better_by_more() -> None:
    rng = np.random.default_rng(0)
    one, labels = rng.normal(1.0, 0.5, 200), np.repeat([0, 1], 100)
    other = one + rng.normal(0.05, 0.3, 200)
    margins = [gain_between(one, other, labels, candidates=n).margin for n in (1, 5, 40)]
    assert margins == sorted(margins)
    tested = ttest_rel(one, other, alternative="less").pvalue
    for candidates in (1, 2, 5, 40, 1000):
        assert gain_between(one, other, labels, candidates=candidates).is_sure == (tested * candidates < 0.05)
