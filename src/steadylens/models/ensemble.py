"""Several networks of one shape that answer together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Ensemble(nn.Module):
    """The mean of the logits of networks that were trained apart (Hansen & Salamon 1990; Lakshminarayanan et al. 2017).

    It is for prediction: its members are trained first, each by itself.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def features(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to what the last layer of the first member sees, (n, features).

        Members have no directions in common whose mean would mean anything, and one tells near from far well enough.
        """
        features: Callable[[Tensor], Tensor] = self.members[0].features  # type: ignore[assignment]
        return features(images)

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to the mean of their logits, (n, classes)."""
        return torch.stack([member(images) for member in self.members]).mean(0)
