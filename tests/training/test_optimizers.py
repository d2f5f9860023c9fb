"""Decay is decoupled from the adaptive step, and the rate rises, falls and ends at zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steadylens.training.optimizers import adamw, rate_at, step


def small_network() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    for parameter in network.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    return network


@pytest.mark.parametrize(("learning_rate", "l2"), [(0.1, 0.5), (1e-3, 0.05), (0.01, 0.0)])
def test_a_step_without_gradient_shrinks_weights_by_the_rate_times_l2(learning_rate: float, l2: float) -> None:
    network = small_network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = adamw(network, 1.0, l2)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    step(optimizer, learning_rate)
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            torch.testing.assert_close(parameter.detach(), before[name] * (1 - learning_rate * l2), rtol=1e-6, atol=0)
            assert l2 == 0 or not torch.equal(parameter, before[name])
        else:
            assert torch.equal(parameter, before[name]), f"{name} is a bias or a norm"


def test_decay_does_not_depend_on_the_size_of_the_gradient() -> None:
    """Coupled decay would be divided by the gradient's running size, as in Adam with an L2 term in the loss."""
    drops = []
    for scale in (1e-3, 1e3):
        weights = []
        for l2 in (0.0, 0.5):
            network = small_network()
            optimizer = adamw(network, 0.01, l2)
            for parameter in network.parameters():
                parameter.grad = torch.full_like(parameter, scale)
            step(optimizer, 0.01)
            weights.append(next(network.parameters()).detach().clone())
        drops.append(weights[0] - weights[1])
    torch.testing.assert_close(drops[0], drops[1], rtol=1e-3, atol=1e-6)


def test_every_parameter_is_trained_once() -> None:
    network = small_network()
    groups = adamw(network, 0.01, 0.1).param_groups
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in network.parameters())
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


def test_a_step_uses_the_rate_it_is_given() -> None:
    network = small_network()
    optimizer = adamw(network, 123.0, 0.0)
    before = [p.detach().clone() for p in network.parameters()]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    step(optimizer, 0.01)
    for parameter, old in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(old - parameter.detach(), torch.full_like(old, 0.01), rtol=1e-3, atol=0)


@pytest.mark.parametrize("warm_up", [0.05, 0.15, 0.5])
def test_the_rate_peaks_after_the_warm_up_and_ends_at_zero(warm_up: float) -> None:
    assert 0 < rate_at(0.0, warm_up) < 0.1
    assert rate_at(warm_up, warm_up) == 1
    assert rate_at(1.0, warm_up) == pytest.approx(0, abs=1e-12)
    assert rate_at(1.5, warm_up) == pytest.approx(0, abs=1e-12), "a step begun after the end does nothing"
    assert rate_at((1 + warm_up) / 2, warm_up) == pytest.approx(0.5), "half of the cosine is half of the peak"
    before = [rate_at(p, warm_up) for p in np.linspace(0, warm_up, 50)]
    after = [rate_at(p, warm_up) for p in np.linspace(warm_up, 1, 50)]
    assert (np.diff(before) > 0).all()
    assert (np.diff(after) < 0).all()


@given(st.floats(0, 1))
def test_the_rate_is_a_share_and_has_no_jumps(progress: float) -> None:
    assert -1e-12 <= rate_at(progress) <= 1
    assert abs(rate_at(progress + 1e-6) - rate_at(progress)) < 1e-4
