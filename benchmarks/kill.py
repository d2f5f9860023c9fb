"""Kill runs with SIGKILL at random moments, go on with each until it ends, and count what was lost.

    python benchmarks/kill.py DATA [--kills 200] [--weights FILE --sidecar FILE]

For each kind of run (from scratch, and with --weights a fine-tune) one run is left alone. Then others of the same
images and options are begun in processes of their own, killed after a random time, begun again with the same call,
killed again, until one comes to its end. After every kill the folder is looked through. Lost is: a file that is not
whole under its own name; a best model that is worse than before the kill; a run that cannot be gone on with; and
weights that differ from those of the run that was left alone by as much as a bit.

Each process is forked from one that has the libraries loaded, so that the random moments fall into the run and not into
imports. It saves a position whenever the last one is on the disk, which makes kills within a write more probable.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from steadylens.report import run_folder, runs
from steadylens.training.checkpoint import Checkpoints
from steadylens.training.finetune import STAGE

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from faults import assert_valid
from kills import begun, ended

LONGEST_S = 600.0
POSITIONS = ("training", STAGE)


def stage_of(run: Path) -> str:
    """What a run was doing when it was killed, by what it has kept."""
    kept = Checkpoints(run / run_folder.CHECKPOINTS)
    if runs.is_finished(run):
        return "tidying up"
    for name, stage in (
        ("test", "checking labels, packing, reporting"),
        ("trained", "calibrating, evaluating"),
        (STAGE, "blending"),
        ("probe", "fine-tuning"),
    ):
        if kept.outcome(name) is not None:
            return stage
    if kept.outcome("selection") is not None:
        return "training, or looking at images for the probe"
    return "selecting" if (run / run_folder.INDEX).exists() else "reading, decoding, auditing"


def damage(run: Path) -> str:
    """What is not whole, or that the run is lost; "" where all is well."""
    try:
        assert_valid(run)
    except Exception as error:
        return repr(error)
    return ""


def best_figure(run: Path) -> dict[str, float]:
    """The figure of the best weights in each training that the run's checkpoints hold."""
    kept = Checkpoints(run / run_folder.CHECKPOINTS)
    places = {stage: kept.position(stage) for stage in POSITIONS}
    figures = {stage: place.state["best"]["figure"] for stage, place in places.items() if place is not None}
    return {stage: float(figure) for stage, figure in figures.items() if figure is not None}


def digest(run: Path) -> str:
    """Of the final weights."""
    return hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest()


def tried(kind: str, data: Path, folder: Path, options: dict[str, Any], kills: int, seed: int) -> Counter[str]:
    """Kill runs of one kind so many times; the counts of what happened."""
    folder.mkdir()
    whole, begin = folder / "whole", time.monotonic()
    if ended(begun(data, whole, options), LONGEST_S) != 0:
        sys.exit("The run that was left alone failed.")
    lasted, rng = time.monotonic() - begin, np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    print(f"{kind}: a run takes {lasted:.1f} s; its weights are {digest(whole)[:16]}", file=sys.stderr)
    while counts["kills"] < kills:
        run, best, longest = folder / f"run-{counts['runs']}", dict[str, float](), 0.3
        counts["runs"] += 1
        while counts["kills"] < kills:
            process = begun(data, run, options)
            code = ended(process, float(rng.uniform(0.0, longest * lasted)))
            if code is not None:
                break
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            counts["kills"] += 1
            longest *= 1.15  # so that each comes to its end some time
            if not run.exists():
                counts["stage: before the folder was made"] += 1
                continue
            counts[f"stage: {stage_of(run)}"] += 1
            broken = damage(run)
            counts["not whole"] += bool(broken)
            now = best_figure(run)
            worse = [stage for stage, figure in now.items() if figure > best.get(stage, figure)]
            counts["best lost"] += bool(worse)
            best |= now
            for line in filter(None, [broken, *worse]):
                print(f"{run}: {line}", file=sys.stderr)
            if runs.is_finished(run):
                code = 0
                break
        else:
            code = ended(begun(data, run, options), LONGEST_S)
        counts["cannot go on"] += code != 0
        counts["other bits"] += code == 0 and digest(run) != digest(whole)
    return counts


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--kills", type=int, default=200, help="of each kind")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--sidecar", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    common = {"epochs": a.epochs, "device": "cpu"}
    kinds: dict[str, dict[str, Any]] = {"cnn-s from scratch": {**common, "network": "cnn-s"}}
    if a.weights:
        kinds["fine-tuned backbone"] = {**common, "weights": a.weights, "sidecar": a.sidecar, "image_size": 64}
    lost = ("not whole", "best lost", "cannot go on", "other bits")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["STEADYLENS_CACHE"] = str(Path(folder) / "cache")
        results = {
            kind: tried(kind, a.data, Path(folder) / str(number), options, a.kills, a.seed)
            for number, (kind, options) in enumerate(kinds.items())
        }
    for kind, counts in results.items():
        stages = [f"{name.removeprefix('stage: ')} {n}" for name, n in counts.items() if name.startswith("stage: ")]
        print(f"{kind}, killed while: {'; '.join(stages)}", file=sys.stderr)
    print(f"| | kills | runs | {' | '.join(lost)} |")
    print("| --- " * (3 + len(lost)) + "|")
    for kind, counts in results.items():
        print(f"| {kind} | {counts['kills']} | {counts['runs']} | {' | '.join(str(counts[name]) for name in lost)} |")


if __name__ == "__main__":
    main()
