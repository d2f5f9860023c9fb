"""Muon, AdamW and SGD with Nesterov momentum on long-tailed CIFAR-10, judged on training images that were left out.

    python benchmarks/optimizers.py CIFAR/train [--network cnn-s] [--epochs 12] [--seeds 0] [--only TEXT]

Of each class's 5,000 training images 500 are left out, which make the balanced set to judge by; of the other 4,500 the
classes keep from all down to a hundredth. The test images of CIFAR-10 are not looked at. All train the same network by
the recipe that `auto` comes to for so many epochs, without early stopping, on a processor, and the last weights are
measured. Muon has the rate and the decay of the package, the others a few of each around those that are usual for them.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from steadylens.config import parse
from steadylens.data.batches import LabelledPixels, preprocessing_of
from steadylens.data.sources import read_index
from steadylens.data.store import decode
from steadylens.models import build, spec_of
from steadylens.training import loop
from steadylens.training.optimizers import Rates, optimizer_of
from steadylens.training.regularize import regularized
from steadylens.training.resolution import resolve

LARGEST, LEFT_OUT, IMBALANCE, SIDE = 4500, 500, 100, 32
# What the recipe says besides. The decay of SGD is part of the gradient, those of the others are times the rate.
CONTENDERS: dict[str, dict[str, Any]] = {
    "Muon, as in the package": {},
    "AdamW, rate 0.001, decay 0.05": {"optimizer": "adamw", "learning_rate": 1e-3, "l2": 0.05},
    "AdamW, rate 0.002, decay 0.05": {"optimizer": "adamw", "learning_rate": 2e-3, "l2": 0.05},
    "AdamW, rate 0.002, decay 0.5": {"optimizer": "adamw", "learning_rate": 2e-3, "l2": 0.5},
    "Nesterov SGD, rate 0.02, decay 5e-4": {"optimizer": "sgd", "learning_rate": 0.02, "l2": 5e-4},
    "Nesterov SGD, rate 0.05, decay 5e-4": {"optimizer": "sgd", "learning_rate": 0.05, "l2": 5e-4},
    "Nesterov SGD, rate 0.1, decay 5e-4": {"optimizer": "sgd", "learning_rate": 0.1, "l2": 5e-4},
}


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


def with_sgd(
    name: str, network: nn.Module, learning_rate: float, l2: float, *, half: bool, rates: Rates | None = None
) -> torch.optim.Optimizer:
    """What `optimizer_of` gives, and Nesterov SGD besides, which the package has not."""
    if name != "sgd":
        return optimizer_of(name, network, learning_rate, l2, half=half, rates=rates)
    decayed = {id(p) for p in regularized(network)}
    trained = [p for p in network.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if id(p) in decayed], "weight_decay": l2, "rate": 1.0},
        {"params": [p for p in trained if id(p) not in decayed], "weight_decay": 0.0, "rate": 1.0},
    ]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", default="cnn-s")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", default="", help="contenders whose name holds this")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["STEADYLENS_CACHE"] = cache
        store = decode(read_index(a.data), SIDE, cache=Path(cache))
        print("| seed | optimizer | balanced accuracy, % | worst class, % | balanced log-loss | images/s |")
        print("| --- | --- | --- | --- | --- | --- |")
        for seed in a.seeds:
            train, unseen = parts(store.pixels, store.index.labels, seed)
            frame = preprocessing_of(train)
            config = parse(
                {"network": a.network, "epochs": a.epochs, "seed": seed, "early_stopping": "off", "device": "cpu"}
            )
            recipe = resolve(config, store.index.classes, train, unseen, frame, "", seconds=None).recipe
            for name in (name for name in CONTENDERS if a.only in name):
                torch.manual_seed(seed)
                chosen = replace(recipe, **CONTENDERS[name])
                with patch.object(loop, "optimizer_of", with_sgd):
                    last = loop.fit(build(spec_of(chosen)), train, unseen, chosen, frame).curve[-1]
                figures = (last.validation_balanced_accuracy, last.validation_worst_class_recall)
                shown = " | ".join(f"{100 * figure:.1f}" for figure in figures)
                shown += f" | {last.validation_tempered_log_loss:.3f} | {last.images_per_second:,.0f}"
                print(f"| {seed} | {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
