#!/usr/bin/env python3
"""A whole `steadylens train` on decoded images several times larger than the memory that the process may use.

larger_than_memory.py [--store-gb 3.2] [--spare-gb 1.0] [--image-size 224] [--folder DIR] [--options "--epochs 1"]

The limit is RLIMIT_DATA: the kernel refuses every byte of private, writable memory beyond it, resident or not, which
is what a copy of the images would be made of. It does not count the store, whose pages are mapped from a file and
which the kernel may drop and read again at any time, as it does when memory is short. So a machine that has as much
memory as the limit plus a few pages of the store can do what passes here, if slower. The limit holds for each
process that decodes too.

The limit is what a process has after importing torch, and `--spare-gb` above it. The images are drawn small, each of
its own, and decoded at `--image-size`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {"a": 6, "b": 3, "c": 1}  # shares of tenths


def draw(folder: Path, n: int) -> None:
    """Write n small images, each class around a colour of its own."""
    rng = np.random.default_rng(0)
    for colour, (name, share) in zip(((200, 80, 60), (60, 180, 90), (70, 90, 200)), CLASSES.items(), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(n * share // 10):
            pixels = rng.normal(colour, 60, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number:06d}.png", compress_level=1)


def status_of(process: int | str, field: str) -> int:
    """A figure in bytes from the kernel's account of a process; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), 0)


def bytes_after_imports() -> int:
    """What counts towards the limit once everything is imported."""
    script = "import steadylens.pipeline, pathlib; print(pathlib.Path('/proc/self/status').read_text())"
    said = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    return int(said.split("VmData:")[1].split()[0]) * 1024


def train(data: Path, scratch: Path, limit: int, options: list[str]) -> tuple[int, int, float]:
    """The exit code of a training under the limit, the most anonymous memory it was seen to hold, and its seconds."""
    command = [sys.executable, "-m", "steadylens", "train", str(data), "--out", str(scratch / "run"), *options]
    begin, highest = time.perf_counter(), 0
    child = subprocess.Popen(
        command,
        env={**os.environ, "STEADYLENS_CACHE": str(scratch / "cache")},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (limit, limit)),  # noqa: PLW1509 - no threads here
    )
    while child.poll() is None:
        highest = max(highest, status_of(child.pid, "RssAnon"))
        time.sleep(0.02)
    return child.returncode, highest, time.perf_counter() - begin


def main() -> None:
    """Parse and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store-gb", type=float, default=3.2)
    parser.add_argument("--spare-gb", type=float, default=1.0)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--folder", type=Path, help="for the images and the store, removed afterwards")
    parser.add_argument("--options", default="--network cnn-s --width 0.2 --epochs 1")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=a.folder) as folder:
        scratch = Path(folder)
        draw(scratch / "data", int(a.store_gb * 1e9 / (a.image_size**2 * 3)))
        imports = bytes_after_imports()
        limit = imports + int(a.spare_gb * 1e9)
        options = ["--image-size", str(a.image_size), *shlex.split(a.options), "--quiet"]
        code, highest, seconds = train(scratch / "data", scratch, limit, options)
        store = sum(path.stat().st_size for path in (scratch / "cache").rglob("pixels.npy"))
        done = (scratch / "run" / "report.json").exists()
        images = json.loads((scratch / "run" / "report.json").read_text())["data"]["images"] if done else 0
    print("| images | store, GB | limit, GB | of it imports, GB | most anonymous memory, GB | seconds | exit code |")
    print("|---" * 7 + "|")
    figures = " | ".join(f"{value / 1e9:.2f}" for value in (store, limit, imports, highest))
    print(f"| {images:,} | {figures} | {seconds:.0f} | {code} |")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
