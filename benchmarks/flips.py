#!/usr/bin/env python3
"""Which images are mirrored in training: what nearest neighbours recognise of digits, letters, signs and photographs.

flips.py [NAME=FOLDER ...] [--seeds 0 1 2 3]

Handwritten digits are scikit-learn's; capital and small letters are drawn with the fonts that come with matplotlib, and
of the four signs, drawn in noise, two are symmetric and two point to one side. A FOLDER is what `steadylens train`
takes. Each set is split anew with each seed into validation images and up to 2,000 others.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits

from side_by_side import show
from steadylens.data.batches import LabelledPixels
from steadylens.data.sources import read_index
from steadylens.data.store import decode
from steadylens.training.flips import choose_flip

SIDE = 32
VALIDATION = (50, 150, 500)
LETTERS = "ABCDEFGHJKLNPQRSbdpqz"
Labelled = tuple[NDArray[np.uint8], NDArray[np.int64], list[str]]


def digits() -> Labelled:
    """1,797 handwritten digits of 8 by 8 pixels."""
    data = load_digits()
    grey = (data.images * 15).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3), data.target.astype(np.int64), [str(digit) for digit in range(10)]


def letters() -> Labelled:
    """60 of each of `LETTERS`, of several fonts, sizes and places, bright on dark."""
    rng = np.random.default_rng(0)
    fonts = sorted((Path(mpl.get_data_path()) / "fonts" / "ttf").glob("DejaVuS*.ttf"))
    fonts = [font for font in fonts if "Display" not in font.name]
    drawn = []
    for letter in LETTERS * 60:
        image = Image.new("L", (SIDE, SIDE), int(rng.integers(0, 60)))
        font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(18, 26)))
        place = int(rng.integers(2, 12)), int(rng.integers(0, 8))
        ImageDraw.Draw(image).text(place, letter, font=font, fill=int(rng.integers(150, 255)))
        drawn.append(np.asarray(image.convert("RGB")))
    return np.stack(drawn), np.arange(len(drawn)) % len(LETTERS), list(LETTERS)


def signs() -> Labelled:
    """300 each of bars across and down, and of bars across that end in a bar to the left or to the right."""
    rng = np.random.default_rng(0)
    labels = np.arange(1200) % 4
    pixels = rng.integers(0, 100, (len(labels), SIDE, SIDE, 3))
    pixels[labels != 1, 14:18] += 120
    pixels[labels == 1, :, 14:18] += 120
    pixels[labels == 2, 6:26, :5] += 120
    pixels[labels == 3, 6:26, -5:] += 120
    return pixels.clip(max=255).astype(np.uint8), labels, ["across", "down", "left", "right"]


def images_of(folder: Path) -> Labelled:
    """All images of a folder, as a training reads and decodes them."""
    with tempfile.TemporaryDirectory() as cache:
        store = decode(read_index(folder), SIDE, cache=Path(cache))
        return np.array(store.pixels), store.index.labels, list(store.index.classes)


def asked(data: Labelled, validation: int, seeds: list[int]) -> Iterator[tuple[bool, float, str]]:
    """With each seed: whether to mirror, which part of what is recognised still is, and the whole reason."""
    pixels, labels, classes = data
    for seed in seeds:
        order = np.random.default_rng(seed).permutation(len(labels))
        parts = order[validation : validation + 2000], order[:validation]
        train, unseen = (LabelledPixels(pixels, rows, labels[rows]) for rows in parts)
        mirror, why = choose_flip("auto", "light", minority=False, train=train, validation=unseen, classes=classes)
        plain, still = map(int, re.findall(r"(\d+)%", why))
        yield mirror, still / plain, why


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="NAME=FOLDER")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3])
    a = parser.parse_args()
    sets: dict[str, Labelled] = {"digits": digits(), "letters": letters(), "signs": signs()}
    sets |= {name: images_of(Path(folder)) for name, folder in (one.split("=", 1) for one in a.sets)}
    show("set", "validation images", "still recognised of those recognised", "mirrored", "taken for another")
    show(*["---"] * 5)
    for name, data in sets.items():
        for size in VALIDATION:
            runs = list(asked(data, size, a.seeds))
            shares = [share for _, share, _ in runs]
            taken = sorted({why.split("mirrored images of ")[1] for _, _, why in runs if "mirrored images of" in why})
            count = f"{sum(mirror for mirror, _, _ in runs)} of {len(runs)}"
            show(name, size, f"{min(shares):.2f} to {max(shares):.2f}", count, ", ".join(taken))


if __name__ == "__main__":
    main()
