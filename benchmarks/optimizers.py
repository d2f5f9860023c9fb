"""AdamW beside Muon on long-tailed CIFAR-10, judged on training images that were left out.

    python benchmarks/optimizers.py CIFAR/train [--epochs 12] [--seeds 0]

Of each class's 5,000 training images 500 are left out, which make the balanced set to judge by; of the other 4,500 the
classes keep from all down to a hundredth. The test images of CIFAR-10 are not looked at. Both optimizers train cnn-s by
the recipe that `auto` comes to for so many epochs, without early stopping, and the last weights are measured.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from steadylens.config import parse
from steadylens.data.batches import LabelledPixels, preprocessing_of
from steadylens.data.sources import read_index
from steadylens.data.store import decode
from steadylens.models import build, spec_of
from steadylens.training.loop import fit
from steadylens.training.resolution import resolve

LARGEST, LEFT_OUT, IMBALANCE, SIDE = 4500, 500, 100, 32


def parts(pixels: np.ndarray, labels: np.ndarray, seed: int) -> tuple[LabelledPixels, LabelledPixels]:
    """A long-tailed part to train on, and a balanced one to judge by."""
    rng, classes = np.random.default_rng(1000 + seed), int(labels.max()) + 1
    train, unseen = list[np.ndarray](), list[np.ndarray]()
    for label in range(classes):
        rows = rng.permutation(np.flatnonzero(labels == label))
        unseen.append(rows[-LEFT_OUT:])
        train.append(rows[: int(LARGEST * IMBALANCE ** (-label / (classes - 1)))])
    taken = (np.concatenate(rows) for rows in (train, unseen))
    first, second = (LabelledPixels(pixels, rows, labels[rows]) for rows in taken)
    return first, second


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["STEADYLENS_CACHE"] = cache
        store = decode(read_index(a.data), SIDE, cache=Path(cache))
        print("| seed | optimizer | balanced accuracy, % | worst class, % | images/s |")
        print("| --- | --- | --- | --- | --- |")
        for seed in a.seeds:
            train, unseen = parts(store.pixels, store.index.labels, seed)
            frame = preprocessing_of(train)
            config = parse({"network": "cnn-s", "epochs": a.epochs, "seed": seed, "early_stopping": "off"})
            recipe = resolve(config, store.index.classes, train, unseen, frame, "", seconds=None).recipe
            for optimizer in ("adamw", "muon"):
                torch.manual_seed(seed)
                chosen = replace(recipe, optimizer=optimizer)
                last = fit(build(spec_of(chosen)), train, unseen, chosen, frame).curve[-1]
                figures = (last.validation_balanced_accuracy, last.validation_worst_class_recall)
                shown = " | ".join(f"{100 * figure:.1f}" for figure in figures)
                print(f"| {seed} | {optimizer} | {shown} | {last.images_per_second:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
