#!/usr/bin/env python3
"""Whether the diagnosis is right, on trainings that were made to overfit, to underfit, or to do neither.

diagnosis.py DATA [--seed 0] [--results FILE.jsonl] [--only NAME ...]

DATA is a folder of at least ten class folders of at least 900 images, such as CIFAR-10's training images. The cases are
built of it by class number (in the order of names), so that what they show is known for CIFAR-10 alone. Seeds 0, 1 and
2 train on different images; all are judged on 500 to 1,000 others, on which no seed trains.

The truth of a case is in how it is made, and is *confirmed* by figures that the rules do not see: balanced accuracy on
the images that were left out, with the labels of a case of wrong labels made wrong at the same rate.

- *overfitting*: on the training images it is at least 15 points above that on those left out;
- *underfitting*: the same images and options without the fault reach at least 5 points more on those left out;
- *good*: it is at most 10 points above that on those left out, and twice the epochs reach less than 3 points more.

A case that is not confirmed is shown as such and not counted. `--results` keeps each finished training with its curve;
the verdict is that of the rules as they are now, on what was kept.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import steadylens
from steadylens.training.diagnosis import Diagnosis, diagnose

LEFT_OUT, MOST_LEFT_OUT, SEEDS = 250, 1000, 3
OVER, UNDER, GOOD = "overfitting", "underfitting", "good"
CLEAR_GAP, SMALL_GAP, CLEAR_GAIN, SMALL_GAIN = 0.15, 0.10, 0.05, 0.03

ALL = tuple(range(10))
TWO, THREE, FOUR, ALIKE = (1, 6), (1, 6, 8), (0, 1, 6, 7), (2, 3, 4, 5, 7)  # easy ones, but for the last
S: dict[str, Any] = {"network": "cnn-s", "image_size": 16}
M: dict[str, Any] = {"network": "cnn-m", "image_size": 16}
BLOG: dict[str, Any] = {"network": "keras-blog", "image_size": 32}
PLAIN: dict[str, Any] = {"augment": "off", "mixup": 0.0, "dropout": 0.0, "l2": 1e-4, "early_stopping": "off"}


@dataclass(frozen=True)
class Task:
    """One training: of which classes, how many images of the first and of the last of them, and with which options."""

    classes: tuple[int, ...]
    most: int
    least: int
    wrong: float
    options: Mapping[str, Any]

    def name(self, seed: int) -> str:
        """What tells it from all others in the file of results."""
        return json.dumps({**asdict(self), "seed": seed}, sort_keys=True)


@dataclass(frozen=True)
class Case:
    """A training, what it must show and why; `against` is what changes in the training that confirms it."""

    truth: str
    why: str
    task: Task
    against: Mapping[str, Any] | None = None


def task(
    classes: tuple[int, ...],
    images: int | tuple[int, int],
    *options: Mapping[str, Any],
    wrong: float = 0,
    **more: object,
) -> Task:
    """A Task; of classes of different sizes, `images` names those of the first and the last."""
    most, least = (images, images) if isinstance(images, int) else images
    return Task(classes, most, least, wrong, {name: value for part in (*options, more) for name, value in part.items()})


CASES = {
    "o1": Case(OVER, "5 images a class, no regularisation", task(ALL, 5, S, PLAIN, epochs=40)),
    "o2": Case(OVER, "10 images a class, a larger network", task(ALL, 10, M, PLAIN, epochs=30)),
    "o3": Case(OVER, "20 images a class, no regularisation", task(ALL, 20, S, PLAIN, epochs=30)),
    "o4": Case(OVER, "50 images a class, no regularisation", task(ALL, 50, S, PLAIN, epochs=25)),
    "o5": Case(OVER, "30 images a class, a dense network 4 times as wide",
         task(ALL, 30, BLOG, PLAIN, width=4, epochs=25)),
    "o6": Case(OVER, "50 images of classes that look alike", task(ALIKE, 50, BLOG, PLAIN, epochs=40)),
    "o7": Case(OVER, "20 % wrong labels, learned by heart", task(TWO, 250, S, PLAIN, wrong=0.2, epochs=25)),
    "o8": Case(OVER, "30 % wrong labels, learned by heart", task(FOUR, 100, S, PLAIN, wrong=0.3, epochs=25)),
    "o9": Case(OVER, "40 % wrong labels, learned by heart", task(ALL, 50, S, PLAIN, wrong=0.4, epochs=20)),
    "o10": Case(OVER, "200 to 10 images a class, class weights",
         task(ALIKE, (200, 10), S, PLAIN, imbalance="class-weights", epochs=20)),
    "u1": Case(UNDER, "one epoch", task(FOUR, 200, BLOG, epochs=1), {"epochs": 20}),
    "u2": Case(UNDER, "two epochs", task(ALL, 100, S, epochs=2), {"epochs": 20}),
    "u3": Case(UNDER, "one epoch, 300 to 30 images a class", task(THREE, (300, 30), BLOG, epochs=1), {"epochs": 20}),
    "u4": Case(UNDER, "a hundredth of the learning rate",
         task(FOUR, 200, BLOG, epochs=8, learning_rate=1e-5), {"learning_rate": 1e-3}),
    "u5": Case(UNDER, "a thousandth of the learning rate",
         task(ALL, 100, S, epochs=10, learning_rate=2e-6), {"learning_rate": 2e-3}),
    "u6": Case(UNDER, "width 0.05, depth 1",
         task(FOUR, 200, BLOG, epochs=20, width=0.05, depth=1), {"width": 1, "depth": 3}),
    "u7": Case(UNDER, "width 0.1, dropout 0.9",
         task(FOUR, 200, BLOG, epochs=20, width=0.1, dropout=0.9), {"width": 1, "dropout": 0.5}),
    "u8": Case(UNDER, "L1 of 1, far too strong", task(FOUR, 200, BLOG, epochs=20, l1=1.0), {"l1": 0}),
    "u9": Case(UNDER, "L2 of 100, far too strong", task(THREE, 200, BLOG, epochs=20, l2=100.0), {"l2": 1e-4}),
    "u10": Case(UNDER, "8 channels, 4 epochs", task(ALL, 100, S, epochs=4, width=0.05), {"epochs": 20, "width": 1}),
    "g1": Case(GOOD, "two classes, regularised", task(TWO, 400, S, epochs=16), {"epochs": 32}),
    "g2": Case(GOOD, "two classes, the tutorial's network", task(TWO, 400, BLOG, epochs=20), {"epochs": 40}),
    "g3": Case(GOOD, "900 to 200 images a class", task(TWO, (900, 200), S, epochs=16), {"epochs": 32}),
    "g4": Case(GOOD, "800 to 80 images a class, class weights",
         task(TWO, (800, 80), BLOG, imbalance="class-weights", epochs=20), {"epochs": 40}),
    "g5": Case(GOOD, "four classes, the tutorial's network", task(FOUR, 500, BLOG, epochs=24), {"epochs": 48}),
    "g6": Case(GOOD, "few images, augmented",
         task(TWO, 150, BLOG, augment="medium", batch_size=32, epochs=60), {"epochs": 120}),
    "g7": Case(GOOD, "a larger network, regularised", task(TWO, 300, M, epochs=12), {"epochs": 24}),
    "g8": Case(GOOD, "half as wide, three classes",
         task(THREE, 400, BLOG, width=0.5, batch_size=32, epochs=45), {"epochs": 90}),
    "g9": Case(GOOD, "20 % wrong labels, stopped before they are learned",
         task(TWO, 800, BLOG, {**PLAIN, "early_stopping": 8}, wrong=0.2, epochs=40), {"epochs": 80}),
    "g10": Case(GOOD, "20 % wrong labels, held back by dropout",
         task(TWO, 800, BLOG, wrong=0.2, epochs=12), {"epochs": 24}),
}  # fmt: skip


class Images:
    """The images of a folder, and which of them a seed trains on."""

    def __init__(self, data: Path, seed: int) -> None:
        self.seed = seed
        order = np.random.default_rng(20)
        self.files = list[list[Path]]()
        for folder in sorted(path for path in data.iterdir() if path.is_dir()):
            files = sorted(folder.iterdir())
            self.files.append([files[i] for i in order.permutation(len(files))])

    def of(self, wanted: Task) -> tuple[list[Path], list[int]]:
        """What to train on: paths and labels."""
        sizes = np.geomspace(wanted.most, wanted.least, len(wanted.classes)).round().astype(int)
        own = [
            self.files[c][:-LEFT_OUT][self.seed :: SEEDS][:size] for c, size in zip(wanted.classes, sizes, strict=True)
        ]
        return self._labelled(wanted, own)

    def left_out(self, wanted: Task) -> tuple[list[Path], list[int]]:
        """What to judge by: paths and labels."""
        size = min(LEFT_OUT, MOST_LEFT_OUT // len(wanted.classes))
        return self._labelled(wanted, [self.files[c][-size:] for c in wanted.classes])

    def _labelled(self, wanted: Task, files: list[list[Path]]) -> tuple[list[Path], list[int]]:
        """Paths and labels, of which the share `wrong` in each class is that of another class."""
        rng, labels = np.random.default_rng(self.seed), list[int]()
        for label, own in enumerate(files):
            given = np.full(len(own), label)
            flipped = rng.permutation(len(own))[: round(wanted.wrong * len(own))]
            given[flipped] = (label + rng.integers(1, len(files), len(flipped))) % len(files)
            labels += given.tolist()
        return [path for own in files for path in own], labels


def trained(wanted: Task, images: Images) -> dict[str, Any]:
    """What the report says of a training, and its curve."""
    with tempfile.TemporaryDirectory() as folder:
        paths, labels = images.of(wanted)
        run = steadylens.train(
            paths, labels, test=images.left_out(wanted), out=Path(folder, "run"), quiet=True, seed=images.seed,
            **wanted.options,
        )  # fmt: skip
        curve = [json.loads(line) for line in Path(run.folder, "metrics.jsonl").read_text("utf-8").splitlines()]
    kept = {name: run.report[name]["balanced_accuracy"] for name in ("validation", "test")}
    course = {name: run.report["training"][name] for name in ("best_epoch", "stopped", "seconds")}
    return {"train": run.report["diagnosis"]["train_balanced_accuracy"], **kept, **course, "curve": curve}


def diagnosed(got: Mapping[str, Any]) -> Diagnosis:
    """The diagnosis by the rules as they are now."""
    best = next(row for row in got["curve"] if row["epoch"] == got["best_epoch"])
    figure = got["validation"]
    return diagnose(
        got["curve"],
        best_epoch=got["best_epoch"],
        train=(got["train"], best["train_balanced_log_loss"]),
        validation=(figure["value"], best["validation_balanced_log_loss"]),
        margin=(figure["high"] - figure["low"]) / 2,
        stopped=got["stopped"],
    )


def confirmed(case: Case, got: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    """Whether the images that were left out say the same as how the case is made."""
    gap = got["train"] - got["test"]["value"]
    gain = 0.0 if other is None else other["test"]["value"] - got["test"]["value"]
    if case.truth == OVER:
        return bool(gap >= CLEAR_GAP)
    return bool(gain >= CLEAR_GAIN) if case.truth == UNDER else bool(gap <= SMALL_GAP and gain < SMALL_GAIN)


class Trainings:
    """Those that are done, and those still to do, each done once."""

    def __init__(self, images: Images, results: Path | None) -> None:
        self.images, self.results = images, results
        lines = results.read_text("utf-8").splitlines() if results and results.exists() else []
        self.done: dict[str, dict[str, Any]] = {row["name"]: row["got"] for row in map(json.loads, lines)}

    def of(self, wanted: Task) -> dict[str, Any]:
        """What a training came to."""
        name = wanted.name(self.images.seed)
        if name not in self.done:
            self.done[name] = trained(wanted, self.images)
            if self.results:
                with self.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"name": name, "got": self.done[name]}) + "\n")
        return self.done[name]


def judged(name: str, trainings: Trainings) -> tuple[str, bool | None]:
    """One line of the table; whether the verdict is right, None where the truth is not confirmed."""
    case = CASES[name]
    got = trainings.of(case.task)
    other = None
    if case.against is not None:
        other = trainings.of(replace(case.task, options={**case.task.options, **case.against}))
    said, sure = diagnosed(got), confirmed(case, got, other)
    right = (said.verdict == case.truth) if sure else None
    figures = (got["train"], got["validation"]["value"], said.gap, got["test"]["value"])
    shown = " | ".join(f"{100 * figure:.1f}" for figure in figures)
    against = "" if other is None else f"{100 * other['test']['value']:.1f}"
    answer = {True: "right", False: "**wrong**", None: "not confirmed"}[right]
    network = f"{case.task.options['network']}, {case.why}"
    return f"| {name} | {network} | {case.truth} | {shown} | {against} | {said.verdict} | {answer} |", right


def main() -> None:
    """Print the table and the counts."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("data", type=Path)
    words.add_argument("--seed", type=int, default=0, choices=range(SEEDS))
    words.add_argument("--results", type=Path)
    words.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    given = words.parse_args()
    print("| | made so | truth | training, % | validation, % | gap | left out, % | compared, % | verdict | |")
    print("|---|---|---|---|---|---|---|---|---|---|", flush=True)
    counts = {truth: [0, 0] for truth in (OVER, UNDER, GOOD)}
    with tempfile.TemporaryDirectory() as cache:
        os.environ["STEADYLENS_CACHE"] = cache
        trainings = Trainings(Images(given.data, given.seed), given.results)
        for name in given.only:
            line, right = judged(name, trainings)
            print(line, flush=True)
            if right is not None:
                counts[CASES[name].truth][0] += right
                counts[CASES[name].truth][1] += 1
    print("\n" + "; ".join(f"{truth}: {right} of {all_} right" for truth, (right, all_) in counts.items()))


if __name__ == "__main__":
    main()
