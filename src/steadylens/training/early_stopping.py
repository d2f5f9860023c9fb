"""When to stop, and which weights to keep.

The rule that the Keras tutorial teaches is *strict*: so many epochs without a better validation figure, and it stops
and goes back to the best weights. But the lowest of many figures on few images is low by chance too, and weights in
mid-schedule lack what the last ones have, a learning rate that has come down to zero. Hence the *sure* rule: it stops
only where the figure is by then worse by more than chance, and a training that comes to its end keeps its last weights,
unless the best are better by more than chance: by more than the best of so many measured epochs is by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steadylens.training.gain import balanced_mean, gain_between

_COUNTED = ("epoch", "counted_from", "_offers", "_offers_since")


class BestWeights:
    """The weights to keep: those with the lowest figure so far, and how long ago that was.

    Args:
        patience: epochs without a better figure after which to stop; 0 neither stops nor chooses, but keeps the last.
        rule: "strict" or "sure".
    """

    def __init__(self, patience: int, rule: str = "strict") -> None:
        self.patience, self.rule = patience, rule
        self.figure = float("inf")
        self.epoch = 0
        self.counted_from = 0
        self._offers = self._offers_since = 0
        self._surely_worse = False
        self.weights: dict[str, Tensor] = {}
        self.losses: NDArray[np.float64] = np.empty(0)

    def offer(
        self,
        network: nn.Module,
        epoch: int,
        losses: NDArray[np.float64],
        labels: NDArray[np.int64],
        *,
        at_the_end: bool = False,
    ) -> None:
        """Keep the network's weights where they are the best so far, or where they are to be kept anyway.

        Args:
            network: with the weights.
            epoch: after which they are measured.
            losses: of each validation image, (n,); their mean, with each class counting the same, is the figure.
            labels: of the validation images, (n,).
            at_the_end: whether the training has come to its end.
        """
        figure = balanced_mean(losses, labels)
        if self._offers:
            self._surely_worse = gain_between(self.losses, losses, labels, candidates=self._offers).is_sure
        last_counts = self.rule == "sure" and at_the_end and not self._surely_worse
        if figure < self.figure or not self.patience or last_counts:
            self.figure, self.epoch, self._offers_since, self.losses = figure, epoch, -1, losses
            self.weights = {name: t.detach().clone() for name, t in network.state_dict().items()}
        self._offers += 1
        self._offers_since += 1

    def wait(self, epoch: int) -> None:
        """Count the patience from this epoch on, where the best one lies before it."""
        self.counted_from = epoch

    def exhausted(self, epoch: int) -> bool:
        """Whether it is time to stop.

        `patience` epochs have gone by since the best one, and several measurements with them; by the sure rule, the
        last of them was besides worse by more than chance.
        """
        since = max(self.epoch, self.counted_from)
        waited = epoch - since >= self.patience and self._offers_since >= min(self.patience, 3)
        return bool(self.patience) and waited and (self._surely_worse or self.rule == "strict")

    def state(self) -> dict[str, Any]:
        """Where it is, `weights` and `losses` apart, as JSON values."""
        return {**{name: getattr(self, name) for name in _COUNTED}, "figure": self.figure if self.weights else None}

    def go_to(self, state: Mapping[str, Any], weights: dict[str, Tensor], losses: NDArray[np.float64]) -> None:
        """Go to where `state`, `weights` and `losses` were taken."""
        for name in _COUNTED:
            setattr(self, name, state[name])
        self.figure = float("inf") if state["figure"] is None else state["figure"]
        self.weights, self.losses = weights, losses

    @torch.no_grad()
    def restore(self, network: nn.Module) -> None:
        """Put the best weights back."""
        network.load_state_dict(self.weights)
