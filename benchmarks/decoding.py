#!/usr/bin/env python3
"""How fast images become a store, beside a bare Pillow loop in two processes that promises nothing.

decoding.py FOLDER@SIZE... [--repeats 3]

For each folder of class folders and each size, the two take turns. The loop opens every file, lets the JPEG decoder
shrink it as far as `steadylens` lets it, resizes with the same filter and writes into one shared memory-mapped array.
It checks no content, refuses nothing, turns nothing, keeps nothing for the next run and does not wait for the disk.
`steadylens` is timed twice: from an index that is there (decode), and from the folder (read and decode: what the first
run of a training waits for). Ratios are of the medians, in images a second; above 1 is faster than the loop.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from steadylens.data.images import RESIZE_FILTERS
from steadylens.data.sources import read_index
from steadylens.data.store import decode

PROCESSES = 2


def bare_part(paths: tuple[str, ...], size: int, target: Path, first: int) -> None:
    """Every `PROCESSES`-th image, the bare way."""
    pixels = np.lib.format.open_memmap(target, mode="r+")
    for row in range(first, len(paths), PROCESSES):
        with Image.open(paths[row]) as image:
            image.draft("RGB", (2 * size, 2 * size))
            pixels[row] = np.asarray(image.convert("RGB").resize((size, size), RESIZE_FILTERS["bicubic"]))


def bare(paths: tuple[str, ...], size: int, folder: Path) -> float:
    """Seconds of the bare loop."""
    begin = time.perf_counter()
    target = folder / "pixels.npy"
    np.lib.format.open_memmap(target, mode="w+", dtype=np.uint8, shape=(len(paths), size, size, 3))
    fork = multiprocessing.get_context("fork")
    parts = [fork.Process(target=bare_part, args=(paths, size, target, first)) for first in range(PROCESSES)]
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    if any(part.exitcode for part in parts):
        raise SystemExit("the bare loop stopped at an image")
    return time.perf_counter() - begin


def ours(source: Path, size: int, cache: Path) -> tuple[float, float]:
    """Seconds of decoding, and of reading the folder and decoding."""
    begin = time.perf_counter()
    index = read_index(source)
    read = time.perf_counter()
    store = decode(index, size, cache=cache)
    end = time.perf_counter()
    if len(store.index) != len(index) or store.seconds == 0.0:
        raise SystemExit("images were refused, or found in a cache: nothing was measured")
    return end - read, end - begin


def compare(source: Path, size: int, repeats: int) -> str:
    """One row of the table."""
    paths = read_index(source).paths  # and every file is in the system's cache
    loop: list[float] = []
    decoding: list[float] = []
    whole: list[float] = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as folder:
            loop.append(bare(paths, size, Path(folder)))
        os.sync()
        with tempfile.TemporaryDirectory() as folder:
            seconds = ours(source, size, Path(folder))
            decoding.append(seconds[0])
            whole.append(seconds[1])
        os.sync()
    rates = [len(paths) / statistics.median(seconds) for seconds in (loop, decoding, whole)]
    return (
        f"| {source.name} at {size} px | {len(paths):,} | {rates[0]:,.0f} | {rates[1]:,.0f} | "
        f"**{rates[1] / rates[0]:.2f}** | {rates[2]:,.0f} | {rates[2] / rates[0]:.2f} |"
    )


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", metavar="FOLDER@SIZE")
    parser.add_argument("--repeats", type=int, default=3)
    a = parser.parse_args()
    print("| data | images | bare loop, images/s | decode, images/s | ratio | read and decode, images/s | ratio |")
    print("|---" * 7 + "|")
    for one in a.sets:
        folder, _, size = one.rpartition("@")
        print(compare(Path(folder), int(size), a.repeats), flush=True)


if __name__ == "__main__":
    main()
