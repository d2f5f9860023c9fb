#!/usr/bin/env python3
"""Plant known faults in a sample of a folder of class folders, to see what an audit finds of them.

planted.py SOURCE TARGET [--images 5000] [--seed 0]

Nine tenths of the sample become TARGET/train, the rest TARGET/test, under names that tell nothing. Then come, each from
another image of train: 100 exact duplicates in train; 100 near-duplicates in train, 25 of each kind (see `KINDS`); 50
leaks, copies in test, half of them exact and half near. Last, 5 % of the labels in train are flipped: as many images
that have no copy are moved to another class, each with the same chance. TARGET-truth.json, beside TARGET, lists it all,
with paths relative to TARGET.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance

EXACT, NEAR, LEAKS, FLIPPED = 100, 100, 50, 0.05


def reencode(image: Image.Image, _rng: random.Random) -> Image.Image:
    """The image as it is; that it is re-encoded is in how it is saved."""
    return image


def resize(image: Image.Image, rng: random.Random) -> Image.Image:
    """Another size, 3/4 to 3/2 of the old one: 24 to 48 px of 32."""
    factor = rng.choice([rng.uniform(0.75, 0.95), rng.uniform(1.05, 1.5)])
    return image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.BICUBIC)


def crop(image: Image.Image, rng: random.Random) -> Image.Image:
    """One or two pixels in 32 less on each side."""
    left, top, right, bottom = (rng.randint(1, 2) for _ in range(4))
    x, y = image.width / 32, image.height / 32
    box = (left * x, top * y, image.width - right * x, image.height - bottom * y)
    return image.crop(tuple(round(side) for side in box))  # type: ignore[arg-type]


def brighten(image: Image.Image, rng: random.Random) -> Image.Image:
    """10 to 25 % brighter; what exceeds white is white."""
    return ImageEnhance.Brightness(image).enhance(rng.uniform(1.10, 1.25))


KINDS: dict[str, tuple[Callable[[Image.Image, random.Random], Image.Image], int]] = {  # with the JPEG quality
    "re-encoded": (reencode, 60),
    "resized": (resize, 95),
    "cropped": (crop, 95),
    "brightened": (brighten, 95),
}


class Names:
    """Names for files that say nothing about where they come from."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.taken: set[str] = set()

    def fresh(self, suffix: str) -> str:
        """A name that was not given before."""
        while (name := f"{self.rng.getrandbits(32):08x}{suffix}") in self.taken:
            pass
        self.taken.add(name)
        return name


def sample(source: Path, target: Path, images: int, rng: random.Random, names: Names) -> tuple[list[Path], list[Path]]:
    """Copy images drawn from all classes together; returns the files of train and of test."""
    drawn = rng.sample(sorted(path for path in source.glob("*/*") if path.is_file()), images)
    made: tuple[list[Path], list[Path]] = ([], [])
    for i, path in enumerate(drawn):
        in_test = i >= images - images // 10
        folder = target / ("test" if in_test else "train") / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        made[in_test].append(folder / names.fresh(path.suffix))
        shutil.copyfile(path, made[in_test][-1])
    return made


def plant(original: Path, split: str, kind: str, rng: random.Random, names: Names) -> Path:
    """Put an exact or a near copy into a split, in the class of its original."""
    copy = original.parents[2] / split / original.parent.name / names.fresh(original.suffix)
    if kind == "exact":
        shutil.copyfile(original, copy)
    else:
        change, quality = KINDS[kind]
        with Image.open(original) as image:
            change(image.convert("RGB"), rng).save(copy, format="JPEG", quality=quality)
    return copy


def flip(path: Path, classes: list[str], rng: random.Random) -> Path:
    """Move an image into a class where it does not belong."""
    wrong = rng.choice([name for name in classes if name != path.parent.name])
    return path.rename(path.parents[1] / wrong / path.name)


def make(source: Path, target: Path, images: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """Sample and plant; returns the truth."""
    rng = random.Random(seed)  # noqa: S311 - a choice of images, not a secret
    names = Names(rng)
    train, _ = sample(source, target, images, rng, names)
    classes = sorted(folder.name for folder in (target / "train").iterdir())
    originals = rng.sample(train, EXACT + NEAR + LEAKS + round(FLIPPED * (len(train) + EXACT + NEAR)))
    near_kinds = list(KINDS) * (NEAR // len(KINDS))
    leak_kinds = ["exact"] * (LEAKS // 2) + (list(KINDS) * LEAKS)[: LEAKS - LEAKS // 2]
    copies = [("train", kind) for kind in ["exact"] * EXACT + near_kinds] + [("test", kind) for kind in leak_kinds]
    truth: dict[str, list[dict[str, Any]]] = {"exact_duplicates": [], "near_duplicates": [], "leaks": [], "flipped": []}

    def shown(path: Path) -> str:
        return path.relative_to(target).as_posix()

    for original, (split, kind) in zip(originals, copies, strict=False):
        copy = plant(original, split, kind, rng, names)
        what = "leaks" if split == "test" else "exact_duplicates" if kind == "exact" else "near_duplicates"
        truth[what].append({"original": shown(original), "copy": shown(copy), "kind": kind})
    for original in originals[len(copies) :]:
        moved = flip(original, classes, rng)
        truth["flipped"].append({"path": shown(moved), "given": moved.parent.name, "true": original.parent.name})
    return truth


def main() -> None:
    """Parse, plant, write the truth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args()
    if a.target.exists():
        parser.error(f"{a.target} exists already")
    truth = make(a.source, a.target, a.images, a.seed)
    path = a.target.with_name(f"{a.target.name}-truth.json")
    path.write_text(json.dumps(truth, indent=2) + "\n", encoding="utf-8")
    print(", ".join(f"{len(found)} {what.replace('_', ' ')}" for what, found in truth.items()), "in", path)


if __name__ == "__main__":
    main()
