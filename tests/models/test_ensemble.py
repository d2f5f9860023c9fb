"""An ensemble answers with the mean of what its members say, each of which is a network of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steadylens.models import DEFAULT_DEPTH, NetworkSpec, build
from steadylens.models.ensemble import Ensemble
from steadylens.models.mirrored import Mirrored

IMAGES = torch.randn(5, 3, 17, 17, generator=torch.Generator().manual_seed(0))


def spec(name: str = "cnn-s") -> NetworkSpec:
    return NetworkSpec(name, classes=4, image_size=17, depth=DEFAULT_DEPTH[name], width=0.25, dropout=0.3)


@pytest.mark.parametrize("name", ["keras-blog", "cnn-s"])
def test_it_answers_with_the_mean_of_its_members(name: str) -> None:
    torch.manual_seed(0)
    network = build(replace(spec(name), members=3)).eval()
    assert isinstance(network, Ensemble)
    with torch.inference_mode():
        each = [member(IMAGES) for member in network.members]
        assert not torch.allclose(each[0], each[1])
        assert torch.allclose(network(IMAGES), (each[0] + each[1] + each[2]) / 3, atol=1e-6)
        first = network.members[0]
        assert torch.equal(network.features(IMAGES), first.features(IMAGES))  # type: ignore[operator]


def test_it_can_look_at_mirror_images_too() -> None:
    torch.manual_seed(0)
    network = build(replace(spec(), members=2, mirrored=True)).eval()
    assert isinstance(network, Mirrored)
    assert isinstance(network.network, Ensemble)
    with torch.inference_mode():
        assert torch.allclose(network(IMAGES.flip(3)), network(IMAGES), atol=1e-6)


def test_one_member_is_the_network_itself() -> None:
    assert not isinstance(build(spec()), Ensemble)
