"""A place in a training, taken out and put back: everything from which the next step follows, to the bit.

What is random needs no place here: it is a function of (seed, epoch, step).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from steadylens.data.images import Preprocessing
from steadylens.training.checkpoint import Checkpoint, copied
from steadylens.training.state import Course, Epoch, Fitted, Member, Training


def take(training: Training, course: Course) -> Checkpoint:
    """A copy of all that changes from step to step."""
    optimizer = {
        f"optimizer.{number}.{name}": value
        for number, parameter in enumerate(_trained(training.optimizer))
        for name, value in training.optimizer.state.get(parameter, {}).items()
    }
    tensors = {
        **{f"network.{name}": tensor for name, tensor in training.network.state_dict().items()},
        **{f"average.{number}": tensor for number, tensor in enumerate(training.average.averaged)},
        **{f"best.{name}": tensor for name, tensor in course.best.weights.items()},
        **optimizer,
        "losses": torch.tensor(course.losses, dtype=torch.float64),
        "best_losses": torch.from_numpy(course.best.losses),
    }
    state = {
        "clock": course.clock.state(),
        "average_steps": training.average.steps,
        "best": course.best.state(),
        "watch": training.watch.state(),
        "curve": [written(row) for row in course.curve],
    }
    return Checkpoint(state, copied(tensors))


@torch.no_grad()
def put_back(checkpoint: Checkpoint, training: Training, course: Course) -> None:
    """Go to a place that was taken from a training of the same network, images and recipe."""
    state, tensors = checkpoint.state, checkpoint.tensors
    training.network.load_state_dict(_under("network.", tensors))
    for number, averaged in enumerate(training.average.averaged):
        averaged.copy_(tensors[f"average.{number}"])
    training.average.steps = state["average_steps"]
    for number, parameter in enumerate(_trained(training.optimizer)):
        values = _under(f"optimizer.{number}.", tensors)
        if values:  # none before the first step
            training.optimizer.state[parameter] = {name: _beside(parameter, v) for name, v in values.items()}
    weights = _under("best.", tensors)
    weights = {name: t.to(training.device) for name, t in weights.items()}
    course.best.go_to(state["best"], weights, tensors["best_losses"].cpu().numpy())
    training.watch.go_to(state["watch"])
    course.clock.go_to(state["clock"])
    course.curve[:] = [_read(row) for row in state["curve"]]
    course.losses[:] = tensors["losses"].tolist()


def elapsed_at(place: Checkpoint | None) -> float:
    """The seconds that a training had taken when its place was taken; none where it has not begun."""
    return 0.0 if place is None else float(place.state["clock"]["elapsed"])


def outcome_of(fitted: Fitted) -> Checkpoint:
    """A finished training, to be kept."""
    plain = ("best_epoch", "epochs", "stopped", "seconds", "images_per_second")
    state = {
        **{name: getattr(fitted, name) for name in plain},
        "curve": [written(row) for row in fitted.curve],
        "kept": written(fitted.kept),
        "members": [asdict(member) for member in fitted.members],
    }
    return Checkpoint(state, copied(fitted.network.state_dict()))


def fitted_from(outcome: Checkpoint, network: nn.Module, preprocessing: Preprocessing) -> Fitted:
    """The finished training that was kept, its weights put into the network."""
    network.load_state_dict(outcome.tensors)
    state = dict(outcome.state)
    curve, kept = (_read(row) for row in state.pop("curve")), _read(state.pop("kept"))
    members = (Member(**member) for member in state.pop("members", ()))
    return Fitted(network.eval(), preprocessing, tuple(curve), kept=kept, members=tuple(members), **state)


def written(row: Epoch) -> dict[str, float | None]:
    """A row as JSON values: what is not a number becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(row).items()}


def _read(row: Mapping[str, Any]) -> Epoch:
    values: dict[str, Any] = {name: math.nan if value is None else value for name, value in row.items()}
    return Epoch(**values)


def _trained(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _beside(parameter: Tensor, value: Tensor) -> Tensor:
    """Where it was: what has the shape of the parameter lies in memory as that does, as fused optimizers expect."""
    if value.shape == parameter.shape:
        return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return value.to(parameter.device)
