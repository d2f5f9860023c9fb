"""What checkpoints cost a training: images a second with them and without, in turn.

    python benchmarks/checkpoint_cost.py DATA [--network cnn-s] [--epochs 2] [--repeats 3] [--weights FILE ...]

The same run is made without and with checkpoints, in turn, so that what else the machine does falls on both. Measured
are the training images a second that the report gives, which leave measurements out, and the seconds of the whole
command. The table gives each pair and the median of the ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import steadylens
from steadylens.training.checkpoint import Checkpoints


def measured(data: Path, run: Path, options: dict[str, Any], *, kept: bool) -> tuple[float, int]:
    """Training images a second, and how many positions were written."""
    written = 0
    begin = Checkpoints._begin

    def counted(self: Checkpoints, *arguments: Any) -> None:  # noqa: ANN401 - those of `_begin`
        nonlocal written
        written += 1
        begin(self, *arguments)

    offer = Checkpoints.offer if kept else lambda *_, **__: None
    with mock.patch.object(Checkpoints, "offer", offer), mock.patch.object(Checkpoints, "_begin", counted):
        report = steadylens.train(data, out=run, quiet=True, **options).report
    return report["training"]["images_per_second"], written


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--network", default="cnn-s")
    parser.add_argument("--epochs", type=int, default=2)
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
        print("| | images/s without | images/s with | ratio | positions |")
        print("| --- | --- | --- | --- | --- |")
        ratios = []
        for repeat in range(a.repeats):
            without, _ = measured(a.data, Path(folder) / f"without-{repeat}", options, kept=False)
            with_, written = measured(a.data, Path(folder) / f"with-{repeat}", options, kept=True)
            ratios.append(with_ / without)
            print(f"| {repeat + 1} | {without:,.0f} | {with_:,.0f} | {ratios[-1]:.3f} | {written} |", flush=True)
        print(f"| median | | | {statistics.median(ratios):.3f} | |")


if __name__ == "__main__":
    main()
