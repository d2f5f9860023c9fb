"""A training that has diverged is stopped and told why, and one that has not is left alone."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadylens.config import IMBALANCE
from steadylens.errors import ConfigError
from steadylens.training.divergence import FAR, LONG, LossWatch, cost_of_guessing, what_to_change
from steadylens.training.imbalance import balance, objective_of

GUESSING = math.log(10)
CHANGE = what_to_change(2e-3, 0.0, 0.05, "fp32")


def watch(guessing: float = GUESSING) -> LossWatch:
    return LossWatch(guessing, CHANGE, lambda: "The best weights so far are in RUN/checkpoints.")


def look_at(losses: list[float] | NDArray[np.float64], watching: LossWatch | None = None) -> LossWatch:
    watching = watching or watch()
    for step, loss in enumerate(losses):
        watching.look(1 + step // 50, step % 50, float(loss))
    return watching


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_stops_at_once(loss: float) -> None:
    with pytest.raises(ConfigError) as caught:
        look_at([2.3, 2.0, loss])
    assert "after epoch 1, step 2, the loss is" in str(caught.value)
    assert "--set learning_rate=0.0005, a quarter of what it was" in str(caught.value)
    assert str(caught.value).endswith("The best weights so far are in RUN/checkpoints.")


def test_other_figures_that_are_no_numbers_are_told_by_name() -> None:
    watch().require_finite(3, 7, 0.0, "the sum of the validation logits")
    with pytest.raises(ConfigError, match="after epoch 3, step 7, the sum of the validation logits is nan"):
        watch().require_finite(3, 7, math.nan, "the sum of the validation logits")


def test_a_loss_that_stays_far_too_high_stops_and_names_the_steps() -> None:
    learning = list(np.linspace(2.3, 0.5, 200))
    with pytest.raises(ConfigError) as caught:
        look_at([*learning, *[30.0] * (LONG + 30)])
    first, told = 200, str(caught.value)
    assert "from epoch 5, step 8 to epoch 11, step 7" in told or f"from epoch {1 + first // 50}, step" in told
    assert "stayed around 30" in told
    assert "where it had been 2.3 or less and guessing costs 2.3" in told


@pytest.mark.parametrize("times", [FAR * 1.02, 10.0, 1e4, 1e30])
def test_it_stops_within_a_bounded_number_of_steps(times: float) -> None:
    look_at([GUESSING] * 100 + [GUESSING * times] * (LONG - 1))
    with pytest.raises(ConfigError):
        look_at([GUESSING] * 100 + [GUESSING * times] * (LONG + 100))


@pytest.mark.parametrize(
    "losses",
    [
        [GUESSING * FAR * 0.98] * 2000,  # high, but not far
        [2.3] * 100 + [1e6] * 20 + [2.0] * 2000,  # a blow from which it recovers
        ([2.0] * 49 + [1e8]) * 40,  # single wild batches
        list(np.geomspace(1e4, 1.0, 1000)),  # a bad start that comes down
        [50.0] * 2000,  # a loss of another scale, that does not grow
        [0.0] * 2000,
    ],
)
def test_what_is_no_divergence_goes_on(losses: list[float]) -> None:
    look_at(losses)


@given(st.integers(0, 2**32 - 1), st.integers(0, 1200))
def test_its_state_is_all_that_it_knows(seed: int, cut: int) -> None:
    rng = np.random.default_rng(seed)
    losses = np.exp(rng.normal(0, 1, 1200) + np.linspace(0, rng.uniform(-4, 4), 1200))

    def outcome(watching: LossWatch, rest: NDArray[np.float64], behind: int) -> str:
        try:
            for step, loss in enumerate(rest, behind):
                watching.look(1, step, float(loss))
        except ConfigError as error:
            return str(error)
        return json.dumps(watching.state())

    uninterrupted = outcome(watch(), losses, 0)
    first = watch()
    stopped = outcome(first, losses[:cut], 0)
    saved = json.loads(json.dumps(first.state(), allow_nan=False))
    resumed = LossWatch(first.guessing, first.change, first.kept)
    resumed.go_to(saved)
    assert resumed == first
    assert uninterrupted in (stopped, outcome(resumed, losses[cut:], cut))


@pytest.mark.parametrize("remedy", IMBALANCE)
@pytest.mark.parametrize("minority_augment", [0.0, 0.5])
def test_what_guessing_costs_is_what_equal_logits_cost_on_an_epoch(remedy: str, minority_augment: float) -> None:
    remedies = balance(np.array([500, 100, 5]), remedy, minority_augment, 0.5)
    labels = torch.from_numpy(np.repeat(np.arange(3), np.round(remedies.shares * 100_000).astype(int)))
    objective = objective_of(remedies, 0.0, torch.device("cpu"))
    parts = [objective(torch.full((len(labels), 3), 7.0), labels, progress).mean() for progress in (0.1, 0.9)]
    assert cost_of_guessing(remedies) == pytest.approx(float(max(parts)), rel=1e-3)


def test_what_to_change_names_what_the_recipe_has() -> None:
    assert what_to_change(2e-3, 0.0, 0.0, "fp32") == (
        "Try a lower learning rate (--set learning_rate=0.0005, a quarter of what it was)."
    )
    told = what_to_change(0.1, 0.01, 0.5, "bf16")
    assert "learning_rate=0.025" in told
    assert told.endswith("or a lower --l1 than 0.01, or a lower --l2 than 0.5, or --set precision=fp32.")
