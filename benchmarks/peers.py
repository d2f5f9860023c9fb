#!/usr/bin/env python3
"""steadylens beside the Keras tutorial: accuracy in a given time, and images a second on the tutorial's own network.

peers.py accuracy DATA [--test DIR] [--budget 200s] [--seeds 0 1 2] [--keras PYTHON] [--options "--image-size 64"]
peers.py soon DATA --test DIR [--seconds 7 9 12] [--seeds 0 1 2]
peers.py speed DATA --test DIR --keras PYTHON [--epochs 5] [--repeats 3]

PYTHON is the interpreter of an environment with `tensorflow-cpu keras scikit-learn pillow`; without it only steadylens
runs. Commands run one after another, in turn where two are compared, so that a drift of the machine hits both alike.

`soon` trains by the recipe that `auto` comes to for so many seconds, for these seconds and no longer, and measures the
last weights on the test images: how soon an accuracy is reached, start-up, audit and report left out.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import train_test_split

from side_by_side import last_line, report_of, test_figures
from steadylens.config import parse
from steadylens.data.batches import LabelledPixels, preprocessing_of
from steadylens.data.images import Preprocessing
from steadylens.data.sources import read_index
from steadylens.data.store import decode
from steadylens.metrics import balanced_accuracy, worst_class_recall
from steadylens.models import fresh
from steadylens.models.inference import logits_of
from steadylens.training.loop import fit
from steadylens.training.resolution import resolve
from steadylens.training.state import Fitted

PEER = Path(__file__).with_name("keras_peer.py")


def ours(data: Path, test: Path | None, words: list[str]) -> dict[str, Any]:
    """One whole `steadylens train`, in the peer's terms."""
    begin = time.perf_counter()
    report = report_of(data, [*(["--test", str(test)] if test else []), *words])
    return {
        **test_figures(report),
        "epochs": report["training"]["epochs"],
        "images_per_second": report["training"]["images_per_second"],
        "seconds": time.perf_counter() - begin,
        "network": report["selection"]["chosen"]["network"],
    }


def keras(python: str, data: Path, test: Path, words: list[str]) -> dict[str, Any]:
    """One run of the peer."""
    command = [python, str(PEER), str(data), "--test", str(test), *words]
    return dict(last_line(command, {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}))


def soon(a: argparse.Namespace) -> None:
    """Balanced accuracy after some seconds of training."""
    index, unseen = read_index(a.data), read_index(a.test)
    print("| seconds of training | balanced accuracy, % | worst class, % |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        store, other = (decode(images, 32, cache=Path(folder)) for images in (index, unseen))
        test = LabelledPixels(other.pixels, np.arange(len(other.index)), other.index.labels)
        labels, names = store.index.labels, store.index.classes
        rows = train_test_split(np.arange(len(labels)), test_size=0.1, stratify=labels, random_state=0)
        train, validation = (LabelledPixels(store.pixels, np.sort(part), labels[np.sort(part)]) for part in rows)
        frame = preprocessing_of(train)
        fit_for(train, validation, frame, names, 2.0, 0)  # what is slow the first time
        for seconds in a.seconds:
            found = []
            for seed in a.seeds:
                fitted = fit_for(train, validation, frame, names, seconds, seed)
                answers = logits_of(fitted.network, test, frame).argmax(1)
                figures = balanced_accuracy, worst_class_recall
                found.append([100 * figure(test.labels, answers, len(names)) for figure in figures])
            shown = (", ".join(f"{value:.1f}" for value in values) for values in zip(*found, strict=True))
            print(f"| {seconds:g} | {' | '.join(shown)} |", flush=True)


def fit_for(
    train: LabelledPixels,
    validation: LabelledPixels,
    frame: Preprocessing,
    names: tuple[str, ...],
    seconds: float,
    seed: int,
) -> Fitted:
    """Train cnn-s from scratch for some seconds."""
    config = parse({"network": "cnn-s", "budget": seconds, "seed": seed})
    recipe = resolve(config, names, train, validation, frame, "the images' own", seconds=seconds).recipe
    return fit(fresh(recipe), train, validation, recipe, frame, seconds=seconds)


def mean(results: list[dict[str, Any]], name: str) -> float:
    """The mean of one figure over runs that have it."""
    return statistics.mean(float(r[name]) for r in results)


def show(name: str, results: list[dict[str, Any]]) -> None:
    """Print one row of the accuracy table."""
    balanced, worst = (
        ", ".join(f"{100 * r[key]:.1f}" for r in results) for key in ("balanced_accuracy", "worst_class_recall")
    )
    ece = f"{100 * mean(results, 'ece'):.1f}" if "ece" in results[0] else "-"
    print(
        f"| {name} | **{100 * mean(results, 'balanced_accuracy'):.1f}** ({balanced}) "
        f"| {100 * mean(results, 'worst_class_recall'):.1f} ({worst}) | {ece} "
        f"| {mean(results, 'seconds'):.0f} | {mean(results, 'epochs'):.0f} "
        f"| {mean(results, 'images_per_second'):,.0f} |",
        flush=True,
    )


def accuracy(a: argparse.Namespace) -> None:
    """Balanced accuracy in a given time, each seed of both in turn."""
    print("| | balanced accuracy, % | worst class, % | ECE, % | seconds | epochs | images/s |\n" + "|---" * 7 + "|")
    mine: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for seed in a.seeds:
        mine.append(ours(a.data, a.test, ["--budget", a.budget, "--seed", str(seed), *shlex.split(a.options)]))
        if a.keras:
            theirs.append(keras(a.keras, a.data, a.test, ["--seed", str(seed)]))
    show(f"steadylens --budget {a.budget} {a.options} ({mine[0]['network']})", mine)
    if theirs:
        show("Keras tutorial", theirs)


def speed(a: argparse.Namespace) -> None:
    """Training images a second on the tutorial's CNN: ours and theirs in turn, and the ratio pair by pair."""
    words = ["--network", "keras-blog", "--epochs", str(a.epochs), "--augment", "off", "--imbalance", "class-weights"]
    ratios = []
    print("| repeat | steadylens, images/s | Keras (TensorFlow), images/s | ratio |\n|---|---|---|---|")
    for repeat in range(a.repeats):
        mine = ours(a.data, a.test, [*words, "--set", f"batch_size={a.batch_size}"])["images_per_second"]
        peer = ["--epochs", str(a.epochs), "--patience", "1000", "--batch-size", str(a.batch_size)]
        theirs = keras(a.keras, a.data, a.test, peer)["images_per_second"]
        ratios.append(mine / theirs)
        print(f"| {repeat + 1} | {mine:,.0f} | {theirs:,.0f} | {ratios[-1]:.2f} |", flush=True)
    print(f"| median | | | **{statistics.median(ratios):.2f}** |")


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("accuracy")
    one.add_argument("data", type=Path)
    one.add_argument("--test", type=Path)
    one.add_argument("--budget", default="200s")
    one.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    one.add_argument("--keras")
    one.add_argument("--options", default="")
    one.set_defaults(run=accuracy)
    early = commands.add_parser("soon")
    early.add_argument("data", type=Path)
    early.add_argument("--test", type=Path, required=True)
    early.add_argument("--seconds", type=float, nargs="+", default=[7.0, 9.0, 12.0])
    early.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    early.set_defaults(run=soon)
    other = commands.add_parser("speed")
    other.add_argument("data", type=Path)
    other.add_argument("--test", type=Path, required=True)
    other.add_argument("--keras", required=True)
    other.add_argument("--epochs", type=int, default=5)
    other.add_argument("--repeats", type=int, default=3)
    other.add_argument("--batch-size", type=int, default=64)
    other.set_defaults(run=speed)
    a = parser.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
