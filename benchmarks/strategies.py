#!/usr/bin/env python3
"""Each strategy of the tutorial switched on alone, against none of them: same network, same data, same seeds.

strategies.py DATA --test DIR [--network keras-blog] [--epochs 20] [--seeds 0 1 2] [--only NAME ...]

Every row is a mean over the seeds of whole `steadylens train` commands, run one after another. The gap is that between
balanced accuracy on training and on validation images, of the weights that are kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

NONE = {
    "imbalance": "none", "minority-augment": "off", "augment": "off", "l1": "0", "l2": "0", "dropout": "0",
    "label-smoothing": "0", "mixup": "0", "early-stopping": "off",
}  # fmt: skip
STRATEGIES: dict[str, dict[str, str]] = {
    "none": {},
    "class weights": {"imbalance": "class-weights"},
    "oversampling": {"imbalance": "oversample"},
    "minority augmentation": {"minority-augment": "0.75"},
    "prior-adjusted softmax": {"imbalance": "logit-adjust"},
    "L1": {"l1": "0.01"},
    "L2": {"l2": "0.5"},
    "dropout": {"dropout": "0.5"},
    "early stopping": {"early-stopping": "2"},
    "label smoothing": {"label-smoothing": "0.1"},
    "mixup": {"mixup": "0.7"},
    "augmentation": {"augment": "medium"},
}


def measure(data: Path, test: Path, network: str, epochs: int, seed: int, options: dict[str, str]) -> dict[str, Any]:
    """Run one training; returns its report."""
    words = [word for name, value in {**NONE, **options}.items() for word in (f"--{name}", value)]
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "steadylens", "train", str(data), "--test", str(test), "--out", f"{folder}/run",
            "--network", network, "--epochs", str(epochs), "--seed", str(seed), "--set", "averaging=0", *words,
            "--json", "--quiet",
        ]  # fmt: skip
        answer = subprocess.run(command, check=True, capture_output=True, text=True)
    report: dict[str, Any] = json.loads(answer.stdout)
    return report


def row(name: str, reports: list[dict[str, Any]]) -> str:
    """One line of the table: means, and the standard deviation of balanced accuracy."""
    balanced = [100 * r["test"]["balanced_accuracy"]["value"] for r in reports]
    worst = [100 * r["test"]["worst_class_recall"]["value"] for r in reports]
    gap = [100 * r["diagnosis"]["gap"] for r in reports]
    epochs = statistics.mean(r["training"]["epochs"] for r in reports)
    spread = statistics.stdev(balanced) if len(balanced) > 1 else 0.0
    figures = f"{statistics.mean(balanced):5.1f} ± {spread:3.1f} | {statistics.mean(worst):5.1f}"
    return f"| {name:<23} | {figures} | {statistics.mean(gap):5.1f} | {epochs:4.1f} |"


def main() -> None:
    """Parse, measure, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--network", default="keras-blog")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    a = parser.parse_args()
    print("| strategy                | balanced accuracy, % | worst class, % | gap, points | epochs |", flush=True)
    print("|---|---|---|---|---|", flush=True)
    for name in a.only:
        reports = [measure(a.data, a.test, a.network, a.epochs, seed, STRATEGIES[name]) for seed in a.seeds]
        print(row(name, reports), flush=True)


if __name__ == "__main__":
    main()
