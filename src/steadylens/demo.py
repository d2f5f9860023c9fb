"""`steadylens demo`: real handwritten digits, made long-tailed, by a plain recipe and by the balanced one.

The images are the test set of the UCI "Optical Recognition of Handwritten Digits" data (Alpaydin & Kaynak 1998), which
comes with scikit-learn: 1,797 digits of 8 x 8 pixels.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from steadylens import files, pipeline
from steadylens.config import parse
from steadylens.console import Console
from steadylens.data.sources import read_index
from steadylens.report.run_folder import claim, free_name

IMBALANCE = 40.0  # the digit 0 keeps 120 images to learn from, 9 keeps 3
MOST_TRAINING_IMAGES = 120  # of each class; the rest, about 60 a class, is the balanced test set
EPOCHS = 30
NAMES = tuple("0123456789")
RECIPES: dict[str, dict[str, Any]] = {
    "plain": {"imbalance": "none", "minority_augment": "off"},
    "balanced": {"imbalance": "logit-adjust", "minority_augment": 0.5},
}
COMMON: dict[str, Any] = {"network": "keras-blog", "augment": "light", "dropout": 0.0}


@dataclass(frozen=True)
class Outcome:
    """What the demo showed: report.json of each run, by the recipe's name."""

    folder: Path
    runs: Mapping[str, pipeline.Run]

    def as_dict(self) -> dict[str, Any]:
        """Headline figures of each recipe, and where its report is."""
        return {
            name: {
                "report": str(run.folder / "report.html"),
                "balanced_accuracy": run.report["test"]["balanced_accuracy"],
                "worst_class_recall": run.report["test"]["worst_class_recall"],
                "worst_class": run.report["test"]["worst_class"],
            }
            for name, run in self.runs.items()
        }

    def text(self) -> str:
        """A table of recall by class, plain beside balanced, and what to do next."""
        plain, balanced = (self.runs[name].report for name in RECIPES)
        lines = [f"{'class':<22}{'training images':>16}{'plain':>10}{'balanced':>10}   recall on test images"]
        for one, other in zip(plain["test"]["per_class"], balanced["test"]["per_class"], strict=True):
            seen = plain["data"]["splits"]["train"][one["class"]]
            lines.append(f"{one['class']:<22}{seen:>16}{one['recall']:>10.0%}{other['recall']:>10.0%}")
        lines.append("")
        for name in ("balanced_accuracy", "worst_class_recall"):
            figures = [report["test"][name] for report in (plain, balanced)]
            shown = "".join(f"{figure['value']:>10.1%}" for figure in figures)
            lines.append(f"{name.replace('_', ' '):<38}{shown}")
        run, images = self.runs["balanced"].folder, self.folder / "digits"
        return "\n".join(
            [
                *lines,
                "",
                f"Look at   {run / 'report.html'}",
                f"Then try  {shlex.join(['steadylens', 'predict', str(run), str(images / 'test' / '9')])}",
                "     and  steadylens train YOUR_FOLDER --budget 5m      (one folder of images for each class)",
            ]
        )


def run(out: Path | None, console: Console) -> Outcome:
    """Write the digits as an image folder, and train both recipes on it with the same network, epochs and seed."""
    folder = out or free_name(Path("steadylens-demo"))
    claim(folder)
    console.say(f"Writing handwritten digits, made long-tailed, to {folder / 'digits'}")
    _write_digits(folder / "digits")
    runs = {}
    for name, options in RECIPES.items():
        console.say(f"\nTraining the {name} recipe")
        asked = {**COMMON, **options, "epochs": EPOCHS}
        words = [word for key, value in asked.items() for word in ("--set", f"{key}={value}")]
        runs[name] = pipeline.train(
            lambda advance: read_index(folder / "digits", advance=advance),
            folder / name,
            parse(asked),
            command=shlex.join(["steadylens", "train", str(folder / "digits"), *words]),
            console=console,
        )
    return Outcome(folder, runs)


def _write_digits(folder: Path) -> None:
    digits = load_digits()
    images, labels = digits.images, digits.target
    for label, name in enumerate(NAMES):
        rows = np.flatnonzero(labels == label)
        kept = int(MOST_TRAINING_IMAGES * (1 / IMBALANCE) ** (label / (len(NAMES) - 1)))
        # Every class is tested on the same kind of images: those after the first 120, in the order of the writers.
        for part, chosen in (("train", rows[:kept]), ("test", rows[MOST_TRAINING_IMAGES:])):
            files.make_folder(folder / part / name)
            for row in chosen:
                files.write_bytes(folder / part / name / f"{row:04d}.png", _png(images[row]))


def _png(image: NDArray[np.float64]) -> bytes:
    """A digit of values 0 to 16 as a grey PNG."""
    buffer = io.BytesIO()
    Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
