"""Whether a training has diverged: its loss is no number any more, or has stayed far above all sense for long."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypedDict

import torch

from steadylens.errors import ConfigError
from steadylens.training.imbalance import Balance, objective_of

# Measured on 56 trainings on CIFAR-10, most of them long-tailed (see docs/reliability.md): all remedies, mixing,
# smoothing, L1, batches of 2 to 64 images, rates up to 1,000 times the default. In the 40 that learned, single losses
# cost up to 28 times what guessing does, and this mean was at no step above twice that; in one of the others for 7.
FAR = 3.0  # times what guessing costs, or the lowest mean where that is higher
LONG = 300  # steps in a row
_WEIGHT = 0.05  # of a step in the running mean: it remembers about 20 steps


class State(TypedDict):
    """All that a `LossWatch` knows: a pure function of the losses so far, for a checkpoint.

    `excess` is the running mean of log(loss / guessing), 0 where a loss is below; `lowest` its lowest value, None
    before the first step; `far` counts the steps in a row far above it, and `since` is the first of them.
    """

    excess: float
    lowest: float | None
    far: int
    since: tuple[int, int]


class DivergedError(ConfigError):
    """A training has diverged.

    Args:
        what: happened, in words.
        advice: what to change, and what is kept.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"The training has diverged: {what}. {advice}".rstrip())
        self.what = what


@dataclass(slots=True)
class LossWatch:
    """Told every step's loss, it raises an error where the training has diverged.

    The mean is of logarithms, so that one wild batch does not count for a hundred.

    Args:
        guessing: the loss of a network that knows nothing, see `cost_of_guessing`.
        change: what to do about it, in whole sentences, see `what_to_change`.
        kept: says, when asked, where the last good weights are, in a whole sentence.
    """

    guessing: float
    change: str
    kept: Callable[[], str] = str
    _excess: float = 0.0
    _lowest: float | None = None
    _far: int = 0
    _since: tuple[int, int] = (0, 0)

    def go_to(self, state: State) -> None:
        """Go to where `state` was taken."""
        epoch, step = state["since"]
        self._excess, self._lowest, self._far, self._since = (
            state["excess"],
            state["lowest"],
            state["far"],
            (epoch, step),
        )

    def state(self) -> State:
        """What it knows, as JSON values."""
        return {"excess": self._excess, "lowest": self._lowest, "far": self._far, "since": self._since}

    def look(self, epoch: int, step: int, loss: float) -> None:
        """Take in the loss of one step.

        Raises:
            DivergedError: it is not finite, or the loss has stayed far too high for `LONG` steps.
        """
        self.require_finite(epoch, step, loss, "the loss")
        excess = math.log(max(loss / self.guessing, 1.0))
        self._excess = excess if self._lowest is None else self._excess + _WEIGHT * (excess - self._excess)
        self._lowest = self._excess if self._lowest is None else min(self._lowest, self._excess)
        if self._excess <= self._lowest + math.log(FAR):
            self._far = 0
            return
        if not self._far:
            self._since = (epoch, step)
        self._far += 1
        if self._far >= LONG:
            now, before = (self.guessing * math.exp(value) for value in (self._excess, self._lowest))
            raise self._diverged(
                f"from epoch {self._since[0]}, step {self._since[1]} to epoch {epoch}, step {step} the loss stayed "
                f"around {now:.3g}, where it had been {before:.3g} or less and guessing costs {self.guessing:.3g}"
            )

    def require_finite(self, epoch: int, step: int, value: float, what: str) -> None:
        """Refuse a figure that is not a number any more.

        Raises:
            DivergedError: it is not finite.
        """
        if not math.isfinite(value):
            raise self._diverged(f"after epoch {epoch}, step {step}, {what} is {value}, which is no number any more")

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(what, f"{self.change} {self.kept()}")


def cost_of_guessing(remedy: Balance) -> float:
    """The mean loss of a network whose logits are all equal, over an epoch as `remedy` draws and weighs it.

    Where the weights change in the course of a training, that of the dearer part.
    """
    classes = len(remedy.shares)
    objective = objective_of(remedy, 0.0, torch.device("cpu"))
    losses = (objective(torch.zeros(classes, classes), torch.arange(classes), progress) for progress in (0.0, 1.0))
    return max(float(remedy.shares @ loss.numpy()) for loss in losses)


def what_to_change(learning_rate: float, l1: float, l2: float, precision: str) -> str:
    """What would calm a training with these fields of its recipe, as options to give, the most likely first."""
    options = [f"a lower learning rate (--set learning_rate={learning_rate / 4:.2g}, a quarter of what it was)"]
    options += [f"a lower --l1 than {l1:g}"] if l1 else []
    options += [f"a lower --l2 than {l2:g}"] if l2 else []
    options += ["--set precision=fp32"] if precision != "fp32" else []
    return f"Try {', or '.join(options)}."
