"""Against overfitting: L1, mixing of images, averaging of weights.

L2 lives in the optimizer, dropout in the network, early stopping in a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def regularized(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that L1 and L2 act on: weights of convolutions and dense layers, never biases, norms or frozen."""
    return [p for p in network.parameters() if p.ndim > 1 and p.requires_grad]


@torch.no_grad()
def shrink(parameters: list[nn.Parameter], amount: float) -> None:
    """Move every weight towards 0 by `amount`, and no further: one proximal step for an L1 penalty.

    Soft thresholding after the optimizer's step (Parikh & Boyd 2014, section 6.5.2) is to L1 what decoupled decay is
    to L2: it is not rescaled by an adaptive optimizer, and it leaves exact zeros.
    """
    for parameter in parameters:
        parameter.copy_(torch.sign(parameter) * (parameter.abs() - amount).clamp_(min=0))


def mix(images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, float]:
    """Mix a batch with itself, by mixup (Zhang et al. 2018) or CutMix (Yun et al. 2019), each half of the time.

    The share of the first image is uniform, which is Beta(1, 1) in both papers.

    Args:
        images: (n, 3, side, side).
        generator: the only source of randomness.

    Returns:
        The mixed images; (n,) the position in the batch of what was mixed into each; the share left of the first.
    """
    share, which, x, y = torch.rand(4, generator=generator).tolist()
    partner = torch.randperm(len(images), generator=generator)
    if which < 0.5:
        return images * share + images[partner] * (1 - share), partner, share
    side = images.shape[-1]
    box = round(side * (1 - share) ** 0.5)
    left, top = round(x * (side - box)), round(y * (side - box))
    mixed = images.clone()
    mixed[:, :, top : top + box, left : left + box] = images[partner, :, top : top + box, left : left + box]
    return mixed, partner, 1 - (box / side) ** 2


class WeightAverage:
    """An exponential moving average of a network's weights and norms (Tarvainen & Valpola 2017).

    The average begins as the weights themselves and forgets faster at the start, so that it is good from the first
    epoch on.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        self.averaged = [t.detach().clone() for t in _floating(network)]

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after one more step."""
        self.steps += 1
        decay = min(self.decay, self.steps / (self.steps + 10))
        torch._foreach_lerp_(self.averaged, _floating(network), 1 - decay)

    @contextmanager
    def shown_by(self, network: nn.Module) -> Iterator[None]:
        """Within the `with` block the network holds the average instead of its own weights."""
        self._swap(network)
        try:
            yield
        finally:
            self._swap(network)

    @torch.no_grad()
    def _swap(self, network: nn.Module) -> None:
        for mine, theirs in zip(self.averaged, _floating(network), strict=True):
            kept = mine.clone()
            mine.copy_(theirs)
            theirs.copy_(kept)


def _floating(network: nn.Module) -> list[Tensor]:
    return [t.data for t in [*network.parameters(), *network.buffers()] if t.is_floating_point()]
