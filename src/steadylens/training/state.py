"""What a training is made of: what stays, what changes from step to step, and what comes out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steadylens.config import Recipe
from steadylens.data.augment import Augmentation
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.metrics import balanced_accuracy, balanced_log_loss, softmax, worst_class_recall
from steadylens.training.clock import Clock
from steadylens.training.divergence import LossWatch
from steadylens.training.early_stopping import BestWeights
from steadylens.training.gain import tempered_log_loss
from steadylens.training.imbalance import Balance
from steadylens.training.recorder import Recorder
from steadylens.training.regularize import WeightAverage


@dataclass(frozen=True, slots=True)
class Epoch:
    """One line of metrics.jsonl; the balanced figures are those of the averaged weights, without augmentation."""

    epoch: int
    seconds: float
    learning_rate: float
    train_loss: float
    train_balanced_accuracy: float
    validation_balanced_accuracy: float
    train_balanced_log_loss: float
    validation_balanced_log_loss: float
    validation_tempered_log_loss: float
    validation_worst_class_recall: float
    images_per_second: float


def validation_figures(row: Epoch) -> dict[str, float]:
    """The figures of a row on validation, as a trial of report.json has them; not calibrated."""
    return {
        "balanced_accuracy": row.validation_balanced_accuracy,
        "balanced_log_loss": row.validation_balanced_log_loss,
        "worst_class_recall": row.validation_worst_class_recall,
    }


def judged(row: Epoch, unseen: NDArray[np.float32], labels: NDArray[np.int64]) -> Epoch:
    """A row with the validation figures of other logits, (n, classes), for the same images."""
    found, classes = unseen.argmax(1), unseen.shape[1]
    return replace(
        row,
        validation_balanced_accuracy=balanced_accuracy(labels, found, classes),
        validation_balanced_log_loss=balanced_log_loss(labels, softmax(unseen)),
        validation_tempered_log_loss=tempered_log_loss(unseen, labels),
        validation_worst_class_recall=worst_class_recall(labels, found, classes),
    )


def judged_on_both(
    row: Epoch,
    unseen: NDArray[np.float32],
    labels: NDArray[np.int64],
    seen: NDArray[np.float32],
    seen_labels: NDArray[np.int64],
) -> Epoch:
    """A row with the figures of other logits, (n, classes), for the validation images and for some of training."""
    return replace(
        judged(row, unseen, labels),
        train_balanced_accuracy=balanced_accuracy(seen_labels, seen.argmax(1), seen.shape[1]),
        train_balanced_log_loss=balanced_log_loss(seen_labels, softmax(seen)),
    )


@dataclass(frozen=True, slots=True)
class Member:
    """One of the networks that were trained to answer together.

    Attributes:
        epochs: of its training.
        seconds: that it took.
        balanced_accuracy: of it alone, on validation.
        together: balanced accuracy of those that had joined by then.
        joins: whether they answer with it: not where they are surely worse.
    """

    epochs: int
    seconds: float
    balanced_accuracy: float
    together: float
    joins: bool


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained network, holding the weights that were chosen, and how it came about.

    Attributes:
        network: in evaluation mode, on the recipe's device.
        preprocessing: with which it was trained.
        curve: one entry for each measured epoch.
        best_epoch: whose weights it holds.
        kept: the figures of the weights that it holds.
        epochs: how many were begun.
        stopped: "budget", "early", "epochs" or "probe".
        seconds: of wall time.
        images_per_second: of training alone, measurements left out.
        members: where several networks were trained, each of them; all else here but `kept`, `network` and `seconds`
            is about the first.
    """

    network: nn.Module
    preprocessing: Preprocessing
    curve: tuple[Epoch, ...]
    best_epoch: int
    kept: Epoch
    epochs: int
    stopped: str
    seconds: float
    images_per_second: float
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """Where a training is, for whoever watches it."""

    epoch: int
    progress: float
    images_per_second: float
    loss: float


@dataclass(frozen=True, slots=True)
class Training:
    """What stays the same from the first step of a training to the last.

    Attributes:
        network: that is trained, on the device.
        images: to learn from.
        source: gives pixels, uint8 (n, side, side, 3), and labels (n,) at some positions of them, on the device.
        recipe: what to do.
        preprocessing: how pixels become input.
        remedy: for imbalance.
        loss_of: the loss of each image, see `imbalance.objective_of`.
        policy: of augmentation, for an image of strength 1.
        strengths: (classes,) of augmentation, on the device.
        optimizer: of the network.
        average: of its weights.
        watch: looks at the losses.
        device: where all this is done.
        recorder: of steps, on a GPU; None where each is done as it is written.
        on_step: told after steps.
    """

    network: nn.Module
    images: LabelledPixels
    source: Callable[[Tensor], tuple[Tensor, Tensor]]
    recipe: Recipe
    preprocessing: Preprocessing
    remedy: Balance
    loss_of: Callable[[Tensor, Tensor, float], Tensor]
    policy: Augmentation
    strengths: Tensor
    optimizer: torch.optim.Optimizer
    average: WeightAverage
    watch: LossWatch
    device: torch.device
    recorder: Recorder | None
    on_step: Callable[[Step], None]


@dataclass(frozen=True, slots=True)
class Course:
    """What changes from step to step: with the weights, their average and the optimizer, all that a checkpoint holds.

    Attributes:
        clock: where the training is.
        best: the weights to keep, so far.
        curve: one entry for each measured epoch.
        losses: of the steps of the present epoch.
    """

    clock: Clock
    best: BestWeights
    curve: list[Epoch]
    losses: list[float]
