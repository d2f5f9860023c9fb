#!/usr/bin/env python3
"""What choosing a recipe is worth: `auto`, some fixed recipes, random search and TPE, on six sets, from scratch.

choosing.py --cifar CIFAR --clothing FOLDER --trashnet FOLDER [--budget 10m] [--seeds 0] [--sets NAME ...]
            [--only NAME ...] [--results FILE.jsonl]

CIFAR holds train/ and test/. The six sets are long-tailed CIFAR-10 with imbalance 100 and 10, CIFAR-10 with 50 images a
class, CIFAR-10 with a fifth of the training labels drawn anew among the others, clothing, and TrashNet.

Every contender has the same wall time for everything, from reading the images on. A fixed recipe gives all that `auto`
would vary and trains one network. Random search and TPE (Optuna's, which must be installed; it is asked for one trial
after another) spend the time on equal trials of that space, all of them whole commands that share decoded images, and
answer with the trial whose balanced log-loss on validation images is lowest; its test figures are looked at only
once all trials are done. Commands run one after another, and --results keeps each finished one as a line of JSON, which
is not run again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from side_by_side import Figures, once, report_of, seconds_of, show, splits_of, test_figures

HERE = Path(__file__).parent
NOISE = 0.2  # share of labels that are drawn anew
TRIALS = 5  # of the two searches
# All that `auto` varies (`CHANGEABLE`), from the mildest to the strongest that its rules and its trials come to.
SPACE: dict[str, list[str]] = {
    "network": ["cnn-s", "cnn-m", "cnn-l"],
    "augment": ["light", "medium", "strong"],
    "mixup": ["0", "0.3", "0.5", "0.7"],
    "dropout": ["0", "0.2", "0.5"],
    "l2": ["0.5", "1", "2"],
    "minority-augment": ["off", "0.25", "0.5"],
}
MIDDLE = {"dropout": "0.2", "l2": "1", "minority-augment": "off"}
FIXED: dict[str, dict[str, str]] = {
    "tutorial": {
        "network": "keras-blog", "imbalance": "class-weights", "minority-augment": "0.5", "augment": "off",
        "mixup": "0", "dropout": "0.5", "l2": "0", "early-stopping": "5",
    },
    "small, light, no mixing": {"network": "cnn-s", "augment": "light", "mixup": "0", **MIDDLE},
    "small, light, 50 % mixed": {"network": "cnn-s", "augment": "light", "mixup": "0.5", **MIDDLE},
    "small, strong, 70 % mixed": {"network": "cnn-s", "augment": "strong", "mixup": "0.7", **MIDDLE},
    "medium, light, 50 % mixed": {"network": "cnn-m", "augment": "light", "mixup": "0.5", **MIDDLE},
    "medium, strong, 70 % mixed": {"network": "cnn-m", "augment": "strong", "mixup": "0.7", **MIDDLE},
}  # fmt: skip
ONE_NETWORK = ["--selection", "off", "--set", "members=1"]
Suggest = Callable[[list[float]], dict[str, str]]  # from the losses of all trials so far to the next recipe
SETS = ("LT-100", "LT-10", "500 images", "20 % wrong labels", "clothing", "TrashNet")
SEARCHES = ("random search", "TPE")


@contextmanager
def made(name: str, a: argparse.Namespace, seed: int) -> Iterator[Path]:
    """One of the six sets: a folder with train/ and test/, of links to images."""
    if name in ("clothing", "TrashNet"):
        with splits_of(a.clothing if name == "clothing" else a.trashnet) as data:
            yield data
    elif name == "500 images":
        with splits_of(a.cifar, 50, seed) as data:
            yield data
    else:
        with tempfile.TemporaryDirectory(dir=a.cifar.parent) as folder:  # hard links need the same disk
            root = Path(folder)
            shutil.copytree(a.cifar / "test", root / "test", copy_function=os.link)
            if name.startswith("LT-"):
                words = [str(a.cifar / "train"), str(root / "train"), "--imbalance", name[3:], "--seed", str(seed)]
                command = [sys.executable, str(HERE / "long_tail.py"), *words]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            else:
                with_wrong_labels(a.cifar / "train", root / "train", seed)
            yield root


def with_wrong_labels(source: Path, target: Path, seed: int) -> None:
    """The images of class folders, a share `NOISE` of them in the folder of another class."""
    rng = np.random.default_rng(seed)
    names = sorted(path.name for path in source.iterdir() if path.is_dir())
    for name in names:
        (target / name).mkdir(parents=True)
    for own, name in enumerate(names):
        for path in sorted((source / name).iterdir()):
            is_wrong = rng.random() < NOISE
            label = (own + rng.integers(1, len(names))) % len(names) if is_wrong else own
            (target / names[label] / f"{name}-{path.name}").hardlink_to(path)


def options(recipe: dict[str, str]) -> list[str]:
    """The words of a command that give a recipe, and with it one network."""
    return [*(word for name, value in recipe.items() for word in (f"--{name}", value)), *ONE_NETWORK]


def trained(data: Path, budget: str, seed: int, words: list[str]) -> Figures:
    """One whole `steadylens train`."""
    report = report_of(data, ["--budget", budget, "--seed", str(seed), *words])
    print(f"<!-- {report['selection']['chosen']}, {report['training']['epochs']} epochs -->", file=sys.stderr)
    return test_figures(report)


def searched(data: Path, budget: str, seed: int, sampler: Callable[[int], Suggest]) -> Figures:
    """The best by validation of `TRIALS` recipes, each suggested after the losses of those before it were told."""
    suggest = sampler(seed)
    losses: list[float] = []
    reports: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        for _ in range(TRIALS):
            words = ["--budget", f"{seconds_of(budget) / TRIALS:.0f}s", "--seed", str(seed), *options(suggest(losses))]
            reports.append(report_of(data, words, Path(cache)))
            losses.append(reports[-1]["validation"]["balanced_log_loss"]["value"])
    best = int(np.argmin(losses))
    print(f"<!-- trial {best + 1} of {losses}: {reports[best]['selection']['chosen']} -->", file=sys.stderr)
    return test_figures(reports[best])


def at_random(seed: int) -> Suggest:
    """Recipes drawn evenly from `SPACE`."""
    rng = np.random.default_rng(seed)
    return lambda _losses: {name: values[rng.integers(len(values))] for name, values in SPACE.items()}


def by_tpe(seed: int) -> Suggest:
    """Recipes that Optuna's sampler suggests, with its defaults but for fewer trials at random before it begins."""
    import optuna  # noqa: PLC0415 - no part of this project's environment

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=2))
    asked: list[Any] = []

    def suggest(losses: list[float]) -> dict[str, str]:
        if losses:
            study.tell(asked[-1], losses[-1])
        asked.append(study.ask())
        return {name: asked[-1].suggest_categorical(name, values) for name, values in SPACE.items()}

    return suggest


def contenders(data: Path, budget: str, seed: int) -> dict[str, Callable[[], Figures]]:
    """What is compared, by name."""
    run = partial(trained, data, budget, seed)
    searches = dict(zip(SEARCHES, (at_random, by_tpe), strict=True))
    return {
        "auto": partial(run, []),
        **{name: partial(run, options(recipe)) for name, recipe in FIXED.items()},
        **{name: partial(searched, data, budget, seed, sampler) for name, sampler in searches.items()},
    }


def summary(found: dict[str, dict[str, list[Figures]]]) -> None:
    """One row a contender: balanced accuracy on each set, its mean, and the mean rank among the contenders."""
    sets = list(found)
    names = list(found[sets[0]])
    of = {name: [100 * statistics.mean(f["balanced_accuracy"] for f in found[s][name]) for s in sets] for name in names}
    ranks = {name: [1 + sum(of[other][i] > of[name][i] for other in names) for i in range(len(sets))] for name in names}
    show("balanced accuracy, %", *sets, "mean", "mean rank")
    show(*["---"] * (len(sets) + 3))
    for name in names:
        means = (f"{statistics.mean(of[name]):.1f}", f"{statistics.mean(ranks[name]):.1f}")
        show(name, *(f"{value:.1f}" for value in of[name]), *means)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for folder in ("--cifar", "--clothing", "--trashnet"):
        parser.add_argument(folder, type=Path, required=True)
    parser.add_argument("--budget", default="10m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--only", nargs="+", choices=["auto", *FIXED, *SEARCHES], default=["auto", *FIXED, *SEARCHES])
    parser.add_argument("--results", type=Path)
    a = parser.parse_args()
    found: dict[str, dict[str, list[Figures]]] = {}
    for name in a.sets:
        of_set = found.setdefault(name, {})
        for seed in a.seeds:
            with made(name, a, seed) as data:
                for contender, run in contenders(data, a.budget, seed).items():
                    if contender in a.only:
                        figures = once(a.results, [name, contender, a.budget, seed], run)
                        of_set.setdefault(contender, []).append(figures)
    summary(found)


if __name__ == "__main__":
    main()
