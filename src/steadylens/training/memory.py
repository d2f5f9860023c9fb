"""Where memory does not suffice: find the batch size that fits, and say it; nothing is changed in silence."""

from __future__ import annotations

import errno
import gc
import traceback
from collections.abc import Callable

import torch

from steadylens.errors import ResourceError

SMALLEST_BATCH = 2  # a batch of one image has no variance for normalisation to work with

# How errors of other types say it. torch says it by a plain RuntimeError on the CPU, as do oneDNN, whose objects are
# what takes the memory of a convolution, cuBLAS and cuDNN.
_TOLD = (
    "out of memory",
    "can't allocate memory",
    "bad_alloc",
    "could not create a memory object",
    "could not create a primitive",
    "_ALLOC_FAILED",
)


class TooLittleMemoryError(ResourceError):
    """There is too little memory for a step of a training."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory does not suffice, on the CPU or on a GPU, whoever raised it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _TOLD)
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)


def largest_batch_that_fits(step: Callable[[int], object], batch_size: int) -> int:
    """Halve a batch size that ran out of memory until a step with it goes through; 0 where not even a batch of 2 does.

    The error that led here must have been let go of before: with it live all tensors of the step that failed.

    Args:
        step: does one whole step with a batch of this size; what it makes of the network is not used any more.
        batch_size: that did not fit.

    Raises:
        Exception: whatever `step` raises but for want of memory.
    """
    size = batch_size // 2
    while size >= SMALLEST_BATCH:
        _free()
        if _fits(step, size):
            return size
        size //= 2
    return 0


def advice(batch_size: int, fits: int) -> str:
    """One line for a person: which batch size did not fit, which does, and how to ask for it.

    Args:
        batch_size: that did not fit.
        fits: what `largest_batch_that_fits` found.
    """
    did_not = f"There is too little memory for a step with a batch of {batch_size} images"
    if not fits:
        return (
            f"{did_not}, and for the smallest batch too. Take a smaller --image-size, --width or --network, or a "
            "machine with more memory."
        )
    return (
        f"{did_not}; a batch of {fits} fits. Train with --set batch_size={fits}, as a new run: another batch size is "
        "another training."
    )


def _fits(step: Callable[[int], object], size: int) -> bool:
    try:
        step(size)
    except Exception as error:
        if not out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)
        return False
    return True


def _free() -> None:
    """Give back what nothing refers to any more, so that the next attempt finds all there is."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
