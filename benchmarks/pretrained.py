#!/usr/bin/env python3
"""Photographs with a pretrained backbone: steadylens beside a linear probe, a plain fine-tune and fastai.

pretrained.py table NAME=FOLDER... --weights FILE.safetensors [--sidecar FILE.json] [--budgets 60s 10m] [--seeds 0 1 2]
                [--fastai PYTHON] [--without sklearn timm]
pretrained.py curve FOLDER --weights FILE.safetensors [--sidecar FILE.json]
                 [--images 5 10 20] [--budget 5m] [--seeds 0 1 2]

FOLDER holds train/, test/ and perhaps validation/; or class folders, of which a stratified fifth (seed 0) is the test
split. All get the same weights, the same images and the same wall time: the peers train for the last of the budgets.
`sklearn` is LogisticRegression(class_weight="balanced") on features of the images squashed to the weights' own size.
PYTHON is the interpreter of an environment with `fastai timm safetensors scikit-learn`; without it fastai is left out.
Validation images are given to all, and none of the peers trains on them. Commands run one after another.

`curve` trains on so many images of each class, and shows the probe alone beside the whole of steadylens.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from sklearn.model_selection import train_test_split

PEER = Path(__file__).with_name("pretrained_peer.py")
Figures = dict[str, float]


@contextmanager
def splits_of(folder: Path, images: int | None = None, seed: int = 0) -> Iterator[Path]:
    """A folder with train/ and test/ (and validation/ where it is given), of links to a data set's images.

    `images` keeps so many training images of each class, drawn with `seed`, and no validation images.
    """
    rng = np.random.default_rng(seed)
    given = (folder / "train").is_dir()
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        parts = {name: folder / name for name in ("train", "validation", "test") if (folder / name).is_dir()}
        if not given:
            parts = {"train": folder}
        for split, source in parts.items():
            for members in sorted(path for path in source.iterdir() if path.is_dir()):
                files = sorted(path for path in members.iterdir() if path.is_file())
                kept = {split: files}
                if not given:
                    kept = dict(
                        zip(("train", "test"), train_test_split(files, test_size=0.2, random_state=0), strict=True)
                    )
                if images is not None:
                    chosen = rng.permutation(len(kept.get("train", [])))[:images]
                    kept = {name: [kept[name][i] for i in chosen] if name == "train" else kept[name] for name in kept}
                    kept.pop("validation", None)
                for name, some in kept.items():
                    (root / name / members.name).mkdir(parents=True, exist_ok=True)
                    for path in some:
                        (root / name / members.name / path.name).symlink_to(path.resolve())
        yield root


def ours(data: Path, words: list[str]) -> Figures:
    """One whole `steadylens train` with a cache of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "steadylens.cli", "train", str(data), "--out", f"{folder}/run", *words]
        environment = {**os.environ, "STEADYLENS_CACHE": f"{folder}/cache"}
        begin = time.perf_counter()
        answer = subprocess.run(
            [*command, "--json", "--quiet"], check=True, stdout=subprocess.PIPE, text=True, env=environment
        )
        seconds = time.perf_counter() - begin
    report = json.loads(answer.stdout)
    about = report["training"]["pretrained"]
    print(f"<!-- {' '.join(words)}: {about}; {report['selection']['why']} {report['timing']} -->", file=sys.stderr)
    return {
        "balanced_accuracy": report["test"]["balanced_accuracy"]["value"],
        "worst_class_recall": report["test"]["worst_class_recall"]["value"],
        "balanced_log_loss": report["test"]["balanced_log_loss"]["value"],
        "seconds": seconds,
        "blend": about["blend"],
    }


def peer(python: str, kind: str, data: Path, a: argparse.Namespace, seconds: float, seed: int) -> Figures:
    """One run of a peer."""
    words = [kind, str(data), "--weights", str(a.weights), "--sidecar", str(a.sidecar), "--seconds", str(seconds)]
    begin = time.perf_counter()
    answer = subprocess.run(
        [python, str(PEER), *words, "--seed", str(seed)], check=True, stdout=subprocess.PIPE, text=True
    )
    result: Figures = json.loads(answer.stdout.splitlines()[-1])
    return {**result, "seconds": time.perf_counter() - begin}


def show(*cells: object) -> None:
    """Print one row."""
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def row(name: str, results: list[Figures]) -> None:
    """Mean and each seed's figure of what was measured."""
    shown = []
    for key in ("balanced_accuracy", "worst_class_recall"):
        values = [100 * r[key] for r in results]
        each = f" ({', '.join(f'{v:.1f}' for v in values)})" if len(values) > 1 else ""
        shown.append(f"{statistics.mean(values):.1f}{each}")
    loss = statistics.mean(r["balanced_log_loss"] for r in results)
    show(name, *shown, f"{loss:.3f}", f"{statistics.mean(r['seconds'] for r in results):.0f}")


def weights_of(a: argparse.Namespace) -> list[str]:
    """The options that give our command the weights."""
    return ["--weights", str(a.weights), "--sidecar", str(a.sidecar)]


def seconds_of(budget: str) -> float:
    """A budget such as 90s or 10m in seconds."""
    return float(budget[:-1]) * {"s": 1, "m": 60, "h": 3600}[budget[-1]]


def table(a: argparse.Namespace) -> None:
    """All contenders on each data set."""
    longest = seconds_of(a.budgets[-1])
    for named in a.data:
        name, _, folder = named.partition("=")
        print(f"\n{name}\n")
        show("", "balanced accuracy, %", "worst-class recall, %", "balanced log-loss", "seconds")
        show(*["---"] * 5)
        with splits_of(Path(folder)) as data:
            for budget in a.budgets:
                words = ["--budget", budget, *weights_of(a)]
                row(f"steadylens --budget {budget}", [ours(data, [*words, "--seed", str(s)]) for s in a.seeds])
            if "sklearn" not in a.without:
                row("sklearn linear probe", [peer(sys.executable, "sklearn", data, a, longest, 0)])
            if "timm" not in a.without:
                row("plain timm fine-tune", [peer(sys.executable, "timm", data, a, longest, s) for s in a.seeds])
            if a.fastai:
                row("fastai fine_tune", [peer(a.fastai, "fastai", data, a, longest, s) for s in a.seeds])


def curve(a: argparse.Namespace) -> None:
    """The probe and the whole, by the number of training images of each class."""
    show("images a class", "probe, balanced accuracy, %", "steadylens", "difference", "fine-tuned in")
    show(*["---"] * 5)
    for images in a.images:
        probe, whole = [], []
        for seed in a.seeds:
            with splits_of(Path(a.data), images, seed) as data:
                words = ["--budget", a.budget, "--seed", str(seed), *weights_of(a)]
                probe.append(ours(data, [*words, "--set", "transfer=probe"]))
                whole.append(ours(data, words))
        means = [100 * statistics.mean(r["balanced_accuracy"] for r in some) for some in (probe, whole)]
        blended = f"{sum(r['blend'] > 0 for r in whole)} of {len(whole)}"
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
        command.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    a = parser.parse_args()
    a.sidecar = a.sidecar or a.weights.with_suffix(".json")
    a.run(a)


if __name__ == "__main__":
    main()
