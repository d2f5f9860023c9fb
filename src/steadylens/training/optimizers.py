"""The optimizer and its schedule, as functions."""

from __future__ import annotations

import math

import torch
from torch import nn

from steadylens.training.regularize import regularized


def adamw(network: nn.Module, learning_rate: float, l2: float) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019): L2 as decay decoupled from the adaptive step, on weights only."""
    decayed = regularized(network)
    ids = {id(p) for p in decayed}
    others = [p for p in network.parameters() if id(p) not in ids]
    groups = [{"params": decayed, "weight_decay": l2}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), fused=True)


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
    """Take one step at the given learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
