"""Make every change that a small run does to the disk fail, one after another, and count what was lost.

    python benchmarks/failing_writes.py [--step 1]

A run on drawn images is left alone, and the calls are counted by which `steadylens.files` opens, writes, flushes,
renames, makes and removes. Then for n = 1, 2, ... a run is made in which the n-th call fails, with each of the errors
in turn (a write that fails is half done), and begun again with the same call. Another table does it with a disk that
stays full from the n-th call on. Lost is: a folder that is not valid, a run that cannot be gone on with, and weights
that differ from those of the run that was left alone by as much as a bit.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import steadylens
from steadylens.errors import ResourceError
from steadylens.training import checkpoint

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults import ERRORS, assert_valid, failing

OPTIONS: dict[str, Any] = {"network": "cnn-s", "width": 0.2, "epochs": 2, "precision": "fp32", "device": "cpu"}
COUNTS = {"bolt": 30, "nut": 18, "washer": 12}


def draw(root: Path) -> Path:
    """Three classes of small images that colour tells apart."""
    rng = np.random.default_rng(0)
    for label, (name, count) in enumerate(COUNTS.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 160, (12, 12, 3))
            pixels[:, :, label] += 60
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:03d}.png")
    return root


def train(data: Path, run: Path) -> bytes:
    """The weights of a run, begun or gone on with."""
    steadylens.train(data, out=run, quiet=True, **OPTIONS)
    return (run / "model" / "model.safetensors").read_bytes()


def tried(data: Path, folder: Path, calls: int, whole: bytes, step: int, *, lasting: bool) -> Counter[str]:
    """Let call after call fail; the counts of what happened."""
    counts: Counter[str] = Counter()
    for n in range(1, calls + 1, step):
        os.environ["STEADYLENS_CACHE"] = str(folder / f"cache-{n}")
        run, error = folder / f"run-{n}", errno.ENOSPC if lasting else ERRORS[n % len(ERRORS)]
        counts["tried"] += 1
        try:
            with failing(n, error, lasting=lasting):
                train(data, run)
            counts["got through"] += 1
            told = "nothing said"
        except ResourceError as said:
            counts["said and stopped"] += 1
            told = str(said)
        except Exception as other:
            counts["another error"] += 1
            told = repr(other)
        try:
            if run.exists():
                assert_valid(run)
            if not (run / "report.json").exists():
                train(data, run)
            weights = (run / "model" / "model.safetensors").read_bytes()
            assert_valid(run)
            counts["other bits"] += weights != whole
        except Exception as lost:
            counts["lost"] += 1
            print(f"call {n}, {told}: {lost!r}", file=sys.stderr)
    return counts


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--step", type=int, default=1, help="try every so many calls only")
    a = parser.parse_args()
    checkpoint.COST_SHARE = 1.0  # a position after every epoch
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        data = draw(folder / "parts")
        os.environ["STEADYLENS_CACHE"] = str(folder / "cache")
        with failing(10**9) as calls:
            whole = train(data, folder / "whole")
        kinds = Counter(name.strip("_") for name in calls.names)
        print(f"A run makes {len(calls.names)} calls: {dict(kinds)}", file=sys.stderr)
        columns = ("tried", "said and stopped", "got through", "another error", "lost", "other bits")
        print(f"| | {' | '.join(columns)} |")
        print("| --- " * (1 + len(columns)) + "|")
        for name, lasting in (("the n-th call fails", False), ("the disk is full from the n-th call on", True)):
            (folder / name).mkdir()
            counts = tried(data, folder / name, len(calls.names), whole, a.step, lasting=lasting)
            print(f"| {name} | {' | '.join(str(counts[column]) for column in columns)} |", flush=True)


if __name__ == "__main__":
    main()
