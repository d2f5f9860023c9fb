"""The cosine head gives scaled cosines, whatever the length of features and weights."""

from __future__ import annotations

import pytest
import torch

from steadylens.errors import ConfigError
from steadylens.models import NETWORKS, NetworkSpec, build
from steadylens.models.heads import SCALE, CosineHead


def test_its_logits_are_thirty_times_cosines_by_hand() -> None:
    head = CosineHead(2, 3)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 0.1], [-3.0, -4.0]]))
    logits = head(torch.tensor([[3.0, 4.0], [0.5, 0.0]]))
    assert torch.allclose(logits, SCALE * torch.tensor([[0.6, 0.8, -1.0], [1.0, 0.0, -0.6]]), atol=1e-4)
    assert SCALE == 30


def test_features_without_length_give_no_class_an_advantage() -> None:
    assert CosineHead(4, 3)(torch.zeros(2, 4)).tolist() == [[0.0] * 3] * 2


def test_it_begins_with_directions_of_length_one() -> None:
    assert torch.allclose(CosineHead(7, 5).weight.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_has_it_takes_the_length_out_of_its_features(name: str) -> None:
    torch.manual_seed(0)
    network = build(NetworkSpec(name, 4, 16, 1, 0.25, 0.0, head="cosine")).eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.inference_mode():
        logits, features = network(images), network.features(images)  # type: ignore[operator]
        head = list(network.modules())[-1]
        assert isinstance(head, CosineHead)
        assert torch.allclose(logits, head(100 * features), atol=1e-4)
    assert logits.abs().max() <= SCALE


def test_a_backbone_has_none() -> None:
    with pytest.raises(ConfigError, match="timm:test_efficientnet cannot have a last layer 'cosine'"):
        build(NetworkSpec("timm:test_efficientnet", 4, 32, 0, 1.0, 0.0, head="cosine"))
