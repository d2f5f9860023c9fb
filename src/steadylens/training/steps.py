"""One step of a training, in plain sight: augment, mix, forward, loss, backward, update. On a GPU it is recorded."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from steadylens.data.augment import augment
from steadylens.data.batches import step_seed, to_input
from steadylens.training.regularize import Mixing, before, draw_mixing, mix, regularized, shrink
from steadylens.training.state import Training


def next_step(training: Training, positions: NDArray[np.int64], epoch: int, step: int, progress: float) -> Tensor:
    """Learn from the images at these positions.

    All that is random depends on (seed, epoch, step) alone.

    Returns:
        The mean loss, without dimensions, on the training's device, where it may not be known yet.
    """
    seed = step_seed(training.recipe.seed, epoch, step)
    torch.manual_seed(seed)  # dropout; on a GPU augmentation too
    generator = torch.Generator().manual_seed(seed)
    mixing = draw_mixing(training.recipe.mixup, training.recipe.image_size, generator)
    if training.recorder is not None:
        return training.recorder.step(partial(learn, training), positions, mixing, progress)
    own = generator if training.device.type == "cpu" else None
    return learn(training, torch.from_numpy(positions), mixing, progress, own)


def learn(
    training: Training,
    positions: Tensor,
    mixing: Mixing | None,
    progress: float,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One step.

    Args:
        training: whose network, optimizer and images these are.
        positions: (n,) of the images; where the images are on a GPU, so are they.
        mixing: how the batch is mixed with itself; None where it is not.
        progress: of the training, 0 to 1.
        generator: of the augmentation; None is torch's own of the device.

    Returns:
        The mean loss, without dimensions.
    """
    recipe, frame = training.recipe, training.preprocessing
    pixels, labels = training.source(positions)
    images = to_input(pixels, frame.mean, frame.std)
    images = augment(images, training.policy, training.strengths[labels], generator)
    if mixing is not None:
        images = mix(images, mixing)

    with torch.autocast(training.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = training.network(images)
    loss = training.loss_of(logits, labels, progress)
    if mixing is not None:
        loss = mixing.share * loss + (1 - mixing.share) * training.loss_of(logits, before(labels), progress)
    mean = loss.mean()
    training.optimizer.zero_grad()
    mean.backward()  # type: ignore[no-untyped-call]
    training.optimizer.step()
    if recipe.l1:
        group = training.optimizer.param_groups[0]
        shrink(regularized(training.network), group["lr"] / group["rate"] * recipe.l1)
    return mean.detach()
