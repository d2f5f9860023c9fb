"""Temperature scaling finds the temperature, and gives every class the same say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadylens.evaluation.calibration import HIGHEST, LOWEST, apply_temperature, fit_temperature
from steadylens.metrics import balanced_log_loss, expected_calibration_error, softmax


def sample(n: int, classes: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Calibrated logits, and labels drawn from the probabilities that they claim."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 2
    labels = (rng.random((n, 1)) < softmax(logits).cumsum(axis=1)).argmax(axis=1)
    return logits, labels


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_it_undoes_a_known_temperature(temperature: float) -> None:
    logits, labels = sample(8000, 3, seed=0)
    found = fit_temperature(logits * temperature, labels)
    assert found == pytest.approx(temperature, rel=0.08)


def test_it_mends_overconfidence() -> None:
    logits, labels = sample(4000, 4, seed=1)
    overconfident = logits * 5
    calibrated = apply_temperature(overconfident, fit_temperature(overconfident, labels))
    assert expected_calibration_error(labels, softmax(overconfident)) > 0.1
    assert expected_calibration_error(labels, calibrated) < 0.03


@given(st.integers(0, 10_000), st.integers(2, 5))
@settings(max_examples=25)
def test_no_other_temperature_has_a_lower_balanced_loss(seed: int, classes: int) -> None:
    logits, labels = sample(3000, classes, seed)  # so many that the prior has no say
    found = fit_temperature(logits, labels)
    lowest = balanced_log_loss(labels, apply_temperature(logits, found))
    for other in np.geomspace(LOWEST, HIGHEST, 60):
        assert lowest <= balanced_log_loss(labels, apply_temperature(logits, other)) + 1e-3


def test_a_rare_class_counts_as_much_as_a_common_one() -> None:
    # 90 sure and right images of class 0 ask for a low temperature; 10 of class 1, half of them wrong, for a high one.
    # Both two hundred times over, so that the prior has no say.
    logits = np.zeros((20_000, 2))
    logits[:18_000, 0], logits[18_000:19_000, 1], logits[19_000:, 0] = 4.0, 4.0, 4.0
    labels = np.array([0] * 18_000 + [1] * 2_000)
    balanced = fit_temperature(logits, labels)
    # Repeating the rare class until it is as common must change nothing.
    repeated = np.concatenate([logits[:18_000], np.repeat(logits[18_000:], 9, axis=0)])
    assert fit_temperature(repeated, np.repeat([0, 1], 18_000)) == pytest.approx(balanced, rel=0.01)
    assert balanced == pytest.approx(4.0 / np.log(3.0), rel=0.01)  # a quarter wrong: the logit of 0.75 is log 3


def test_a_few_right_images_do_not_ask_for_certainty() -> None:
    def found(n: int) -> float:
        labels = np.arange(n) % 2
        return fit_temperature(4.0 * np.eye(2)[labels], labels)

    assert found(4) > found(40) > found(4000)
    assert found(4) == pytest.approx(1.0, abs=0.1)


def test_it_stays_within_its_bounds() -> None:
    labels = np.arange(100_000) % 2
    right = 0.1 * np.eye(2)[labels]
    assert fit_temperature(right, labels) == pytest.approx(LOWEST, rel=0.01)
    assert fit_temperature(10 - 100 * right, labels) == pytest.approx(HIGHEST, rel=0.01)


def test_logits_that_say_nothing_are_no_problem() -> None:
    found = fit_temperature(np.zeros((10, 3)), np.arange(10) % 3)
    assert LOWEST <= found <= HIGHEST


def test_float32_logits_give_float64_probabilities_that_sum_to_one() -> None:
    probabilities = apply_temperature(np.array([[300.0, -200.0, 0.0]], dtype=np.float32), 0.05)
    assert probabilities.dtype == np.float64
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
