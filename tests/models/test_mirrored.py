"""A mirrored network answers the same for an image and its mirror image, with the mean of what the plain one says."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from steadylens.models import DEFAULT_DEPTH, NetworkSpec, build
from steadylens.models.mirrored import Mirrored


@pytest.mark.parametrize("name", ["keras-blog", "cnn-s"])
def test_it_answers_with_the_mean_of_both(name: str) -> None:
    torch.manual_seed(0)
    spec = NetworkSpec(name, classes=4, image_size=17, depth=DEFAULT_DEPTH[name], width=0.25, dropout=0.3)
    network = build(replace(spec, mirrored=True)).eval()
    assert isinstance(network, Mirrored)
    images = torch.randn(5, 3, 17, 17)
    with torch.inference_mode():
        plain, turned = network.network(images), network.network(images.flip(3))
        assert not torch.allclose(plain, turned)
        assert torch.allclose(network(images), (plain + turned) / 2)
        assert torch.allclose(network(images.flip(3)), network(images), atol=1e-6)
        features = network.features(images)
        assert torch.allclose(network.features(images.flip(3)), features, atol=1e-6)
        assert features.shape[0] == 5
