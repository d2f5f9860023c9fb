"""Decay is decoupled from the adaptive step, and the rate rises, falls and ends at zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steadylens.training.optimizers import MUON_RATE, Muon, adamw, muon, orthogonal, rate_at, set_rate


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
    set_rate(optimizer, learning_rate)
    optimizer.step()
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
            set_rate(optimizer, 0.01)
            optimizer.step()
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
    set_rate(optimizer, 0.01)
    optimizer.step()
    for parameter, old in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(old - parameter.detach(), torch.full_like(old, 0.01), rtol=1e-3, atol=0)


@given(rows=st.integers(1, 40), columns=st.integers(1, 60), seed=st.integers(0, 2**16))
def test_what_is_made_orthogonal_has_singular_values_near_1(rows: int, columns: int, seed: int) -> None:
    matrix = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.linspace(1.0, 0.3, len(right))  # of a well-conditioned matrix: three steps raise the least enough
    found = orthogonal(left * values @ right) / max(1.0, rows / columns) ** 0.5
    assert torch.linalg.svdvals(found).min() > 0.5
    assert torch.linalg.svdvals(found).max() < 1.35
    aligned = left.T @ found @ right.T
    assert torch.allclose(aligned, torch.diag(aligned.diag()), atol=1e-4)  # its directions are those of the matrix


def three_layers() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(4, 2)
    )
    return layers.to(memory_format=torch.channels_last)


def test_muon_trains_the_inner_convolutions_and_adamw_all_else() -> None:
    network = three_layers()
    optimizer = muon(network, 0.01, 0.1, half=False)
    assert isinstance(optimizer, Muon)
    matrices, *others = (group["params"] for group in optimizer.param_groups)
    assert [id(p) for p in matrices] == [id(network[2].weight), id(network[3].weight)]  # type: ignore[index]
    ids = [id(p) for group in (matrices, *others) for p in group]
    assert sorted(ids) == sorted(id(p) for p in network.parameters())
    assert [group["rate"] for group in optimizer.param_groups] == [MUON_RATE, 1.0, 1.0]


@pytest.mark.parametrize("half", [False, True])
def test_a_step_of_muon_moves_by_its_rate_whatever_the_gradient_measures(half: bool) -> None:
    moved = []
    for scale in (1e-4, 1e4):
        network = three_layers()
        before = [p.detach().clone() for p in network.parameters()]
        optimizer = muon(network, 123.0, 0.0, half=half)
        generator = torch.Generator().manual_seed(1)
        for parameter in network.parameters():
            parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
        set_rate(optimizer, 0.01)
        optimizer.step()
        moved.append([old - p.detach() for p, old in zip(network.parameters(), before, strict=True)])
    for one, other in zip(*moved, strict=True):
        assert (one - other).norm() <= (0.15 if half else 1e-2) * one.norm()
    inner = moved[0][4].flatten(1)  # weight of the second convolution: 6 rows of 72
    assert torch.linalg.svdvals(inner).max() == pytest.approx(0.01 * MUON_RATE, rel=0.4)


def test_l2_means_the_same_for_weights_of_both_optimizers() -> None:
    network = three_layers()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    optimizer = muon(network, 1.0, 0.5, half=False)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    set_rate(optimizer, 0.01)
    optimizer.step()
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:
            torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.01 * 0.5), rtol=1e-6, atol=1e-8)


def test_momentum_carries_on_where_gradients_end() -> None:
    network = three_layers()
    optimizer = muon(network, 1.0, 0.0, half=False)
    for gradient in (1.0, 0.0):
        for parameter in network.parameters():
            parameter.grad = torch.full_like(parameter, gradient)
        before = network[2].weight.detach().clone()  # type: ignore[index]
        set_rate(optimizer, 0.01)
        optimizer.step()
    assert not torch.equal(network[2].weight, before)  # type: ignore[index]


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
