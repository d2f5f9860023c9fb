"""Drawn photographs: noise of all scales, with the spectrum that photographs have, and changed copies of them."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def photo(number: int, side: int = 32) -> NDArray[np.uint8]:
    """The photograph of this number, (side, side, 3)."""
    rng = np.random.default_rng(number)
    pixels = np.full((side, side, 3), 120.0)
    for grid in (3, 6, 12, 24):
        noise = rng.normal(0, 1, (grid, grid, 3)) * 0.4 + rng.normal(0, 1, (grid, grid, 1))
        levels = np.clip(128 + 40 * noise, 0, 255).astype(np.uint8)
        pixels += (resized(levels, side).astype(np.float64) - 128) * (3 / grid) ** 0.5
    return pixels.clip(0, 255).astype(np.uint8)


def photos(numbers: range, side: int = 32) -> NDArray[np.uint8]:
    return np.array([photo(number, side) for number in numbers])


def resized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def reencoded(image: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def cropped(image: NDArray[np.uint8], left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
    """Without so many pixels on each side, and brought to its old size."""
    side = len(image)
    return resized(image[top : side - bottom, left : side - right], side)


def brightened(image: NDArray[np.uint8], factor: float) -> NDArray[np.uint8]:
    return (image * factor).clip(0, 255).astype(np.uint8)
