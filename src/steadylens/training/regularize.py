"""Against overfitting: L1, mixing of images, averaging of weights.

L2 lives in the optimizer, dropout in the network, early stopping in a module of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


def regularized(network: nn.Module) -> list[nn.Parameter]:
    """The parameters that L1 and L2 act on: weights of convolutions and dense layers, never biases, norms or frozen."""
    return [p for p in network.parameters() if p.ndim > 1 and p.requires_grad]


@torch.no_grad()
def shrink(parameters: list[nn.Parameter], amount: float | Tensor) -> None:
    """Move every weight towards 0 by `amount`, and no further: one proximal step for an L1 penalty.

    Soft thresholding after the optimizer's step (Parikh & Boyd 2014, section 6.5.2) is to L1 what decoupled decay is
    to L2: it is not rescaled by an adaptive optimizer, and it leaves exact zeros.
    """
    for parameter in parameters:
        parameter.copy_(torch.sign(parameter) * (parameter.abs() - amount).clamp_(min=0))


@dataclass(frozen=True, slots=True)
class Mixing:
    """How a batch is mixed with itself: each image with the one before it, which is any other, for batches are drawn.

    By mixup (Zhang et al. 2018) or by CutMix (Yun et al. 2019). The figures may be tensors without dimensions, on the
    images' device.

    Attributes:
        cut: whether by CutMix.
        share: that each image keeps, of its pixels' values or of its area.
        left: where the square begins that is taken from the other image, in pixels; the others too.
        top: the same, from above.
        box: its side.
    """

    cut: bool
    share: float | Tensor
    left: float | Tensor = 0
    top: float | Tensor = 0
    box: float | Tensor = 0


def draw_mixing(probability: float, side: int, generator: torch.Generator) -> Mixing | None:
    """Draw whether and how a batch is mixed: by either way half of the time.

    The share of each image is uniform, which is Beta(1, 1) in both papers.

    Args:
        probability: that it is.
        side: of the images, in pixels.
        generator: the only source of randomness.
    """
    chance, which, share, x, y = torch.rand(5, generator=generator).tolist()
    if chance >= probability:
        return None
    if which < 0.5:
        return Mixing(cut=False, share=share)
    box = round(side * (1 - share) ** 0.5)
    left, top = round(x * (side - box)), round(y * (side - box))
    return Mixing(cut=True, share=1 - (box / side) ** 2, left=left, top=top, box=box)


def mix(images: Tensor, mixing: Mixing) -> Tensor:
    """Mix a batch with itself; the images, (n, 3, side, side), stay as they are."""
    other = before(images)
    if not mixing.cut:
        return images * mixing.share + other * (1 - mixing.share)
    steps = torch.arange(images.shape[-1], device=images.device)
    rows = (steps >= mixing.top) & (steps < mixing.top + mixing.box)
    columns = (steps >= mixing.left) & (steps < mixing.left + mixing.box)
    return torch.where(rows[:, None] & columns, other, images)


def before(batch: Tensor) -> Tensor:
    """For each of a batch the one before it; for the first the last."""
    return torch.cat([batch[-1:], batch[:-1]])


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
