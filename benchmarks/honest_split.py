#!/usr/bin/env python3
"""What a random split hides where every scene was photographed several times.

honest_split.py SOURCE... [--photos 800] [--epochs 12] [--seeds 0 1 2] [--network cnn-s] [--image-size 32]

Of each SOURCE, a folder of class folders, `--photos` are drawn. Each becomes four to six frames, as a camera that is
held for a second takes them: cut by up to 4 % on each side, 10 % darker or brighter, saved as JPEG of quality 60 to 95.
The same recipe is trained on the frames twice: with a random split of the frames (75 %, 10 %, 15 %) given as train/,
validation/ and test/, and with the split that steadylens cuts. Both are then measured on the photos that were not
drawn. All scores are balanced accuracy; a row is a mean over the seeds, which draw the photos, frames and split too.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image, ImageEnhance

FRAME_SIDE = 96  # pixels of the longer side


def frame(photo: Image.Image, rng: random.Random) -> Image.Image:
    """The photo as the next frame of a film would show it."""
    width, height = photo.size
    left, top, right, bottom = (rng.uniform(0, 0.04) for _ in range(4))
    cut = photo.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )
    return ImageEnhance.Brightness(cut).enhance(rng.uniform(0.9, 1.1))


def opened(path: Path) -> Image.Image:
    """The photo, small."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((2 * FRAME_SIDE, 2 * FRAME_SIDE))
    return small


def save(image: Image.Image, path: Path, quality: int) -> None:
    """Write a JPEG of the size of a frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = image.copy()
    image.thumbnail((FRAME_SIDE, FRAME_SIDE))
    image.save(path, format="JPEG", quality=quality)


def make(source: Path, folder: Path, photos: int, seed: int) -> None:
    """Write folder/scenes (no splits), folder/random (the same frames, split at random) and folder/new."""
    rng = random.Random(seed)  # noqa: S311 - a choice of images, not a secret
    found = rng.sample(every := sorted(path for path in source.glob("*/*") if path.is_file()), len(every))
    for number, path in enumerate(found):
        name = path.parent.name
        photo = opened(path)
        if number >= photos:
            save(photo, folder / "new" / name / f"{number}.jpg", 95)
            continue
        for _ in range(rng.randint(4, 6)):
            file = f"{rng.getrandbits(48):012x}.jpg"
            save(frame(photo, rng), folder / "scenes" / name / file, rng.randint(60, 95))
            split = rng.choices(("train", "validation", "test"), (75, 10, 15))[0]
            target = folder / "random" / split / name / file
            target.parent.mkdir(parents=True, exist_ok=True)
            target.hardlink_to(folder / "scenes" / name / file)


def steadylens(*words: object) -> dict[str, Any]:
    """What a command says."""
    command = [sys.executable, "-m", "steadylens", *map(str, words), "--json", "--quiet"]
    answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return answer


def measure(data: Path, new: Path, out: Path, options: list[str]) -> tuple[float, float, dict[str, Any]]:
    """Train; returns the score on its own test split, the score on new photos, and what the audit said of the data."""
    report = steadylens("train", data, "--out", out, *options)
    score = steadylens("evaluate", out, new)["balanced_accuracy"]["value"]
    return 100 * report["test"]["balanced_accuracy"]["value"], 100 * score, report["data"]


def show(source: str, split: str, results: list[tuple[float, float, dict[str, Any]]]) -> None:
    """One line of the table."""
    own, new = [result[0] for result in results], [result[1] for result in results]
    gaps = [a - b for a, b in zip(own, new, strict=True)]
    leaks = statistics.mean(result[2]["leakage"] for result in results)
    spread = [f"{statistics.mean(x):5.1f} ± {statistics.stdev(x) if len(x) > 1 else 0:3.1f}" for x in (own, new, gaps)]
    print(f"| {source} | {split} | {' | '.join(spread)} | {leaks:.0f} |", flush=True)


def main() -> None:
    """Parse, make, train, print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path, nargs="+")
    parser.add_argument("--photos", type=int, default=800)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--network", default="cnn-s")
    parser.add_argument("--image-size", type=int, default=32)
    a = parser.parse_args()
    print("| photos | split | its test split | new photos | too good by | leaks that the audit names |")
    print("|---|---|---|---|---|---|", flush=True)
    for source in a.sources:
        results: dict[str, list[tuple[float, float, dict[str, Any]]]] = {"random": [], "steadylens": []}
        for seed in a.seeds:
            options = ["--network", a.network, "--image-size", str(a.image_size), "--epochs", str(a.epochs)]
            with tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                make(source, folder, a.photos, seed)
                for split, data in (("random", "random"), ("steadylens", "scenes")):
                    words = [*options, "--seed", str(seed)]
                    results[split].append(measure(folder / data, folder / "new", folder / f"{split}-run", words))
        for split, found in results.items():
            show(source.name, split, found)


if __name__ == "__main__":
    main()
