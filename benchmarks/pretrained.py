#!/usr/bin/env python3
"""Photographs with a pretrained backbone: steadylens beside a linear probe, a plain fine-tune and fastai.

pretrained.py table NAME=FOLDER... --weights FILE.safetensors [--sidecar FILE.json] [--budgets 60s 10m] [--seeds 0 1 2]
                [--fastai PYTHON] [--without steadylens "at hand" sklearn timm] [--results FILE.jsonl]
pretrained.py curve FOLDER --weights FILE.safetensors [--sidecar FILE.json]
                 [--images 5 10 20] [--budget 5m] [--seeds 0 1 2] [--results FILE.jsonl]

FOLDER holds train/, test/ and perhaps validation/; or class folders, of which a stratified fifth (seed 0) is the test
split. All get the same weights, the same images and the same wall time.
`at hand` is steadylens that finds the weights by itself, as in the hub's cache, and may try networks from scratch
beside them. `sklearn` is LogisticRegression(class_weight="balanced") on features of the images squashed to the weights'
own size.
PYTHON is the interpreter of an environment with `fastai timm safetensors scikit-learn`; without it fastai is left out.
Validation images are given to all, and none of the peers trains on them. Commands run one after another. The peers run
with glibc told to keep its memory, which is faster for large batches on a processor.

--results keeps each finished run as a line of JSON, and what is in it already is not run again. `elsewhere` in it is
how many processors other programs kept busy meanwhile, those of low priority left out.

`curve` trains on so many images of each class, and shows the probe alone beside the whole of steadylens.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from side_by_side import OURS, Figures, last_line, once, report_of, row, seconds_of, show, splits_of, test_figures

PEER = Path(__file__).with_name("pretrained_peer.py")
AT_HAND = Path(__file__).with_name("at_hand.py")


def ours(data: Path, words: list[str], program: Sequence[str] = OURS) -> Figures:
    """One whole `steadylens train`."""
    report = report_of(data, words, program=program)
    about = report["training"]["pretrained"] or {"blend": 0.0}  # None where a network from scratch was kept
    print(f"<!-- {' '.join(words)}: {about}; {report['selection']['why']} {report['timing']} -->", file=sys.stderr)
    return test_figures(report) | {"blend": about["blend"]}


def peer(python: str, kind: str, data: Path, a: argparse.Namespace, seconds: float, seed: int) -> Figures:
    """One run of a peer."""
    words = [kind, str(data), "--weights", str(a.weights), "--sidecar", str(a.sidecar), "--seconds", str(seconds)]
    return last_line([python, str(PEER), *words, "--seed", str(seed)], {})


def weights_of(a: argparse.Namespace) -> list[str]:
    """The options that give our command the weights."""
    return ["--weights", str(a.weights), "--sidecar", str(a.sidecar)]


def table(a: argparse.Namespace) -> None:
    """All contenders on each data set, first with one seed, then with the next."""
    for named in a.data:
        name, _, folder = named.partition("=")
        with splits_of(Path(folder)) as data:
            found: dict[str, list[Figures]] = {}
            for seed in a.seeds:
                for budget in a.budgets:
                    for contender, run in contenders(a, data, budget, seed).items():
                        key = [name, contender, budget, seed]
                        found.setdefault(f"{contender}, {budget}", []).append(once(a.results, key, run))
        print(f"\n{name}\n")
        show("", "balanced accuracy, %", "worst-class recall, %", "balanced log-loss", "seconds")
        show(*["---"] * 5)
        for title in sorted(found, key=lambda title: a.budgets.index(title.rpartition(" ")[2])):
            row(title, found[title])


def contenders(a: argparse.Namespace, data: Path, budget: str, seed: int) -> dict[str, Callable[[], Figures]]:
    """What is compared, by name; the linear probe does not depend on seed or time."""
    timed = ["--budget", budget, "--seed", str(seed)]
    found = [str(AT_HAND), str(a.weights), str(a.sidecar)]
    runs: dict[str, Callable[[], Figures]] = {
        "steadylens": partial(ours, data, [*timed, *weights_of(a)]),
        "at hand": partial(ours, data, timed, found),
    }
    pythons = {"timm": sys.executable, "sklearn": sys.executable, "fastai": a.fastai}
    for kind, python in pythons.items():
        if python and (kind != "sklearn" or (seed == a.seeds[0] and budget == a.budgets[0])):
            runs[kind] = partial(peer, python, kind, data, a, seconds_of(budget), seed)
    return {name: run for name, run in runs.items() if name not in a.without}


def curve(a: argparse.Namespace) -> None:
    """The probe and the whole, by the number of training images of each class."""
    show("images a class", "probe, balanced accuracy, %", "steadylens", "difference", "fine-tuned in")
    show(*["---"] * 5)
    for images in a.images:
        kinds: dict[str, list[Figures]] = {"probe": [], "whole": []}
        for seed in a.seeds:
            with splits_of(Path(a.data), images, seed) as data:
                words = ["--budget", a.budget, "--seed", str(seed), *weights_of(a)]
                for kind, more in (("probe", ["--set", "transfer=probe"]), ("whole", [])):
                    key = [a.data, f"{images} images a class, {kind}", a.budget, seed]
                    kinds[kind].append(once(a.results, key, partial(ours, data, [*words, *more])))
        means = [100 * statistics.mean(r["balanced_accuracy"] for r in some) for some in kinds.values()]
        blended = f"{sum(r['blend'] > 0 for r in kinds['whole'])} of {len(kinds['whole'])}"
        show(images, f"{means[0]:.1f}", f"{means[1]:.1f}", f"{means[1] - means[0]:+.1f}", blended)


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one, other = commands.add_parser("table"), commands.add_parser("curve")
    one.add_argument("data", nargs="+")
    one.add_argument("--budgets", nargs="+", default=["60s", "10m"])
    one.add_argument("--fastai")
    one.add_argument("--without", nargs="+", default=[])
    one.set_defaults(run=table)
    other.add_argument("data")
    other.add_argument("--images", type=int, nargs="+", default=[5, 10, 20])
    other.add_argument("--budget", default="5m")
    other.set_defaults(run=curve)
    for command in (one, other):
        command.add_argument("--weights", type=Path, required=True)
        command.add_argument("--sidecar", type=Path)
        command.add_argument("--results", type=Path)
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    a = parser.parse_args()
    a.sidecar = a.sidecar or a.weights.with_suffix(".json")
    a.run(a)


if __name__ == "__main__":
    main()
