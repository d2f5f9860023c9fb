"""The one way to run a network for prediction: training's validation, evaluation, the artifact and serving share it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steadylens.data.batches import LabelledPixels, to_input
from steadylens.data.images import Preprocessing

# Of large images fewer are taken at a time: 256 of 224 px would take half a gigabyte before the first layer.
_BATCH_PIXELS = 256 * 64 * 64


def logits_of(
    network: nn.Module,
    pixels: NDArray[np.uint8] | LabelledPixels,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    precision: str = "fp32",
) -> NDArray[np.float32]:
    """The logits of stored pixels, in evaluation mode.

    Args:
        network: on any device; left in the mode in which it came.
        pixels: uint8, (n, image_size, image_size, 3); only one batch of them is in memory at a time.
        preprocessing: with which the network was trained.
        batch_size: images at a time, where they have 64 px or less; fewer where they are larger.
        precision: "fp32", or "bf16" for figures that only guide a training.

    Returns:
        float32, (n, classes).
    """
    return _in_batches(network, network, pixels, preprocessing, batch_size, precision)


def features_of(
    network: nn.Module,
    pixels: NDArray[np.uint8] | LabelledPixels,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 256,
    precision: str = "fp32",
) -> NDArray[np.float32]:
    """What the last layer sees of stored pixels, float32 (n, features); the arguments are those of `logits_of`."""
    features: Callable[[Tensor], Tensor] = network.features  # type: ignore[assignment]
    return _in_batches(network, features, pixels, preprocessing, batch_size, precision)


def _in_batches(
    network: nn.Module,
    run: Callable[[Tensor], Tensor],
    pixels: NDArray[np.uint8] | LabelledPixels,
    preprocessing: Preprocessing,
    batch_size: int,
    precision: str,
) -> NDArray[np.float32]:
    was_training = network.training
    device = next(network.parameters()).device
    network.eval()
    chunks: list[NDArray[np.float32]] = []
    batch_size = max(1, min(batch_size, _BATCH_PIXELS // preprocessing.image_size**2))
    with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        for start in range(0, max(1, len(pixels)), batch_size):  # no images: one empty batch
            batch = np.array(pixels[start : start + batch_size])  # a copy, since torch wants to own its memory
            images = to_input(batch, preprocessing.mean, preprocessing.std).to(device)
            chunks.append(run(images).float().cpu().numpy())
    network.train(was_training)
    return np.concatenate(chunks)
