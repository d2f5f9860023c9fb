"""The optimizers and their schedule: AdamW, and Muon for the convolutions of the networks trained from scratch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steadylens.models import FAMILY
from steadylens.training.regularize import regularized

# Muon's rate, in those of AdamW beside it, its momentum and the steps of its iteration. The rate is the best of a few
# together with the decay, on long-tailed CIFAR-10 and on 500 and 2,000 of its images (docs/benchmarks.md).
MUON_RATE, MUON_MOMENTUM, NEWTON_SCHULZ_STEPS = 25.0, 0.9, 3
COLOURS = 3  # a first layer has no directions to balance
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024: steepest at 0, and near 1 from there on

# Parameters, and the factor of the learning rate at which they are trained.
Rates = Sequence[tuple[list[nn.Parameter], float]]


def usual_optimizer(network: str) -> str:
    """The one that trains a network where nothing else is asked for: "muon" or "adamw"."""
    return "muon" if network in FAMILY else "adamw"


def optimizer_of(
    name: str, network: nn.Module, learning_rate: float, l2: float, *, half: bool, rates: Rates | None = None
) -> torch.optim.Optimizer:
    """The optimizer of this name, "muon" or "adamw"; the arguments are those of the two."""
    if name == "muon":
        return muon(network, learning_rate, l2, half=half)
    return adamw(network, learning_rate, l2, rates)


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
    groups = [{**group, "lr": _settable(learning_rate, group["params"][0])} for group in groups if group["params"]]
    on_gpu = any(parameter.is_cuda for parameter in network.parameters())
    return torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), fused=True, capturable=on_gpu)


def _settable(learning_rate: float, parameter: Tensor) -> float | Tensor:
    """A learning rate that can be changed: on a GPU it lies there, for a step that is recorded reads it there."""
    return torch.tensor(learning_rate, device=parameter.device) if parameter.is_cuda else learning_rate


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal before each step (Jordan et al. 2024), beside another optimizer.

    A step then moves all directions of a layer's input by as much, where those of a plain gradient are few. `matrices`
    are weights of convolutions, each seen as a matrix with a row for each output channel; `rest` trains what is none.
    """

    def __init__(
        self, matrices: list[nn.Parameter], learning_rate: float, l2: float, rest: torch.optim.Optimizer, half: bool
    ) -> None:
        """`l2` is the decay, times the rate of `rest`: one figure means the same for all weights."""
        self._half = half
        rate = _settable(learning_rate, matrices[0])
        super().__init__(matrices, {"lr": rate, "rate": MUON_RATE, "weight_decay": l2 / MUON_RATE})
        self._own, self._rest = self.param_groups[0], rest
        self.param_groups += rest.param_groups
        self.state = rest.state

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step."""
        del closure  # of the base class; nothing here looks at the loss twice
        for parameter in self._own["params"]:
            if parameter.grad is None:
                continue
            if parameter not in self.state:
                self.state[parameter] = {"momentum": torch.zeros_like(parameter)}
            momentum = self.state[parameter]["momentum"]
            momentum.mul_(MUON_MOMENTUM).add_(parameter.grad)
            ahead = parameter.grad.add(momentum, alpha=MUON_MOMENTUM)  # as Nesterov's
            matrix = ahead.reshape(len(ahead), -1)
            update = orthogonal(matrix.bfloat16() if self._half else matrix).float()
            parameter.mul_(1 - self._own["lr"] * self._own["weight_decay"])
            parameter.sub_(update.view(parameter.shape) * self._own["lr"])
        self._rest.step()


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest matrix (rows, columns) whose singular values are 1, times sqrt(rows / columns) if that is more.

    By Newton-Schulz iterations of degree 5, which need products of matrices only. Singular values come out between
    about 0.5 and 1.3, which is near enough.
    """
    a, b, c = NEWTON_SCHULZ
    rows, columns = matrix.shape
    x = matrix.T if rows > columns else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    found: Tensor = x.T if rows > columns else x
    return found * float(max(1.0, rows / columns) ** 0.5)


def muon(network: nn.Module, learning_rate: float, l2: float, *, half: bool) -> torch.optim.Optimizer:
    """Muon on the convolutions behind the first layer, AdamW on all else.

    Args:
        network: whose parameters are trained, where they are not frozen.
        learning_rate: of AdamW, at the peak of the schedule; that of Muon is `MUON_RATE` times as high.
        l2: the decay, times the learning rate of AdamW.
        half: whether matrices are made orthogonal in bfloat16, which is exact enough.
    """
    matrices = [p for p in network.parameters() if p.ndim == 4 and p.shape[1] > COLOURS and p.requires_grad]
    ids = {id(p) for p in matrices}
    rest = adamw(network, learning_rate, l2, [([p for p in network.parameters() if id(p) not in ids], 1.0)])
    return Muon(matrices, learning_rate, l2, rest, half) if matrices else rest


def rate_at(progress: float, warm_up: float = 0.15) -> float:
    """The learning rate at a share of the training, as a share of its peak: a linear rise, then a cosine to zero.

    Args:
        progress: share of the training that is over, 0 to 1, by steps or by the wall clock.
        warm_up: share of the training spent rising.
    """
    if progress < warm_up:
        return 0.05 + 0.95 * progress / warm_up
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - warm_up) / (1 - warm_up))))


def set_rate(optimizer: torch.optim.Optimizer, learning_rate: float) -> None:
    """Take the next steps at the given learning rate, times the factor of each group."""
    for group in optimizer.param_groups:
        rate = learning_rate * group["rate"]
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
