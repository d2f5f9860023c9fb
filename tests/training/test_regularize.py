"""What holds weights back or mixes images is the published closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from steadylens.models import NETWORKS, NetworkSpec, build
from steadylens.training.regularize import Mixing, WeightAverage, before, draw_mixing, mix, regularized, shrink

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


def drawn(side: int, seed: int, probability: float = 1.0) -> Mixing | None:
    return draw_mixing(probability, side, torch.Generator().manual_seed(seed))


@given(st.integers(2, 9), st.integers(8, 20), seeds)
def test_mixing_is_mixup_or_cutmix_in_closed_form(n: int, side: int, seed: int) -> None:
    images = torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(n))
    kept, mixing = images.clone(), drawn(side, seed)
    assert mixing is not None
    mixed, other = mix(images, mixing), before(images)

    assert torch.equal(images, kept)
    assert 0 <= mixing.share <= 1
    if not mixing.cut:
        torch.testing.assert_close(mixed, mixing.share * images + (1 - mixing.share) * other)
        return
    assert torch.equal(torch.where(mixed == images, images, other), mixed), "each pixel is of one of the two"
    taken = (mixed == other).all(1)
    assert (taken == taken[0]).all(), "the same pixels of all images"
    rows, columns = taken[0].any(1).nonzero().flatten(), taken[0].any(0).nonzero().flatten()
    assert int(taken[0].sum()) == len(rows) * len(columns), "one box"
    assert len(rows) == len(columns)
    assert mixing.share == pytest.approx(1 - len(rows) ** 2 / side**2), "the share is what the box leaves"


def test_every_image_is_mixed_with_the_one_before_it() -> None:
    assert before(torch.arange(4)).tolist() == [3, 0, 1, 2]


@pytest.mark.parametrize("seed", range(4))
def test_mixing_reads_its_figures_from_tensors_too(seed: int) -> None:
    images, mixing = torch.randn(5, 3, 12, 12), drawn(12, seed)
    assert mixing is not None
    there = Mixing(mixing.cut, *(torch.tensor(float(v)) for v in (mixing.share, mixing.left, mixing.top, mixing.box)))
    torch.testing.assert_close(mix(images, there), mix(images, mixing))


def test_channels_last_images_stay_so_when_they_are_mixed() -> None:
    images = torch.randn(4, 3, 10, 10).contiguous(memory_format=torch.channels_last)
    for seed in range(6):
        mixing = drawn(10, seed)
        assert mixing is not None
        assert mix(images, mixing).is_contiguous(memory_format=torch.channels_last)


def test_mixup_and_cutmix_come_half_of_the_time_with_any_share() -> None:
    every = [mixing for seed in range(600) if (mixing := drawn(10, seed)) is not None]
    assert len(every) == 600
    shares = [float(mixing.share) for mixing in every]
    assert 250 < sum(mixing.cut for mixing in every) < 350
    assert np.mean(shares) == pytest.approx(0.5, abs=0.05)
    assert min(shares) < 0.05
    assert max(shares) > 0.95


def test_as_many_batches_are_mixed_as_was_asked_for() -> None:
    assert sum(drawn(10, seed, 0.3) is not None for seed in range(1000)) == pytest.approx(300, abs=45)
    assert all(drawn(10, seed, 0.0) is None for seed in range(100))


def test_mixing_depends_on_the_generator_alone() -> None:
    first = drawn(10, 5)
    torch.manual_seed(1)
    assert drawn(10, 5) == first


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
