"""Whether a trained network answers better when it looks at the mirror image too, and the network that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from torch import nn

from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.models.inference import logits_of
from steadylens.models.mirrored import Mirrored
from steadylens.training.gain import tempered_log_loss
from steadylens.training.state import Fitted, judged_on_both


def mirror(
    fitted: Fitted,
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Let a trained network look at mirror images too, where its recipe says so.

    With "if-better" that is where the mean of both logits has the lower balanced log-loss on the validation images, at
    its best temperature; `say` is told. The figures of a network that looks at both are measured anew.
    """
    if recipe.mirror == "off":
        return fitted
    ask = partial(answers, fitted.network, preprocessing=fitted.preprocessing, precision=recipe.precision)
    plain, both = ask(validation)
    before, after = (tempered_log_loss(logits, validation.labels) for logits in (plain, both))
    taken = recipe.mirror == "on" or after < before
    figures = f"balanced log-loss on validation {after:.3f} with them, {before:.3f} without"
    say(f"mirror images are {'looked at too' if taken else 'not looked at'}: {figures}")
    if not taken:
        return fitted
    sample = train.sample(max(1000, len(validation)), recipe.seed)
    _, known = ask(sample)
    kept = judged_on_both(fitted.kept, both, validation.labels, known, sample.labels)
    return replace(fitted, network=Mirrored(fitted.network).eval(), kept=kept)


def answers(
    network: nn.Module, images: LabelledPixels, preprocessing: Preprocessing, precision: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A network's logits of images, (n, classes), and their mean with those of the mirror images."""
    turned = replace(images, pixels=images.pixels[:, :, ::-1])
    plain, mirrored = (logits_of(network, part, preprocessing, precision=precision) for part in (images, turned))
    return plain, np.mean([plain, mirrored], axis=0)
