"""When to stop, and which weights to keep: the best by a validation figure, however the training ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steadylens.metrics import balanced_log_loss, softmax

# Overconfidence raises the log-loss long before it costs accuracy, and calibration will remove it. So weights are
# compared at the best of these temperatures each, and not by how sure of themselves they happen to be.
TEMPERATURES = np.geomspace(0.5, 8.0, 17)

_COUNTED = ("epoch", "counted_from", "_offers_since")


def tempered_log_loss(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The balanced log-loss of some logits, (n, classes), at the best of `TEMPERATURES`."""
    return min(balanced_log_loss(labels, softmax(logits / t)) for t in TEMPERATURES)


class BestWeights:
    """The weights to keep: those with the lowest figure so far, and how long ago that was.

    Args:
        patience: epochs without a better figure after which to stop; 0 neither stops nor chooses, but keeps the last.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.figure = float("inf")
        self.epoch = 0
        self.counted_from = 0
        self._offers_since = 0
        self.weights: dict[str, Tensor] = {}

    def offer(self, network: nn.Module, figure: float, epoch: int) -> None:
        """Keep the network's weights where `figure` is the lowest so far, or where nothing is to be chosen."""
        if figure < self.figure or not self.patience:
            self.figure, self.epoch, self._offers_since = figure, epoch, -1
            self.weights = {name: t.detach().clone() for name, t in network.state_dict().items()}
        self._offers_since += 1

    def wait(self, epoch: int) -> None:
        """Count the patience from this epoch on, where the best one lies before it."""
        self.counted_from = epoch

    def exhausted(self, epoch: int) -> bool:
        """Whether `patience` epochs have gone by since the best one, and several measurements with them."""
        since = max(self.epoch, self.counted_from)
        waited = epoch - since >= self.patience and self._offers_since >= min(self.patience, 3)
        return bool(self.patience) and waited

    def state(self) -> dict[str, Any]:
        """Where it is, `weights` apart, as JSON values."""
        return {**{name: getattr(self, name) for name in _COUNTED}, "figure": self.figure if self.weights else None}

    def go_to(self, state: Mapping[str, Any], weights: dict[str, Tensor]) -> None:
        """Go to where `state` and `weights` were taken."""
        for name in _COUNTED:
            setattr(self, name, state[name])
        self.figure = float("inf") if state["figure"] is None else state["figure"]
        self.weights = weights

    @torch.no_grad()
    def restore(self, network: nn.Module) -> None:
        """Put the best weights back."""
        network.load_state_dict(self.weights)
