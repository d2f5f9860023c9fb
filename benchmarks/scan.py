#!/usr/bin/env python3
"""How long it takes to read the index of N images, and how much memory, from each form of source.

scan.py [N] [--forms folder manifest tar zip] [--classes 20]

The images are N hard links to 100 real ones: 32 x 32 JPEG crops of scikit-learn's two sample photographs. They are made
in a temporary folder, and each form is read by a process of its own, from the disk's cache. The peak is of the whole
process, and so is the processor's time, which tells more than the clock on a machine that does other things as well;
the first row is a process that only imports.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

MEASURE = """
import json, resource, sys, time
from steadylens.data.sources import read_index
begin = time.perf_counter()
read = len(read_index(sys.argv[1])) if len(sys.argv) > 1 else 0
seconds = time.perf_counter() - begin
print(json.dumps([read, seconds, time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def make_folder(root: Path, n: int, classes: int) -> list[Path]:
    """Link n images into class folders; returns their paths."""
    photos = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    corners = [(x, y) for x in range(0, 320, 32) for y in range(0, 160, 32)]
    crops = [photo.crop((x, y, x + 32, y + 32)) for photo in photos for x, y in corners]
    originals = root.with_name("originals")
    originals.mkdir()
    for number, crop in enumerate(crops):
        crop.save(originals / f"{number}.jpg")
    for label in range(classes):
        (root / f"class-{label:03d}").mkdir(parents=True)
    paths = [root / f"class-{number % classes:03d}" / f"{number:07d}.jpg" for number in range(n)]
    for number, path in enumerate(paths):
        path.hardlink_to(originals / f"{number % len(crops)}.jpg")
    return paths


def make_form(form: str, root: Path, paths: list[Path]) -> Path:
    """Write the source of one form."""
    target = root.with_name(f"images.{'csv' if form == 'manifest' else form}")
    if form == "folder":
        return root
    if form == "manifest":
        with target.open("w", newline="") as file:
            csv.writer(file).writerows([("path", "label"), *((path, path.parent.name) for path in paths)])
    elif form == "zip":
        with zipfile.ZipFile(target, "w") as zipped:
            for path in paths:
                zipped.write(path, path.relative_to(root))
    else:
        with tarfile.open(target, "w") as tar:
            for path in paths:  # by content: tar keeps hard links as links, which are refused
                content, member = path.read_bytes(), tarfile.TarInfo(str(path.relative_to(root)))
                member.size = len(content)
                tar.addfile(member, BytesIO(content))
                tar.members.clear()  # type: ignore[attr-defined] # it would keep them all
    return target


def measure(*source: Path) -> tuple[int, float, float, float]:
    """How many images were read, in how many seconds, of the processor too, and the peak memory in MB."""
    command = [sys.executable, "-c", MEASURE, *map(str, source)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True)
    images, seconds, processor_s, megabytes = json.loads(answer.stdout)
    return images, seconds, processor_s, megabytes


def main() -> None:
    """Make, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("n", type=int, nargs="?", default=100_000)
    parser.add_argument("--forms", nargs="+", default=["folder", "manifest", "tar", "zip"])
    parser.add_argument("--classes", type=int, default=20)
    a = parser.parse_args()
    print(f"{'form':<10}{'files':>10}{'seconds':>9}{'files/s':>9}{'CPU s':>9}{'peak MB':>9}")
    _, _, processor_s, megabytes = measure()
    print(f"{'(import)':<10}{0:>10}{'':>18}{processor_s:>9.1f}{megabytes:>9.0f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        paths = make_folder(root, a.n, a.classes)
        for form in a.forms:
            images, seconds, processor_s, megabytes = measure(make_form(form, root, paths))
            rate = images / seconds
            figures = f"{images:>10,}{seconds:>9.1f}{rate:>9,.0f}{processor_s:>9.1f}{megabytes:>9.0f}"
            print(f"{form:<10}{figures}", flush=True)


if __name__ == "__main__":
    main()
