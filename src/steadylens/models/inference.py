"""The one way to run a network for prediction: training's validation, evaluation, the artifact and serving share it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.backends import cudnn

from steadylens.data.batches import LabelledPixels, to_input
from steadylens.data.images import Preprocessing
from steadylens.models.folding import folded


def logits_of(
    network: nn.Module,
    pixels: NDArray[np.uint8] | LabelledPixels,
    preprocessing: Preprocessing,
    *,
    batch_size: int | None = None,
    precision: str = "fp32",
) -> NDArray[np.float32]:
    """The logits of stored pixels, in evaluation mode.

    Args:
        network: on any device; left in the mode in which it came.
        pixels: uint8, (n, image_size, image_size, 3); only one batch of them is in memory at a time.
        preprocessing: with which the network was trained.
        batch_size: images at a time; None is as many as suit their size.
        precision: "fp32", or "bf16" for figures that only guide a training.

    Returns:
        float32, (n, classes).
    """
    return _in_batches(network, "forward", pixels, preprocessing, batch_size, precision)


def features_of(
    network: nn.Module,
    pixels: NDArray[np.uint8] | LabelledPixels,
    preprocessing: Preprocessing,
    *,
    batch_size: int | None = None,
    precision: str = "fp32",
) -> NDArray[np.float32]:
    """What the last layer sees of stored pixels, float32 (n, features); the arguments are those of `logits_of`."""
    return _in_batches(network, "features", pixels, preprocessing, batch_size, precision)


def _in_batches(
    network: nn.Module,
    method: str,
    pixels: NDArray[np.uint8] | LabelledPixels,
    preprocessing: Preprocessing,
    batch_size: int | None,
    precision: str,
) -> NDArray[np.float32]:
    was_training = network.training
    device = next(network.parameters()).device
    batch_size = batch_size or suitable_batch(preprocessing.image_size, device)
    network.eval()
    run: Callable[[Tensor], Tensor] = getattr(folded(network, preprocessing.image_size), method)
    chunks: list[NDArray[np.float32]] = []
    half = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
    with torch.inference_mode(), exact(device), half:
        for start in range(0, max(1, len(pixels)), batch_size):  # no images: one empty batch
            batch = np.array(pixels[start : start + batch_size])  # a copy, since torch wants to own its memory
            images = to_input(torch.from_numpy(batch).to(device), preprocessing.mean, preprocessing.std)
            chunks.append(run(images).float().cpu().numpy())
    network.train(was_training)
    return np.concatenate(chunks)


def exact(device: torch.device) -> AbstractContextManager[None]:
    """In which float32 is float32: on a GPU, cuDNN rounds what convolutions multiply to ten bits unless told not to."""
    if device.type != "cuda":
        return nullcontext()
    return cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def suitable_batch(image_size: int, device: torch.device) -> int:
    """Images at a time in prediction: many on a GPU; on a processor 256 small ones, of large ones what its cache bears.

    At 224 px a MobileNet ran at 74 to 86 images a second of one core by 4 at a time, and at 42 by 16 (AMD EPYC).
    """
    if device.type != "cpu":
        return max(256, 2048 * 32**2 // image_size**2)
    if image_size <= 64:
        return 256
    return max(4, 256 * 32**2 // image_size**2)
