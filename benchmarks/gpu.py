#!/usr/bin/env python3
"""On a CUDA GPU: how fast the loop is, what long-tailed CIFAR-10 comes to for a given amount of work, and how soon.

gpu.py speed TRAIN [--networks cnn-s cnn-m cnn-l cnn-xl] [--batches 64 256 1024]
gpu.py accuracy TRAIN TEST [--network cnn-m] [--epochs 29] [--members 5] [--batch-size 128] [--seeds 0 1 2 3 4]
gpu.py soon TRAIN TEST [--epochs 8 16] [--seeds 0 1 2 3 4]

`speed` times epochs as a run does them, recorded and not. Utilisation is the work of the network, forward and backward,
over what the GPU does of bfloat16 matrix products of side 8192 in the same process.

`accuracy` trains by the recipe that `auto` comes to, without early stopping, and measures the last averaged weights on
the test images, each image and its mirror image. The work is that of all steps, forward and backward.

`soon` goes by the rules of airbench (Jordan 2024): one training before the clock starts; images lie on the GPU when it
does; it stops when the test images are classified. Beside it is the recipe of airbench94 with Muon, as published but
for its alternating flip, its shifts in testing, and the bias of its first layer (gpu_peer.py).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from gpu_peer import airbench
from loop_efficiency import training_of
from steadylens.config import Recipe, parse
from steadylens.data.batches import LabelledPixels, preprocessing_of
from steadylens.data.images import Preprocessing
from steadylens.data.sources import read_index
from steadylens.data.store import decode
from steadylens.metrics import balanced_accuracy, worst_class_recall
from steadylens.models import fresh
from steadylens.models.inference import logits_of
from steadylens.models.mirrored import Mirrored
from steadylens.training.clock import Clock
from steadylens.training.loop import train_epoch
from steadylens.training.resolution import resolve
from steadylens.training.state import Training

SIDE, MATRIX = 32, 8192


def images_of(folder: Path, cache: Path) -> tuple[LabelledPixels, tuple[str, ...]]:
    """All images of class folders, and the names of the classes."""
    store = decode(read_index(folder), SIDE, cache=cache)
    return LabelledPixels(np.array(store.pixels), np.arange(len(store.index)), store.index.labels), store.index.classes


def recipe_of(images: LabelledPixels, names: tuple[str, ...], frame: Preprocessing, **options: Any) -> Recipe:  # noqa: ANN401
    """What `auto` comes to, but for these options."""
    config = parse({"precision": "bf16", "flip": "on", "device": "cuda", **options})
    return resolve(config, names, images, images.sample(500, 0), frame, "", seconds=None).recipe


def trained(images: LabelledPixels, recipe: Recipe, frame: Preprocessing) -> Training:
    """A training after its last step."""
    training, clock, stopped = training_of(images, recipe, frame), Clock(None, recipe.epochs), ""
    while not stopped:
        _, stopped = train_epoch(training, clock)
    return training


def answers(training: Training, test: LabelledPixels) -> NDArray[np.float32]:
    """The mean logits of test images and their mirror images, (n, classes)."""
    with training.average.shown_by(training.network):
        return logits_of(Mirrored(training.network), test, training.preprocessing, precision="bf16")


def work(recipe: Recipe) -> float:
    """FLOP of one training image, forward and backward."""
    network = fresh(recipe)
    with FlopCounterMode(display=False) as counter:
        network(torch.randn(8, 3, SIDE, SIDE, device="cuda")).sum().backward()
    return float(counter.get_total_flops()) / 8


def matrix_rate() -> float:
    """FLOP a second of large matrix products in bfloat16."""
    one, other = (torch.randn(MATRIX, MATRIX, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    taken = []
    for _ in range(20):
        torch.cuda.synchronize()
        start = time.perf_counter()
        one @ other
        torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 2 * MATRIX**3 / statistics.median(taken)


def epoch_rate(training: Training) -> float:
    """Images a second of the second epoch."""
    clock = Clock(None, 20)
    train_epoch(training, clock)
    torch.cuda.synchronize()
    start = time.perf_counter()
    train_epoch(training, clock)
    torch.cuda.synchronize()
    return len(training.images) / (time.perf_counter() - start)


def speed(a: argparse.Namespace, cache: Path) -> None:
    """Images a second for each network and batch size."""
    images, names = images_of(a.train, cache)
    frame, rate = preprocessing_of(images), matrix_rate()
    print(f"matrix products: {rate / 1e12:.0f} TFLOP/s\n")
    print("| network | batch | step by step, images/s | recorded, images/s | a step, ms | utilisation, % |")
    print("| --- | --- | --- | --- | --- | --- |")
    for network in a.networks:
        for size in a.batches:
            recipe = recipe_of(images, names, frame, network=network, batch_size=size, epochs=20)
            some = images.sample(80 * size, 0)
            plain, recorded = (training_of(some, recipe, frame) for _ in range(2))
            found = epoch_rate(replace(plain, recorder=None)), epoch_rate(recorded)
            step, share = 1000 * size / found[1], 100 * found[1] * work(recipe) / rate
            print(f"| {network} | {size} | {found[0]:,.0f} | {found[1]:,.0f} | {step:.2f} | {share:.1f} |", flush=True)


def accuracy(a: argparse.Namespace, cache: Path) -> None:
    """Balanced accuracy after so many epochs of so many members."""
    (images, names), (test, _) = (images_of(folder, cache) for folder in (a.train, a.test))
    frame = preprocessing_of(images)
    print("| seed | balanced accuracy, % | worst class, % | PFLOP | seconds |\n| --- | --- | --- | --- | --- |")
    for seed in a.seeds:
        given = {"network": a.network, "epochs": a.epochs, "batch_size": a.batch_size}
        recipe = recipe_of(images, names, frame, **given)
        start, logits = time.perf_counter(), np.zeros((len(test), len(names)), np.float32)
        for member in range(a.members):
            logits += answers(trained(images, replace(recipe, seed=1000 * seed + member), frame), test)
        seconds = time.perf_counter() - start
        found = [100 * f(test.labels, logits.argmax(1), len(names)) for f in (balanced_accuracy, worst_class_recall)]
        petaflop = work(recipe) * len(images) * a.epochs * a.members / 1e15
        print(f"| {seed} | {found[0]:.1f} | {found[1]:.1f} | {petaflop:.2f} | {seconds:.0f} |", flush=True)


def soon(a: argparse.Namespace, cache: Path) -> None:
    """Accuracy and seconds of short trainings, ours and the peer's in turn."""
    (images, names), (test, _) = (images_of(folder, cache) for folder in (a.train, a.test))
    frame = preprocessing_of(images)
    given = {"network": "cnn-m", "batch_size": 1000, "learning_rate": 4e-3, "mixup": 0.0}

    def ours(epochs: int, seed: int) -> tuple[float, float]:
        recipe = recipe_of(images, names, frame, epochs=epochs, seed=seed, **given)
        start = time.perf_counter()
        logits = answers(trained(images, recipe, frame), test)
        return 100 * balanced_accuracy(test.labels, logits.argmax(1), len(names)), time.perf_counter() - start

    def theirs(epochs: int, seed: int) -> tuple[float, float]:
        labels, seconds = airbench(images, test, frame, epochs, seed)
        return 100 * balanced_accuracy(test.labels, labels, len(names)), seconds

    ours(2, 0)
    theirs(2, 0)
    print("| | epochs | accuracy, % | seconds |\n| --- | --- | --- | --- |")
    for epochs in a.epochs:
        for name, run in (("steadylens, cnn-m", ours), ("airbench94's recipe", theirs)):
            found = [run(epochs, seed) for seed in a.seeds]
            means = [statistics.mean(column) for column in zip(*found, strict=True)]
            each = ", ".join(f"{one:.1f}" for one, _ in found)
            print(f"| {name} | {epochs} | {means[0]:.2f} ({each}) | {means[1]:.2f} |", flush=True)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("speed")
    one.add_argument("train", type=Path)
    one.add_argument("--networks", nargs="+", default=["cnn-s", "cnn-m", "cnn-l", "cnn-xl"])
    one.add_argument("--batches", type=int, nargs="+", default=[64, 256, 1024])
    one.set_defaults(run=speed)
    other = commands.add_parser("accuracy")
    other.add_argument("train", type=Path)
    other.add_argument("test", type=Path)
    other.add_argument("--network", default="cnn-m")
    other.add_argument("--epochs", type=int, default=29)
    other.add_argument("--members", type=int, default=5)
    other.add_argument("--batch-size", type=int, default=128)
    other.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    other.set_defaults(run=accuracy)
    third = commands.add_parser("soon")
    third.add_argument("train", type=Path)
    third.add_argument("test", type=Path)
    third.add_argument("--epochs", type=int, nargs="+", default=[8, 16])
    third.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    third.set_defaults(run=soon)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        a.run(a, Path(cache))


if __name__ == "__main__":
    main()
