"""How fast a network is here, and in which precision: a few steps and looks are timed before a training begins."""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch

from steadylens.data.batches import LabelledPixels, to_input
from steadylens.data.images import Preprocessing
from steadylens.errors import ResourceError
from steadylens.models import NetworkSpec, build
from steadylens.models.folding import folded
from steadylens.models.inference import exact, suitable_batch
from steadylens.models.pretrained import Backbone
from steadylens.training.finetune import thaw
from steadylens.training.memory import advice, largest_batch_that_fits, out_of_memory
from steadylens.training.optimizers import optimizer_of, usual_optimizer
from steadylens.training.recorder import recorded

BATCHES, BATCH_TUNED = {"cpu": 64, "cuda": 128}, 32  # of a step, from scratch and of a pretrained backbone


def measure_speed(
    spec: NetworkSpec, train: LabelledPixels, preprocessing: Preprocessing, device: str, precision: str
) -> tuple[float, float]:
    """Time a few steps, as they will be done: training images a second, and seconds an image in float32 prediction.

    Raises:
        ResourceError: there is too little memory for the smallest batch.
    """
    size = min(BATCHES[device] if spec.image_size <= 64 else BATCH_TUNED, len(train))
    timed = partial(_timed, spec, train, preprocessing, device, precision)
    try:
        return timed(size)
    except Exception as error:
        if not out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # with them live the tensors that did not fit
    fits = largest_batch_that_fits(timed, size)
    if not fits:
        raise ResourceError(advice(size, fits))
    return timed(fits)


def _timed(
    spec: NetworkSpec, train: LabelledPixels, preprocessing: Preprocessing, device: str, precision: str, size: int
) -> tuple[float, float]:
    torch.manual_seed(0)
    network = build(spec).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(network, Backbone):
        thaw(network)
    pixels, labels = train.take(np.arange(size))
    images = to_input(torch.from_numpy(pixels).to(device), preprocessing.mean, preprocessing.std)
    targets = torch.from_numpy(labels).to(device)
    name = usual_optimizer(spec.name)
    optimizer = optimizer_of(name, network, 0.0, 0.0, half=precision == "bf16")

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images)
        torch.nn.functional.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    if device == "cuda" and name == "muon":
        step = recorded(step)
    rate = len(images) / _time(step, device)
    few = images[: suitable_batch(spec.image_size, torch.device(device))]
    asked = folded(network.eval(), spec.image_size)

    def predict() -> None:
        with torch.inference_mode(), exact(torch.device(device)):
            asked(few)

    return rate, _time(predict, device) / len(few)


def _time(
    call: Callable[[], object], device: str, most: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one call, the first left out: the fastest of at most so many, of fewer where they are slow."""
    best = math.inf
    call()
    for _ in range(most):
        begin = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - begin)
        if best > 0.5:
            break
    return best


@cache
def choose_precision(asked: str, device: str) -> tuple[str, str]:
    """fp32 or bf16, by timing one convolution of fixed shape in both, forward and backward: once in a process.

    On a processor, time is counted of one thread while it runs, so that other programs do not change the answer.
    """
    if asked != "auto":
        return asked, "given"
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    images = torch.ones(64, 64, 16, 16, device=device).to(memory_format=torch.channels_last)

    def step(enabled: bool) -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled):
            convolution(images).sum().backward()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clock = time.process_time if device == "cpu" else time.perf_counter
    full, half = (_time(partial(step, enabled), device, 10, clock) for enabled in (False, True))
    torch.set_num_threads(threads)
    # 1.2 and not 1: the casts around each layer cost something, and a close race must not flip between two runs.
    chosen = "bf16" if half * 1.2 < full else "fp32"
    return chosen, f"a convolution takes {half / full:.2f} times as long in bf16 as in fp32"
