"""What holds weights back or mixes images is the published closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steadylens.models import NETWORKS, NetworkSpec, build
from steadylens.training.regularize import WeightAverage, mix, regularized, shrink

seeds = st.integers(0, 2**32 - 1)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return build(NetworkSpec("cnn-s", classes=3, image_size=8, depth=1, width=0.125, dropout=0.0))


def state_of(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(network: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=20), st.floats(0, 5))
def test_shrinking_is_soft_thresholding(weights: list[float], amount: float) -> None:
    before = np.array(weights, np.float32)
    parameter = nn.Parameter(torch.tensor(before))
    shrink([parameter], amount)
    after = parameter.detach().numpy()

    np.testing.assert_allclose(after, np.sign(before) * np.maximum(np.abs(before) - amount, 0), atol=1e-5)
    assert (after[np.abs(before) < amount * 0.999] == 0).all(), "zeros are exact"
    assert (after * before >= 0).all(), "no weight crosses zero"
    assert (np.abs(after) <= np.abs(before)).all()


def test_shrinking_solves_the_l1_problem() -> None:
    """The proximal step: argmin over x of (x - w)^2 / 2 + amount * |x|, searched for on a grid."""
    grid = np.linspace(-3, 3, 60001)
    weights = np.array([-2.0, -0.3, 0.0, 0.25, 1.1])
    best = [grid[np.argmin((grid - w) ** 2 / 2 + 0.4 * np.abs(grid))] for w in weights]
    parameter = nn.Parameter(torch.tensor(weights))
    shrink([parameter], 0.4)
    np.testing.assert_allclose(parameter.detach().numpy(), best, atol=1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_regularized_are_all_weights_but_no_bias_and_no_norm(name: str) -> None:
    network = build(NetworkSpec(name, classes=3, image_size=16, depth=1, width=0.125, dropout=0.0))
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    expected = {id(m.weight) for m in layers if m.weight.requires_grad}
    assert {id(p) for p in regularized(network)} == expected
    left_out = [p for p in network.parameters() if p.requires_grad and id(p) not in expected]
    assert all(p.ndim == 1 for p in left_out)
    assert left_out


@given(st.integers(2, 9), st.integers(8, 20), seeds)
def test_mixing_is_mixup_or_cutmix_in_closed_form(n: int, side: int, seed: int) -> None:
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(n))
    before = images.clone()
    mixed, partner, share = mix(images, torch.Generator().manual_seed(seed))

    assert torch.equal(images, before)
    assert 0 <= share <= 1
    assert sorted(partner.tolist()) == list(range(n))
    other = images[partner]
    if torch.allclose(mixed, share * images + (1 - share) * other, atol=1e-5):
        return
    assert torch.equal(torch.where(mixed == images, images, other), mixed), "each pixel is of one of the two"
    moved = next((i for i in range(n) if partner[i] != i), None)
    if moved is not None:
        taken = (mixed[moved] == other[moved]).all(0)
        rows, columns = taken.any(1).nonzero().flatten(), taken.any(0).nonzero().flatten()
        assert len(rows) == len(columns)
        box = taken[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()
        assert box.numel() == int(taken.sum()), "one box"
        assert share == pytest.approx(1 - box.numel() / side**2), "the share is what the box leaves"


def test_mixup_and_cutmix_come_half_of_the_time_with_any_share() -> None:
    images = torch.randn(4, 3, 10, 10, generator=torch.Generator().manual_seed(0))
    shares, mixups = [], 0
    for seed in range(600):
        mixed, partner, share = mix(images, torch.Generator().manual_seed(seed))
        mixups += torch.allclose(mixed, share * images + (1 - share) * images[partner], atol=1e-5)
        shares.append(share)
    assert 240 < mixups < 380, "a few identity permutations look like mixup"
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert min(shares) < 0.05
    assert max(shares) > 0.95


def test_mixing_depends_on_the_generator_alone() -> None:
    images = torch.randn(8, 3, 10, 10)
    first = mix(images, torch.Generator().manual_seed(5))
    torch.manual_seed(1)
    again = mix(images, torch.Generator().manual_seed(5))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2]


def test_the_weight_average_is_the_moving_average_by_hand() -> None:
    network = small_network()
    average = WeightAverage(network, 0.6)
    names = [name for name, value in network.state_dict().items() if value.is_floating_point()]
    by_hand = {name: network.state_dict()[name].double() for name in names}
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 40):
        for name, value in network.state_dict().items():
            if name in names:
                value.copy_(torch.randn(value.shape, generator=generator))
        average.update(network)
        decay = min(0.6, step / (step + 10))
        by_hand = {name: decay * by_hand[name] + (1 - decay) * network.state_dict()[name] for name in names}
    assert any("running_mean" in name for name in names), "norms are averaged too"
    with average.shown_by(network):
        for name in names:
            torch.testing.assert_close(network.state_dict()[name], by_hand[name].float(), atol=1e-5, rtol=1e-5)


def test_a_decay_of_0_is_no_average() -> None:
    network = small_network()
    average = WeightAverage(network, 0.0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3)
    average.update(network)
    before = state_of(network)
    with average.shown_by(network):
        assert same(network, before)


def test_an_average_begins_as_the_weights_themselves() -> None:
    network = small_network()
    average, before = WeightAverage(network, 0.99), state_of(network)
    with torch.no_grad():
        next(network.parameters()).zero_()
    with average.shown_by(network):
        assert same(network, before)


def test_after_showing_the_average_the_weights_are_back_to_the_bit() -> None:
    network = small_network()
    average = WeightAverage(network, 0.9)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(1.7)
    average.update(network)
    own = state_of(network)
    with average.shown_by(network):
        shown = state_of(network)
        assert not same(network, own)
    assert same(network, own)
    with pytest.raises(KeyError), average.shown_by(network):
        raise KeyError
    assert same(network, own)
    with average.shown_by(network):
        assert same(network, shown), "the average itself is unharmed as well"
