"""The last layer of a network from scratch: features (n, width) to logits (n, classes)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

SCALE = 30.0  # of cosines, so that a softmax of them can be sure: the `s` of Cao et al.'s own experiments


class CosineHead(nn.Module):
    """`SCALE` times the cosine between an image's features and the direction of each class, without bias.

    It is the normalised last layer that LDAM's margins are made for (Cao et al. 2019, section 3.2): where neither
    features nor weights have a length, a margin cannot be had by growing them.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.randn(classes, width), dim=1))

    def forward(self, features: Tensor) -> Tensor:
        """(n, width) to logits (n, classes), each from -`SCALE` to `SCALE`."""
        return SCALE * F.linear(F.normalize(features, dim=1), F.normalize(self.weight, dim=1))


HEADS: dict[str, type[nn.Linear] | type[CosineHead]] = {"linear": nn.Linear, "cosine": CosineHead}
