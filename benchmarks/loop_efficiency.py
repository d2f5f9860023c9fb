#!/usr/bin/env python3
"""How much of the time of a training is the network's own: the loop beside a bare forward, backward and step.

loop_efficiency.py FOLDER [--network cnn-s] [--levels light medium strong] [--image-size 32] [--steps 60] [--repeats 5]

Both use the same network, images, batches, precision and optimizer. The bare loop has its batches ready as tensors and
does nothing else: no augmentation, no mixing, no remedy, no average of the weights, no clock. They take turns, and the
ratio is the median over the repeats. What the loop spends on the rest is timed piece by piece in the same process.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from steadylens.config import Recipe, parse
from steadylens.data.augment import augment
from steadylens.data.batches import LabelledPixels, preprocessing_of, to_input
from steadylens.data.images import Preprocessing
from steadylens.data.sources import read_index
from steadylens.data.store import decode
from steadylens.models import fresh
from steadylens.training import loop
from steadylens.training.clock import Clock
from steadylens.training.regularize import Mixing, mix
from steadylens.training.resolution import resolve
from steadylens.training.state import Training


def training_of(images: LabelledPixels, recipe: Recipe, frame: Preprocessing) -> Training:
    """A training of a fresh network."""
    return loop.begin(fresh(recipe), images, recipe, frame, None, lambda _: None)


def bare(training: Training, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Images a second of forward, backward and step."""
    recipe, begin = training.recipe, time.perf_counter()
    training.network.train()
    for images, labels in batches:
        with torch.autocast(recipe.device, torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits = training.network(images)
        loss = cross_entropy(logits.float(), labels)
        training.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        training.optimizer.step()
    return sum(len(labels) for _, labels in batches) / (time.perf_counter() - begin)


def whole(training: Training) -> float:
    """Images a second of an epoch as it is in a run."""
    clock, begin = Clock(None, 1), time.perf_counter()
    loop.train_epoch(training, clock)
    return len(training.images) / (time.perf_counter() - begin)


def milliseconds(call: Callable[[], object], times: int = 30) -> float:
    """Of one call: the median."""
    taken = []
    for _ in range(times):
        begin = time.perf_counter()
        call()
        taken.append(1000 * (time.perf_counter() - begin))
    return statistics.median(taken)


def pieces(training: Training) -> dict[str, float]:
    """Milliseconds that a step spends on what the bare loop does not do."""
    recipe, frame = training.recipe, training.preprocessing
    positions = np.random.default_rng(0).permutation(len(training.images))[: recipe.batch_size]
    pixels, numbers = training.images.take(positions)
    images = to_input(pixels, frame.mean, frame.std)
    strength = torch.from_numpy(training.remedy.strengths.astype(np.float32)[numbers])
    generator = torch.Generator().manual_seed(0)
    mixing = Mixing(cut=True, share=0.75, left=4, top=4, box=recipe.image_size // 2)
    return {
        "gather": milliseconds(lambda: training.images.take(positions)),
        "normalise": milliseconds(lambda: to_input(pixels, frame.mean, frame.std)),
        "augment": milliseconds(lambda: augment(images, training.policy, strength, generator)),
        "mix": recipe.mixup * milliseconds(lambda: mix(images, mixing)),
        "average": milliseconds(lambda: training.average.update(training.network)),
    }


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", default="cnn-s")
    parser.add_argument("--levels", nargs="+", default=["light", "medium", "strong"])
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["STEADYLENS_CACHE"] = cache
        store = decode(read_index(a.data), a.image_size, cache=Path(cache))
        every = LabelledPixels(store.pixels, np.arange(len(store.index)), store.index.labels)
        print("| augmentation | loop, images/s | bare, images/s | ratio | a step, ms | of it, ms |")
        print("| --- | --- | --- | --- | --- | --- |")
        for level in a.levels:
            config = parse({"network": a.network, "epochs": 20, "augment": level, "flip": "on"})
            frame = preprocessing_of(every)
            recipe = resolve(config, store.index.classes, every, every.sample(500, 0), frame, "", seconds=None).recipe
            images = every.sample(a.steps * recipe.batch_size, 0)
            ours, theirs = (training_of(images, recipe, frame) for _ in range(2))
            cut = np.array_split(np.random.default_rng(0).permutation(len(images)), a.steps)
            taken = [images.take(some) for some in cut]
            batches = [(to_input(pixels, frame.mean, frame.std), torch.from_numpy(labels)) for pixels, labels in taken]
            bare(theirs, batches[:5])
            speeds = [(whole(ours), bare(theirs, batches)) for _ in range(a.repeats)]
            ratio = statistics.median(mine / other for mine, other in speeds)
            mine, other = (statistics.median(column) for column in zip(*speeds, strict=True))
            spent = ", ".join(f"{name} {value:.2f}" for name, value in pieces(ours).items())
            step = 1000 * recipe.batch_size / mine
            print(f"| {level} | {mine:,.0f} | {other:,.0f} | {ratio:.2f} | {step:.1f} | {spent} |", flush=True)


if __name__ == "__main__":
    main()
