"""The diagnosis says what the curves say, in words that hold the figures."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.training.diagnosis import Diagnosis, Row, diagnose


def rows(
    validation: Sequence[float | None],
    validation_loss: Sequence[float | None] | None = None,
    train_loss: Sequence[float | None] | None = None,
    train: Sequence[float | None] | None = None,
) -> list[Row]:
    n = len(validation)
    return [
        {
            "epoch": i + 1,
            "train_balanced_accuracy": (train or [None] * n)[i],
            "validation_balanced_accuracy": validation[i],
            "train_balanced_log_loss": (train_loss or [None] * n)[i],
            "validation_balanced_log_loss": (validation_loss or [None] * n)[i],
        }
        for i in range(n)
    ]


FLAT = rows([0.9] * 12)
CLIMBING = rows([0.5, 0.6, 0.65, 0.7, 0.74, 0.78, 0.82, 0.86])
RISING = rows([0.85] * 4, [0.5, 0.4, 0.45, 0.5], [0.6, 0.4, 0.3, 0.2])


def diagnosed(
    curve: Sequence[Row],
    train: float,
    validation: float,
    *,
    margin: float = 0.02,
    stopped: str = "early",
    best_epoch: int | None = None,
) -> Diagnosis:
    return diagnose(
        curve,
        best_epoch=len(curve) if best_epoch is None else best_epoch,
        train=(train, 0.3),
        validation=(validation, 0.5),
        margin=margin,
        stopped=stopped,
    )


def test_a_large_gap_is_overfitting_and_the_text_holds_the_figures() -> None:
    got = diagnosed(FLAT, 0.971, 0.610)
    assert got.verdict == "overfitting"
    assert got.gap == pytest.approx(0.361)
    assert got.text.startswith(
        "97.1 % on the training images, 61.0 % on validation images it never saw: a gap of 36.1 points."
    )


def test_a_small_gap_is_good() -> None:
    got = diagnosed(FLAT, 0.93, 0.90)
    assert got.verdict == "good"
    assert "a gap of 3.0 points" in got.text


def test_a_gap_within_the_margin_is_no_alarm() -> None:
    got = diagnosed(FLAT, 0.99, 0.84, margin=0.20)
    assert got.verdict == "good"
    assert "a gap of up to 20.0 points may be chance" in got.text
    assert diagnosed(FLAT, 0.99, 0.84, margin=0.05).verdict == "overfitting"


def test_validation_better_than_training_is_told_as_no_gap() -> None:
    got = diagnosed(FLAT, 0.90, 0.93)
    assert got.verdict == "good"
    assert "no gap" in got.text
    assert got.gap == pytest.approx(-0.03)


def test_a_rising_validation_loss_is_overfitting_even_with_a_gap_below_ten_points() -> None:
    got = diagnosed(RISING, 0.92, 0.85)
    assert got.verdict == "overfitting"
    assert "risen by 25.0 %" in got.text


def test_a_rise_after_the_best_epoch_does_not_count() -> None:
    assert diagnosed(RISING, 0.92, 0.85, best_epoch=2).verdict == "good"


def test_a_rise_with_a_gap_within_the_margin_does_not_count() -> None:
    assert diagnosed(RISING, 0.86, 0.85).verdict == "good"


def test_a_rise_of_both_losses_does_not_count() -> None:
    curve = rows([0.85] * 4, [0.5, 0.4, 0.45, 0.5], [0.6, 0.4, 0.45, 0.5])
    assert diagnosed(curve, 0.92, 0.85).verdict == "good"


def test_weak_on_its_own_training_images_is_underfitting() -> None:
    got = diagnosed(FLAT, 0.62, 0.60)
    assert got.verdict == "underfitting"
    assert "below 80.0 %" in got.text


def test_of_what_training_images_lack_and_the_gap_the_larger_is_named() -> None:
    assert diagnosed(FLAT, 0.75, 0.40).verdict == "overfitting"
    assert diagnosed(FLAT, 0.34, 0.20).verdict == "underfitting"


def test_where_training_images_are_learned_a_large_gap_is_named_whatever_they_lack() -> None:
    assert diagnosed(FLAT, 0.80, 0.66).verdict == "overfitting"


def test_weights_from_before_the_training_images_were_learned_by_heart_are_good() -> None:
    by_heart = rows([0.6, 0.75, 0.7, 0.65], train=[0.65, 0.77, 0.9, 0.99])
    got = diagnosed(by_heart, 0.77, 0.75, best_epoch=2)
    assert got.verdict == "good"
    assert "Later epochs learned the training images better" in got.text


def test_what_was_reached_before_the_best_epoch_or_only_nearly_speaks_for_nothing() -> None:
    before = rows([0.7, 0.75, 0.7], train=[0.9, 0.77, 0.78])
    assert diagnosed(before, 0.77, 0.75, best_epoch=2).verdict == "underfitting"


def test_weak_on_training_the_text_names_both_causes() -> None:
    got = diagnosed(FLAT, 0.75, 0.74)
    assert got.verdict == "underfitting"
    assert "it was held back, or their labels cannot be told from the images" in got.text


@pytest.mark.parametrize(
    ("stopped", "verdict"), [("epochs", "underfitting"), ("budget", "underfitting"), ("early", "good")]
)
def test_a_curve_still_climbing_is_underfitting_unless_stopped_early(stopped: str, verdict: str) -> None:
    assert diagnosed(CLIMBING, 0.9, 0.86, stopped=stopped).verdict == verdict


@pytest.mark.parametrize(("train", "verdict"), [(0.98, "underfitting"), (0.995, "good"), (1.0, "good")])
def test_what_knows_its_training_images_does_not_underfit(train: float, verdict: str) -> None:
    assert diagnosed(CLIMBING, train, 0.93, stopped="epochs").verdict == verdict


def test_a_climb_within_the_margin_is_no_reason() -> None:
    assert diagnosed(CLIMBING, 0.9, 0.86, margin=0.07, stopped="epochs").verdict == "underfitting"
    assert diagnosed(CLIMBING, 0.9, 0.86, margin=0.09, stopped="epochs").verdict == "good"


def test_a_flat_curve_at_the_last_epoch_is_good() -> None:
    assert diagnosed(FLAT, 0.93, 0.9, stopped="epochs").verdict == "good"


@pytest.mark.parametrize("curve", [[], rows([0.9]), rows([None, None])])
def test_a_curve_too_short_to_climb_is_no_reason(curve: list[Row]) -> None:
    assert diagnosed(curve, 0.93, 0.9, stopped="budget", best_epoch=1).verdict == "good"


@pytest.mark.parametrize(
    ("got", "options"),
    [
        (diagnosed(FLAT, 0.97, 0.61), ("--l2", "--l1", "--dropout", "--augment strong", "--mixup", "--early-stopping")),
        (diagnosed(FLAT, 0.6, 0.6), ("--network", "--epochs", "--budget")),
    ],
)
def test_the_advice_names_options(got: Diagnosis, options: tuple[str, ...]) -> None:
    for option in options:
        assert option in " ".join(got.advice)


@given(
    st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=12),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 1),
    st.sampled_from(["early", "epochs", "budget"]),
)
def test_any_curve_gets_a_verdict_that_is_json(
    curve: list[float | None], train: float, validation: float, margin: float, stopped: str
) -> None:
    got = diagnosed(rows(curve, curve, curve), train, validation, margin=margin, stopped=stopped)
    assert json.loads(json.dumps(got.as_dict(), allow_nan=False)) == got.as_dict()
    assert got.verdict != "overfitting" or got.gap > margin
