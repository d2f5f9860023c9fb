#!/usr/bin/env python3
"""Make a long-tailed copy of a folder of class folders, by the protocol of Cao et al. 2019.

long_tail.py SOURCE TARGET [--imbalance 100] [--seed 0] [--permute]

Of C classes in alphabetical order, class c keeps n_max * imbalance ** (-c / (C - 1)) of its images, rounded down;
which ones is drawn with the seed. With --permute the order of the classes is drawn too. Images are hard links.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path


def main() -> None:
    """Parse, choose, link."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--imbalance", type=float, default=100.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--permute", action="store_true")
    a = parser.parse_args()
    rng = random.Random(a.seed)  # noqa: S311 - a choice of images, not a secret
    images = {folder.name: sorted(folder.iterdir()) for folder in sorted(a.source.iterdir()) if folder.is_dir()}
    names = rng.sample(list(images), len(images)) if a.permute else list(images)
    most = max(map(len, images.values()))
    for rank, name in enumerate(names):
        kept = int(most * a.imbalance ** (-rank / (len(names) - 1)))
        folder = a.target / name
        folder.mkdir(parents=True)
        for image in rng.sample(images[name], min(kept, len(images[name]))):
            (folder / image.name).hardlink_to(image)
        print(f"{name}: {min(kept, len(images[name]))}")


if __name__ == "__main__":
    main()
