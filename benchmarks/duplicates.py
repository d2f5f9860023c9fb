#!/usr/bin/env python3
"""Time, memory and precision of the search for near-duplicates.

duplicates.py speed SOURCE... [--sizes 12500 25000 50000 100000]
duplicates.py planted FOLDER [--image-size 32]

`speed` takes images from the folders of class folders, 32 px; what the largest size needs beyond them are lightly
changed copies, half cropped and half brightened. Where other work shares the machine, processor seconds, of all cores
together, tell more than seconds. Each size runs in a process of its own, whose peak memory is that of the whole search
with its pixels; "copies found" is the share of the copies that were tied to their original.

`planted` scores a folder made by planted.py: what was found of the near-duplicates and near leaks, and how many other
images were named (true near-duplicates of the source among them: look at them). Beside it stands the perceptual hash of
ImageHash, which has to be installed, for several distances.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steadylens.data.duplicates import find_near_duplicates
from steadylens.data.sources import index_arrays, read_index
from steadylens.data.store import cache_folder, decode


def copies_of(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Each image changed a little: cut by one or two of 32 pixels on each side, or 10 to 25 % brighter."""
    side = pixels.shape[1]
    changed = []
    for number, image in enumerate(pixels):
        if number % 2:
            changed.append((image * rng.uniform(1.1, 1.25)).clip(0, 255).astype(np.uint8))
        else:
            left, top, right, bottom = rng.integers(1, 3, 4)
            cut = Image.fromarray(image[top : side - bottom, left : side - right])
            changed.append(np.asarray(cut.resize((side, side), Image.Resampling.BICUBIC)))
    return np.array(changed)


def search(sources: list[Path], size: int) -> None:
    """One size, in this process; prints one line of the table."""
    pixels = np.concatenate([decode(read_index(source), 32, cache=cache_folder()).pixels for source in sources])
    rng = np.random.default_rng(0)
    pixels = pixels[rng.permutation(len(pixels))[:size]]
    originals = rng.permutation(len(pixels))[: size - len(pixels)]
    images = np.concatenate([pixels, copies_of(pixels[originals], rng)]) if len(originals) else pixels
    index = index_arrays(images, [str(row % 2) for row in range(len(images))])
    begin, busy = time.perf_counter(), time.process_time()
    clusters = find_near_duplicates(index, images).clusters
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    found = clusters[originals] == clusters[len(pixels) :]
    share = f"{found.mean():.2%} of {len(found):,}" if len(found) else "-"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    repeats = len(images) - len(np.unique(clusters))
    print(f"| {len(images):,} | {seconds:.0f} | {busy:.0f} | {peak:.2f} | {repeats:,} | {share} |")


def speed(a: argparse.Namespace) -> None:
    """Every size, one after another."""
    print("| images | seconds | processor seconds | peak memory, GB | images that repeat another | copies found |")
    print("|---|---|---|---|---|---|", flush=True)
    for size in a.sizes:
        command = [sys.executable, __file__, "search", *map(str, a.sources), "--size", str(size)]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


def planted(a: argparse.Namespace) -> None:
    """Recall by kind, and other pairs, of steadylens and of ImageHash."""
    index = read_index(a.folder)
    store = decode(index, a.image_size, cache=cache_folder())
    truth = json.loads(a.folder.with_name(f"{a.folder.name}-truth.json").read_text("utf-8"))
    row_of = {Path(path).relative_to(a.folder.resolve()).as_posix(): row for row, path in enumerate(store.index.paths)}
    entries = [e for e in truth["near_duplicates"] + truth["leaks"] if e["kind"] != "exact"]
    pairs = {tuple(sorted((row_of[e["original"]], row_of[e["copy"]]))): e["kind"] for e in entries}
    touched = {row for pair in pairs for row in pair}
    begin = time.perf_counter()
    near = find_near_duplicates(store.index, store.pixels)
    ours = {(min(pair), max(pair)) for pair in near.pairs.tolist()}
    print("| method | near-duplicates found | other images named | seconds |\n|---|---|---|---|")
    print(scored("steadylens", ours, pairs, touched, len(index), time.perf_counter() - begin))
    begin = time.perf_counter()
    theirs = by_hash(store.index.paths, store.index.sha256)
    seconds = time.perf_counter() - begin
    for most in (0, 2, 4, 6, 8):
        within = {pair for pair, distance in theirs.items() if distance <= most}
        print(scored(f"ImageHash phash, 64 bits, up to {most} apart", within, pairs, touched, len(index), seconds))


def scored(name: str, found: set[Any], pairs: dict[Any, str], touched: set[int], images: int, seconds: float) -> str:
    """One line: recall, and which images are named that nobody planted."""
    others = {row for pair in found - set(pairs) for row in pair} - touched
    recall = sum(pair in found for pair in pairs) / len(pairs)
    missed = [kind for pair, kind in pairs.items() if pair not in found]
    shown = ", ".join(f"{missed.count(kind)} {kind}" for kind in sorted(set(missed)))
    missing = f" (missed: {shown})" if missed else ""
    return (
        f"| {name} | {recall:.1%}{missing} | {len(others)} of {images} ({len(others) / images:.2%}) | {seconds:.0f} |"
    )


def by_hash(paths: tuple[str, ...], contents: tuple[str, ...]) -> dict[tuple[int, int], int]:
    """All pairs of different files whose 64-bit perceptual hashes are up to 8 bits apart, with that distance."""
    import imagehash  # noqa: PLC0415 - only this comparison needs it

    hashes = np.array([imagehash.phash(Image.open(path).convert("RGB")).hash.ravel() for path in paths], np.float32)
    pairs = {}
    for row, bits in enumerate(hashes):
        apart = np.abs(hashes[row + 1 :] - bits).sum(1)
        for other in np.flatnonzero(apart <= 8) + row + 1:
            if contents[row] != contents[other]:
                pairs[row, int(other)] = int(apart[other - row - 1])
    return pairs


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("speed")
    one.add_argument("sources", type=Path, nargs="+")
    one.add_argument("--sizes", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    one.set_defaults(run=speed)
    other = commands.add_parser("search")
    other.add_argument("sources", type=Path, nargs="+")
    other.add_argument("--size", type=int, required=True)
    other.set_defaults(run=lambda a: search(a.sources, a.size))
    third = commands.add_parser("planted")
    third.add_argument("folder", type=Path)
    third.add_argument("--image-size", type=int, default=32)
    third.set_defaults(run=planted)
    a = parser.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
