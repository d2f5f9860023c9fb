"""The weights that are kept are the best by a figure that overconfidence does not spoil."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from steadylens.training.early_stopping import BestWeights

LABELS = np.repeat(np.arange(4), 25)


def losses(mean: float, spread: float = 0.0) -> NDArray[np.float64]:
    """Of each validation image; `spread` is how far they are from their mean, one up and the next one down."""
    return mean + spread * np.tile([-1.0, 1.0], len(LABELS) // 2)


def network_with(value: float) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


def value_of(network: nn.Module) -> float:
    return next(network.parameters()).flatten()[0].item()


def offered(patience: int, figures: list[float], rule: str = "strict") -> tuple[BestWeights, nn.Module]:
    best, network = BestWeights(patience, rule), network_with(0.0)
    for epoch, figure in enumerate(figures, 1):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(epoch)
        best.offer(network, epoch, losses(figure), LABELS)
    best.restore(network)
    return best, network


def test_the_best_weights_are_kept_wherever_they_come() -> None:
    for figures in ([1.0, 3.0, 2.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0]):
        best, network = offered(5, figures)
        assert best.epoch == figures.index(1.0) + 1
        assert best.figure == pytest.approx(1.0)
        assert value_of(network) == best.epoch


def test_of_equals_the_first_is_kept() -> None:
    best, network = offered(5, [2.0, 1.0, 1.0, 1.0])
    assert best.epoch == 2
    assert value_of(network) == 2


def test_without_patience_nothing_is_chosen_and_nothing_stops() -> None:
    best, network = offered(0, [1.0, 2.0, 3.0])
    assert best.epoch == 3
    assert value_of(network) == 3
    assert not any(best.exhausted(epoch) for epoch in range(1000))


def test_patience_counts_epochs_since_the_best() -> None:
    best, _ = offered(3, [2.0, 1.0, 1.5, 1.5, 1.5])
    assert [best.exhausted(epoch) for epoch in (3, 4, 5, 6)] == [False, False, True, True]


def test_one_bad_measurement_ends_no_training_that_measures_itself_rarely() -> None:
    best, network = BestWeights(3), network_with(0.0)
    for epoch, figure in ((120, 1.0), (240, 1.5), (360, 1.5)):
        best.offer(network, epoch, losses(figure), LABELS)
        assert not best.exhausted(epoch)
    best.offer(network, 480, losses(1.5), LABELS)
    assert best.exhausted(480)


def test_a_better_epoch_starts_the_count_anew() -> None:
    best, _ = offered(3, [2.0, 1.0, 1.5, 1.5, 1.5])
    best.offer(network_with(0.0), 6, losses(0.5), LABELS)
    assert not best.exhausted(6)


def test_what_is_restored_is_the_same_to_the_bit_with_its_norms() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)).train()
    network(torch.randn(4, 3, 8, 8))
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    best = BestWeights(3)
    best.offer(network, 1, losses(1.0), LABELS)
    network(torch.randn(4, 3, 8, 8) * 100)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.3)
    best.restore(network)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


def test_patience_can_be_counted_from_a_later_epoch() -> None:
    best, _ = offered(3, [1.0, 2.0, 2.0, 2.0, 2.0])
    assert best.exhausted(5)
    best.wait(5)
    assert not best.exhausted(7)
    assert best.exhausted(8)


def ended(rule: str, worse_by: float, uneven: float) -> tuple[BestWeights, nn.Module]:
    """A training whose losses at the end are higher on average, and each one by another number."""
    best, network = BestWeights(5, rule), network_with(1.0)
    best.offer(network, 7, losses(1.0), LABELS)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(2.0)
    best.offer(network, 9, losses(1.0 + worse_by, uneven), LABELS, at_the_end=True)
    best.restore(network)
    return best, network


def test_by_the_sure_rule_the_last_weights_are_kept_where_the_best_are_better_by_chance() -> None:
    best, network = ended("sure", worse_by=0.02, uneven=0.2)
    assert (best.epoch, value_of(network)) == (9, 2)
    assert best.figure == pytest.approx(1.02)


@pytest.mark.parametrize(
    ("rule", "worse_by", "uneven"), [("sure", 0.02, 0.05), ("sure", 0.2, 0.2), ("strict", 0.02, 0.2)]
)
def test_the_best_weights_are_kept_where_they_are_surely_better_or_the_rule_is_strict(
    rule: str, worse_by: float, uneven: float
) -> None:
    best, network = ended(rule, worse_by, uneven)
    assert (best.epoch, value_of(network)) == (7, 1)
    assert best.figure == pytest.approx(1.0)


@pytest.mark.parametrize(("measured", "kept"), [(1, 7), (40, 50)])
def test_the_best_of_many_epochs_has_to_be_better_by_more_than_the_best_of_one(measured: int, kept: int) -> None:
    best = BestWeights(50, "sure")
    for epoch in range(8 - measured, 7):
        best.offer(network_with(1.0), epoch, losses(2.0), LABELS)
    best.offer(network_with(1.0), 7, losses(1.0), LABELS)
    best.offer(network_with(2.0), 50, losses(1.02, 0.08), LABELS, at_the_end=True)  # 2.5 standard errors
    assert best.epoch == kept


def test_with_one_validation_image_chance_cannot_be_told_and_the_last_weights_are_kept() -> None:
    best, one = BestWeights(5, "sure"), np.array([0])
    best.offer(network_with(1.0), 1, np.array([1.0]), one)
    best.offer(network_with(2.0), 2, np.array([3.0]), one, at_the_end=True)
    assert best.epoch == 2


@pytest.mark.parametrize(("spread", "stops"), [(0.01, True), (1.0, False)])
def test_by_the_sure_rule_a_training_stops_only_where_it_got_worse_by_more_than_chance(
    spread: float, stops: bool
) -> None:
    best, _ = offered(3, [2.0, 1.0], "sure")
    for epoch in range(3, 8):
        best.offer(network_with(0.0), epoch, losses(1.05, spread), LABELS)
        assert best.exhausted(epoch) == (stops and epoch >= 5)
    assert best.epoch == 2, "what is kept is the best while the training goes on"


@given(st.lists(st.floats(0.5, 2.0), min_size=1, max_size=12), st.integers(0, 4))
def test_the_figure_is_the_lowest_so_far(figures: list[float], patience: int) -> None:
    best, _ = offered(patience, figures)
    assert best.figure == pytest.approx(min(figures) if patience else figures[-1])
