"""What checkpoints cost a training: the time that they take, and images a second with them and without, in turn.

    python benchmarks/checkpoint_cost.py DATA [--network cnn-s] [--epochs 4] [--repeats 3] [--weights FILE ...]

The same run is made without and with checkpoints, in turn. The speeds are training images a second as the report gives
them, which leave measurements out; on a machine that others share they scatter by more than checkpoints cost. So what
checkpoints take is also timed itself: the time in which the training waits for a copy, and the processor time of the
thread that writes it, as a share of the training's seconds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import steadylens
from steadylens.training.checkpoint import Checkpoints


@dataclass
class Spent:
    """What the positions of a run took."""

    positions: int = 0
    waiting_s: float = 0.0
    writing_s: float = 0.0


def measured(data: Path, run: Path, options: dict[str, Any], *, kept: bool) -> tuple[float, float, Spent]:
    """Training images a second, seconds of training, and what the positions took."""
    spent, begin, write = Spent(), Checkpoints._begin, Checkpoints._write_position

    def timed_begin(self: Checkpoints, *arguments: Any) -> None:  # noqa: ANN401 - those of `_begin`
        started = time.perf_counter()
        begin(self, *arguments)
        spent.waiting_s += time.perf_counter() - started
        spent.positions += 1

    def timed_write(self: Checkpoints, *arguments: Any) -> None:  # noqa: ANN401 - those of `_write_position`
        write(self, *arguments)
        spent.writing_s += time.thread_time()

    offer = Checkpoints.offer if kept else lambda *_, **__: None
    with (
        mock.patch.object(Checkpoints, "offer", offer),
        mock.patch.object(Checkpoints, "_begin", timed_begin),
        mock.patch.object(Checkpoints, "_write_position", timed_write),
    ):
        training = steadylens.train(data, out=run, quiet=True, **options).report["training"]
    return training["images_per_second"], training["seconds"], spent


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", default="cnn-s")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--sidecar", type=Path)
    parser.add_argument("--image-size", default="auto")
    a = parser.parse_args()
    options: dict[str, Any] = {"epochs": a.epochs, "image_size": a.image_size, "early_stopping": "off"}
    options |= {"weights": a.weights, "sidecar": a.sidecar} if a.weights else {"network": a.network}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEADYLENS_CACHE"] = str(Path(folder) / "cache")
        measured(a.data, Path(folder) / "warm", {**options, "epochs": 1}, kept=False)
        print("| | images/s without | images/s with | ratio | positions | waiting, s | writing, s | of training, % |")
        print("| --- " * 8 + "|")
        ratios, shares = [], []
        for repeat in range(a.repeats):
            without, _, _ = measured(a.data, Path(folder) / f"without-{repeat}", options, kept=False)
            with_, seconds, spent = measured(a.data, Path(folder) / f"with-{repeat}", options, kept=True)
            ratios.append(with_ / without)
            shares.append(100 * (spent.waiting_s + spent.writing_s) / seconds)
            figures = f"{spent.positions} | {spent.waiting_s:.3f} | {spent.writing_s:.3f} | {shares[-1]:.2f}"
            print(f"| {repeat + 1} | {without:,.0f} | {with_:,.0f} | {ratios[-1]:.3f} | {figures} |", flush=True)
        medians = statistics.median(ratios), statistics.median(shares)
        print(f"| median | | | {medians[0]:.3f} | | | | {medians[1]:.2f} |")


if __name__ == "__main__":
    main()
