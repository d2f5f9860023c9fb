"""The weights that are kept are the best by a figure that overconfidence does not spoil."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from steadylens.metrics import balanced_log_loss, softmax
from steadylens.training.early_stopping import TEMPERATURES, BestWeights, tempered_log_loss


def network_with(value: float) -> nn.Module:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2))
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


def value_of(network: nn.Module) -> float:
    return next(network.parameters()).flatten()[0].item()


def answers(n: int = 400, skill: float = 2.0, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    logits = rng.normal(size=(n, 4))
    logits[np.arange(n), labels] += skill
    return logits.astype(np.float32), labels


def offered(patience: int, figures: list[float]) -> tuple[BestWeights, nn.Module]:
    best, network = BestWeights(patience), network_with(0.0)
    for epoch, figure in enumerate(figures, 1):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(epoch)
        best.offer(network, figure, epoch)
    best.restore(network)
    return best, network


def test_the_best_weights_are_kept_wherever_they_come() -> None:
    for figures in ([1.0, 3.0, 2.0], [3.0, 1.0, 2.0], [3.0, 2.0, 1.0]):
        best, network = offered(5, figures)
        assert best.epoch == figures.index(1.0) + 1
        assert best.figure == 1.0
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
        best.offer(network, figure, epoch)
        assert not best.exhausted(epoch)
    best.offer(network, 1.5, 480)
    assert best.exhausted(480)


def test_a_better_epoch_starts_the_count_anew() -> None:
    best, _ = offered(3, [2.0, 1.0, 1.5, 1.5, 1.5])
    best.offer(network_with(0.0), 0.5, 6)
    assert not best.exhausted(6)


def test_what_is_restored_is_the_same_to_the_bit_with_its_norms() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)).train()
    network(torch.randn(4, 3, 8, 8))
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    best = BestWeights(3)
    best.offer(network, 1.0, 1)
    network(torch.randn(4, 3, 8, 8) * 100)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.3)
    best.restore(network)
    assert all(torch.equal(value, expected[name]) for name, value in network.state_dict().items())


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


def test_patience_can_be_counted_from_a_later_epoch() -> None:
    best, _ = offered(3, [1.0, 2.0, 2.0, 2.0, 2.0])
    assert best.exhausted(5)
    best.wait(5)
    assert not best.exhausted(7)
    assert best.exhausted(8)
