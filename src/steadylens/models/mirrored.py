"""A network that looks at every image twice: as it is, and as a mirror shows it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


class Mirrored(nn.Module):
    """The mean of a network's answers for an image and its mirror image (Krizhevsky et al. 2012, section 4.1).

    It is for prediction: a network is trained first, and mirrored then.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def features(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to the mean of what the last layer sees of both, (n, features)."""
        features: Callable[[Tensor], Tensor] = self.network.features  # type: ignore[assignment]
        return (features(images) + features(images.flip(3))) / 2

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to the mean of the logits of both, (n, classes)."""
        logits: Tensor = (self.network(images) + self.network(images.flip(3))) / 2
        return logits
