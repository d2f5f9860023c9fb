"""A folded backbone answers as the one it was made from, and where it would not, there is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from steadylens.data.batches import to_input
from steadylens.data.images import Preprocessing
from steadylens.models import NetworkSpec, build
from steadylens.models.folding import folded
from steadylens.models.inference import features_of, logits_of
from steadylens.models.mirrored import Mirrored
from steadylens.models.pretrained import Backbone
from steadylens.training.probe import View

PREPROCESSING = Preprocessing(48, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def trained(name: str) -> Backbone:
    """A backbone whose batch norms hold something."""
    torch.manual_seed(0)
    network = build(NetworkSpec(f"timm:{name}", 4, 48, 0, 1.0, 0.0))
    assert isinstance(network, Backbone)
    for norm in norms(network):
        nn.init.uniform_(norm.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2.0)  # type: ignore[arg-type]
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.uniform_(norm.bias, -0.2, 0.2)
    return network.eval()


def norms(network: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


def noise() -> Tensor:
    return torch.randn(5, 3, 48, 48, generator=torch.Generator().manual_seed(1))


# Inverted residuals; plain residuals, whose norms hold no activation; norms before convolutions; norms without any.
@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet", "densenet121", "repvgg_a0"])
@torch.no_grad()
def test_the_answers_are_the_same_with_fewer_layers(name: str) -> None:
    network = trained(name)
    fewer = folded(network, 48)
    assert len(norms(fewer)) < len(norms(network))
    expected = network.features(noise())
    torch.testing.assert_close(fewer.features(noise()), expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_every_norm_of_a_mobile_network_is_folded() -> None:
    assert not norms(folded(trained("test_efficientnet"), 48))


@torch.no_grad()
def test_the_network_itself_is_left_alone() -> None:
    network = trained("test_efficientnet").train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = torch.random.get_rng_state()
    folded(network, 48)
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert network.training
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_what_has_nothing_to_fold_is_returned_as_it_is() -> None:
    from_scratch = build(NetworkSpec("cnn-s", 4, 48, 1, 0.25, 0.0))
    without_norms = trained("test_convnext")
    assert folded(from_scratch, 48) is from_scratch
    assert folded(without_norms, 48) is without_norms
    once = folded(trained("test_efficientnet"), 48)
    assert folded(once, 48) is once


class Forked(nn.Module):
    """Uses what its convolution gives before the norm as well."""

    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to (n, 8)."""
        made = self.conv(images)
        both: Tensor = self.norm(made) + made
        return both.mean((2, 3))


def test_where_folding_would_change_the_answers_nothing_is_folded() -> None:
    network = trained("test_efficientnet")
    network.body = Forked()
    nn.init.uniform_(network.body.norm.weight, 2.0, 3.0)
    assert folded(network, 48) is network


def test_a_norm_that_goes_by_its_batch_stays() -> None:
    network = trained("test_efficientnet")
    network.body.bn1 = nn.BatchNorm2d(24, track_running_stats=False)
    assert len(norms(folded(network, 48))) == 1


@pytest.mark.parametrize("wrapped", [Mirrored, partial(View, mirrored=True)], ids=["mirrored", "view"])
def test_a_backbone_inside_is_folded_too(wrapped: Callable[[Backbone], nn.Module]) -> None:
    network = wrapped(trained("test_efficientnet"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = network(to_input(pixels, PREPROCESSING.mean, PREPROCESSING.std)).numpy()
    found = logits_of(network, pixels, PREPROCESSING)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert not norms(folded(network, 48))
    assert norms(network), "the network that was asked keeps its norms"


def test_features_are_those_of_the_network() -> None:
    network = trained("test_resnet")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = network.features(to_input(pixels, PREPROCESSING.mean, PREPROCESSING.std)).numpy()
    np.testing.assert_allclose(
        features_of(network, pixels, PREPROCESSING), expected, rtol=0, atol=1e-4 * np.abs(expected).max()
    )
