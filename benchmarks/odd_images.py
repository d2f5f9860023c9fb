"""Plants odd images among those of a data set and counts which of them the audit finds, and what else it tells of.

python benchmarks/odd_images.py DATA --image-size 64
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from steadylens.data.odd_images import odd_images
from steadylens.data.sources import index_arrays, read_index
from steadylens.data.store import cache_folder, decode

Pixels = NDArray[np.uint8]
OF_EACH, IMAGES = 20, 2500


def blurred(sigma: float) -> Callable[[Pixels], Pixels]:
    """A Gaussian blur of so many pixels, at the size at which images are learnt."""
    return lambda image: ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)).round().astype(np.uint8)


PLANTED: dict[str, Callable[[Pixels], Pixels]] = {
    "blank": lambda image: np.broadcast_to(image[0, 0], image.shape),
    "dark": lambda image: image // 9,
    "light": lambda image: 255 - (255 - image) // 9,
    "blurred 1.0": blurred(1.0),
    "blurred 1.5": blurred(1.5),
    "grey": lambda image: np.repeat(image.mean(2, keepdims=True), 3, axis=2).astype(np.uint8),
}


def main() -> None:
    """Print how many of each kind were found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--image-size", type=int, default=64)
    asked = parser.parse_args()
    pixels = decode(read_index(asked.data), asked.image_size, cache=cache_folder()).pixels
    images = np.array(pixels[np.random.default_rng(0).permutation(len(pixels))[:IMAGES]])
    planted: dict[str, str] = {}
    for number, (name, change) in enumerate(PLANTED.items()):
        for row in range(OF_EACH * number, OF_EACH * (number + 1)):
            images[row] = change(images[row])
            planted[f"array[{row}]"] = name
    index = index_arrays(images, [("a", "b")[row % 2] for row in range(len(images))])
    found = {path: finding.kind for finding in odd_images(index, images) for path in finding.paths}
    for name in PLANTED:
        right = sum(found.get(path) == name.split()[0] for path, kind in planted.items() if kind == name)
        print(f"{name:<12} {right:>3} of {OF_EACH}")
    print(f"told besides {len(found.keys() - planted):>3} of {len(images) - len(planted):,}")


if __name__ == "__main__":
    main()
