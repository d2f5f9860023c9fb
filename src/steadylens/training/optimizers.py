"""The optimizer and its schedule, as functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from steadylens.training.regularize import regularized

# Parameters, and the factor of the learning rate at which they are trained.
Rates = Sequence[tuple[list[nn.Parameter], float]]


def adamw(network: nn.Module, learning_rate: float, l2: float, rates: Rates | None = None) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019): L2 as decay decoupled from the adaptive step, on weights only.

    Args:
        network: whose parameters are trained, where they are not frozen.
        learning_rate: at the peak of the schedule.
        l2: the decay, times the learning rate.
        rates: where not all parameters are trained at the same rate, all of them with the factor of each.
    """
    decayed = {id(p) for p in regularized(network)}
    groups: list[dict[str, Any]] = []
    for parameters, rate in rates or [(list(network.parameters()), 1.0)]:
        trained = [p for p in parameters if p.requires_grad]
        groups.append({"params": [p for p in trained if id(p) in decayed], "weight_decay": l2, "rate": rate})
        groups.append({"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0, "rate": rate})
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate, betas=(0.9, 0.99), fused=True)


def rate_at(progress: float, warm_up: float = 0.15) -> float:
    """The learning rate at a share of the training, as a share of its peak: a linear rise, then a cosine to zero.

    Args:
        progress: share of the training that is over, 0 to 1, by steps or by the wall clock.
        warm_up: share of the training spent rising.
    """
    if progress < warm_up:
        return 0.05 + 0.95 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm_up) / (1 - warm_up))))


def step(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Take one step at the given learning rate, times the factor of each group."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group["rate"]
    optimizer.step()
