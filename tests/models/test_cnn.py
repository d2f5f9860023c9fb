"""Every network takes every size there may be, and its depth and width are what they say."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from steadylens.errors import ConfigError
from steadylens.models import DEFAULT_DEPTH, NETWORKS, NetworkSpec, build
from steadylens.models.cnn import StagedCNN, WhiteningStem

FAMILY = ("cnn-s", "cnn-m", "cnn-l", "cnn-xl")
SMALL = NetworkSpec("cnn-s", classes=5, image_size=32, depth=1, width=0.125, dropout=0.0)


def parameters(spec: NetworkSpec) -> int:
    return sum(p.numel() for p in build(spec).parameters())


def multiplications(spec: NetworkSpec) -> int:
    """Multiplications of one image's forward pass, in convolutions and dense layers."""
    network, total = build(spec).eval(), 0

    def count(module: nn.Module, _inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d | nn.Linear)
        total += output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        network(torch.zeros(1, 3, spec.image_size, spec.image_size))
    return total


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", [8, 9, 13, 32, 48, 49, 97, 256])
def test_any_size_gives_logits_and_a_gradient_for_every_weight(name: str, side: int) -> None:
    torch.manual_seed(0)
    network = build(replace(SMALL, name=name, image_size=side, depth=DEFAULT_DEPTH[name])).train()
    logits = network(torch.randn(3, 3, side, side))
    assert logits.shape == (3, 5)
    nn.functional.cross_entropy(logits, torch.tensor([0, 2, 4])).backward()  # type: ignore[no-untyped-call]
    for weight_name, weight in network.named_parameters():
        if weight.requires_grad:
            assert weight.grad is not None, weight_name
            assert weight.grad.isfinite().all(), weight_name
    assert sum(float(p.grad.abs().sum()) for p in network.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("depth", [1, 2, 12])
@pytest.mark.parametrize("side", [8, 32])
def test_any_depth_can_be_built_at_any_size(name: str, depth: int, side: int) -> None:
    network = build(replace(SMALL, name=name, image_size=side, depth=depth)).eval()
    with torch.inference_mode():
        assert network(torch.zeros(2, 3, side, side)).shape == (2, 5)


def test_depth_is_the_number_of_convolutions_as_said() -> None:
    def convolutions(name: str, depth: int) -> int:
        network = build(replace(SMALL, name=name, depth=depth))
        return sum(isinstance(module, nn.Conv2d) for module in network.modules())

    assert [convolutions("keras-blog", depth) for depth in (1, 3, 5)] == [1, 3, 5]
    # A stem of one, then three stages with `depth` convolutions after their first each.
    for name in FAMILY:
        assert [convolutions(name, depth) for depth in (1, 2, 4)] == [1 + 3 * (1 + d) for d in (1, 2, 4)]


def test_width_multiplies_the_neurons_of_every_hidden_layer() -> None:
    for name in NETWORKS:
        plain = build(replace(SMALL, name=name, width=1.0)).state_dict()
        wide = build(replace(SMALL, name=name, width=2.0)).state_dict()
        assert plain.keys() == wide.keys()
        weights = [key for key, value in plain.items() if value.ndim > 1]
        for key in weights[1:-1]:
            assert wide[key].shape[0] == 2 * plain[key].shape[0], (name, key)
        assert wide[weights[-1]].shape[0] == plain[weights[-1]].shape[0] == 5, "one logit a class, whatever the width"


@pytest.mark.parametrize("name", NETWORKS)
def test_depth_and_width_change_the_number_of_parameters(name: str) -> None:
    base = replace(SMALL, name=name, width=1.0)
    assert parameters(replace(base, width=0.25)) < parameters(base) < parameters(replace(base, width=2.0))
    if name in FAMILY:
        assert parameters(base) < parameters(replace(base, depth=2)) < parameters(replace(base, depth=3))


def test_keras_blog_has_exactly_the_tutorials_layers() -> None:
    network = build(NetworkSpec("keras-blog", classes=10, image_size=32, depth=3, width=1.0, dropout=0.5))
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [sum(p.numel() for p in layer.parameters()) for layer in layers] == [896, 18496, 36928, 65600, 650]
    assert sum(p.numel() for p in network.parameters()) == 122570
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5]
    for layer in layers:
        assert layer.bias is not None
        assert not layer.bias.any(), "Keras begins with zero biases"


@pytest.mark.parametrize("side", [32, 64])
def test_each_of_the_family_costs_three_to_four_times_as_much_as_the_one_before(side: int) -> None:
    specs = [NetworkSpec(name, 10, side, DEFAULT_DEPTH[name], 1.0, 0.0) for name in FAMILY]
    for measure in (parameters, multiplications):
        figures = [measure(spec) for spec in specs]
        for smaller, larger in itertools.pairwise(figures):
            assert 2.9 < larger / smaller < 4.1


def test_a_large_image_costs_about_as_much_as_one_of_32_to_64_pixels() -> None:
    cost = {side: multiplications(NetworkSpec("cnn-s", 10, side, 1, 1.0, 0.0)) for side in (32, 64, 128, 256)}
    assert max(cost[64], cost[128], cost[256]) < 4 * cost[32]


def test_dropout_acts_in_training_only() -> None:
    images = torch.randn(4, 3, 32, 32)
    for name in NETWORKS:
        network = build(replace(SMALL, name=name, dropout=0.5, width=0.5))
        network.eval()
        assert torch.equal(network(images), network(images))
        network.train()
        assert not torch.equal(network(images), network(images))


def test_fresh_weights_come_from_the_global_generator_alone() -> None:
    for name in NETWORKS:
        states = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            states.append(torch.cat([p.detach().flatten() for p in build(replace(SMALL, name=name)).parameters()]))
        assert torch.equal(states[0], states[1])
        assert not torch.equal(states[0], states[2])


def test_an_unknown_network_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no network 'resnet'.*keras-blog, cnn-s, cnn-m, cnn-l, cnn-xl"):
        build(replace(SMALL, name="resnet"))


@pytest.mark.parametrize("side", [16, 64])
def test_the_stem_whitens_the_images_that_it_was_made_for(side: int) -> None:
    torch.manual_seed(0)
    rows = torch.randn(40, 3, side, side).cumsum(3)  # neighbours are alike, as in photographs
    images = (rows - rows.mean()) / rows.std()
    network = build(replace(SMALL, image_size=side))
    assert isinstance(network, StagedCNN)
    network.whiten(images)
    stem = network.stem[0]
    assert isinstance(stem, WhiteningStem)
    seen = nn.functional.conv2d(images, stem.conv.weight).permute(1, 0, 2, 3).flatten(1)
    half = WhiteningStem.channels // 2
    assert torch.equal(seen[:half], -seen[half:])
    moments = seen[:half].double() @ seen[:half].double().T / seen.shape[1]
    assert torch.allclose(moments, torch.diag(moments.diag()), atol=0.02), "uncorrelated"
    assert ((moments.diag() > 0.9) & (moments.diag() < 1.01)).all(), "of one variance"
    filters = stem.conv.weight.clone()
    network.whiten(images * 4 + 2, lambda some: (some - 2) / 4)  # prepared a few at a time
    assert torch.allclose(stem.conv.weight, filters, atol=1e-3)


def test_images_of_one_colour_leave_the_stem_finite() -> None:
    network = build(SMALL)
    assert isinstance(network, StagedCNN)
    network.whiten(torch.zeros(3, 3, 32, 32))
    assert network(torch.ones(2, 3, 32, 32)).isfinite().all()


def test_the_stem_is_not_trained() -> None:
    network = build(SMALL)
    assert [name for name, weight in network.named_parameters() if not weight.requires_grad] == ["stem.0.conv.weight"]


def test_whitening_depends_on_the_images_alone_and_changes_nothing_else() -> None:
    images = torch.randn(10, 3, 32, 32)
    states = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network = build(SMALL)
        assert isinstance(network, StagedCNN)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        network.whiten(images)
        changed = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
        assert changed == ["stem.0.conv.weight"]
        states.append(network.state_dict()["stem.0.conv.weight"])
    assert torch.equal(states[0], states[1])
