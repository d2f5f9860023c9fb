#!/usr/bin/env python3
"""Networks from scratch in the same time: steadylens beside the Keras tutorial, fastai, Ultralytics and timm.

from_scratch.py NAME=FOLDER... [--budget 138s] [--seeds 0 1 2] [--keras PYTHON] [--fastai PYTHON] [--ultralytics PYTHON]
                [--without steadylens timm] [--results FILE.jsonl]

FOLDER holds train/, test/ and perhaps validation/; or class folders, of which a stratified fifth (seed 0) is the test
split. Each tool gets the same images and the same wall time for its whole command, and no option that differs between
data sets. The peers get the image size that steadylens takes by itself: the images' own up to 64 px.
PYTHON is the interpreter of an environment with the peer; without it the peer is left out. Commands run one after
another, all tools with one seed before the next. --results keeps each finished run as a line of JSON, and what is in it
already is not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from side_by_side import Figures, last_line, once, report_of, row, seconds_of, show, splits_of, test_figures

HERE = Path(__file__).parent


def size_of(data: Path) -> int:
    """The side at which steadylens learns images like the first one, from scratch."""
    with Image.open(next(path for path in sorted((data / "train").rglob("*")) if path.is_file())) as image:
        return min(64, *image.size)


def ours(data: Path, budget: str, seed: int) -> Figures:
    """One whole `steadylens train`, from scratch."""
    report = report_of(data, ["--budget", budget, "--seed", str(seed)])
    print(
        f"<!-- {report['selection']['chosen']['network']}, {report['training']['epochs']} epochs -->", file=sys.stderr
    )
    return test_figures(report)


def keras(python: str, data: Path, seconds: float, seed: int) -> Figures:
    """One run of the Keras tutorial."""
    words = ["--test", str(data / "test"), "--image-size", str(size_of(data)), "--seconds", str(seconds)]
    command = [python, str(HERE / "keras_peer.py"), str(data / "train"), *words, "--seed", str(seed)]
    return last_line(command, {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"})


def peer(python: str, kind: str, data: Path, seconds: float, seed: int) -> Figures:
    """One run of another peer."""
    words = [kind, str(data), "--seconds", str(seconds), "--image-size", str(size_of(data)), "--seed", str(seed)]
    return last_line([python, str(HERE / "from_scratch_peer.py"), *words], {})


def contenders(a: argparse.Namespace, data: Path, seed: int) -> dict[str, Callable[[], Figures]]:
    """What is compared, by name."""
    seconds = seconds_of(a.budget)
    runs: dict[str, Callable[[], Figures]] = {"steadylens": partial(ours, data, a.budget, seed)}
    if a.keras:
        runs["Keras tutorial"] = partial(keras, a.keras, data, seconds, seed)
    for kind, python in {"timm": sys.executable, "fastai": a.fastai, "ultralytics": a.ultralytics}.items():
        if python:
            runs[kind] = partial(peer, python, kind, data, seconds, seed)
    return {name: run for name, run in runs.items() if name not in a.without}


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+")
    parser.add_argument("--budget", default="138s")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for python in ("--keras", "--fastai", "--ultralytics"):
        parser.add_argument(python)
    parser.add_argument("--without", nargs="+", default=[])
    parser.add_argument("--results", type=Path)
    a = parser.parse_args()
    for named in a.data:
        name, _, folder = named.partition("=")
        found: dict[str, list[Figures]] = {}
        with splits_of(Path(folder)) as data:
            for seed in a.seeds:
                for contender, run in contenders(a, data, seed).items():
                    found.setdefault(contender, []).append(once(a.results, [name, contender, a.budget, seed], run))
        print(f"\n{name}, {a.budget}\n")
        show("", "balanced accuracy, %", "worst-class recall, %", "balanced log-loss", "seconds")
        show(*["---"] * 5)
        for contender, results in found.items():
            row(contender, results)


if __name__ == "__main__":
    main()
