"""Images unlike the others: of one colour, almost black or white, blurred, grey among colour, of another size or shape.

All is measured on the pixels that the network will see, so nothing is said about blur that shrinking has removed. What
is relative to the other images is measured in robust deviations, from the median and the median absolute deviation,
which the odd images themselves cannot move (Leys et al. 2013).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from steadylens.data.findings import Finding, Suggestion, Sure
from steadylens.data.folders import counted
from steadylens.data.reading import in_threads
from steadylens.data.sources import ImageIndex

# Fewer images have no usual size, shape or sharpness to differ from.
FEWEST_IMAGES = 20
# What more of the images share than this is not odd: it is what these images are like. Grey photographs are part of
# many sets (1.4 % of CIFAR-10); a few among tens of thousands more often come from elsewhere.
ODD_SHARE, GREY_SHARE, FEW = 0.05, 0.01, 3

_PIECE_PIXELS = 2**21  # pixels measured at a time: some 100 MB of intermediate results, whatever the number of images
_BLANK_SPREAD = 2.0  # of 255 levels: less than an eye sees, and more than JPEG leaves of one colour
_DARK, _LIGHT = 40, 215  # of 255: 99 % of the pixels lie below, or above; no image of three clean real sets comes near
_GREY_COLOUR = 2.0  # of 255: mean difference between the strongest and the weakest channel; JPEG leaves up to 1
# Robust deviations of the log of sharpness. A blur of 1 pixel (standard deviation) lies at -6 to -7 on three real sets
# of 32 and 64 px, where one image in 10,000 lies below -5.
_BLURRED, _FAINT = -5.0, -2.0
_SIZE_FACTOR, _SHAPE_FACTOR, _DEVIATIONS = 3.0, 2.0, 5.0


@dataclass(frozen=True, slots=True)
class Looks:
    """What is measured on each of n images, each of shape (n,), in levels of 0 to 255 where not said otherwise.

    Attributes:
        spread: standard deviation of the channel that varies most.
        bright_end: 99th percentile of the strongest channel.
        dark_end: 1st percentile of the weakest channel.
        colour: mean difference between the strongest and the weakest channel.
        detail: log of the variance of the Laplacian.
        sharpness: log of that variance over the energy of the gradient, in which contrast and content cancel.
    """

    spread: NDArray[np.float64]
    bright_end: NDArray[np.float64]
    dark_end: NDArray[np.float64]
    colour: NDArray[np.float64]
    detail: NDArray[np.float64]
    sharpness: NDArray[np.float64]


def odd_images(index: ImageIndex, pixels: NDArray[np.uint8]) -> Iterator[Finding]:
    """Find what is unlike the other images, the oddest first in each finding; an image has one odd look at most.

    Args:
        index: of the images.
        pixels: uint8, (n, side, side, 3), of the images in the index.
    """
    looks = measure(pixels)
    blank = looks.spread < _BLANK_SPREAD
    dark = ~blank & _rare(looks.bright_end < _DARK, ODD_SHARE)
    light = ~blank & _rare(looks.dark_end > _LIGHT, ODD_SHARE)
    yield from _of_one_tone(
        index, np.flatnonzero(blank), _first(dark, looks.bright_end), _first(light, -looks.dark_end)
    )
    if len(index) >= FEWEST_IMAGES:
        plain = ~(blank | dark | light)
        yield from _blurred(index, looks, plain)
        yield from _grey(index, looks, plain)
        yield from _odd_sizes(index)
        yield from _odd_shapes(index)


def measure(pixels: NDArray[np.uint8]) -> Looks:
    """Measure the looks of images, uint8 (n, side, side, 3), a piece at a time."""
    side = pixels.shape[1]
    piece = max(1, _PIECE_PIXELS // side**2)
    starts = range(0, len(pixels), piece)
    rows = list(in_threads(lambda start: _measure(pixels[start : start + piece]), starts, piece=1))
    return Looks(*np.concatenate(rows).T) if rows else Looks(*np.zeros((6, 0)))


def _measure(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The six looks of each image, (n, 6)."""
    # Each colour by itself: over the last axis, which is as short as three, the same takes several times as long.
    red, green, blue = (np.ascontiguousarray(pixels[..., colour]) for colour in range(3))
    strongest = np.maximum(np.maximum(red, green), blue)
    weakest = np.minimum(np.minimum(red, green), blue)
    count = strongest[0].size
    # The exact percentile of whole numbers, without sorting floats.
    bright = np.partition(strongest.reshape(len(pixels), -1), round(0.99 * (count - 1)))[:, round(0.99 * (count - 1))]
    dark = np.partition(weakest.reshape(len(pixels), -1), round(0.01 * (count - 1)))[:, round(0.01 * (count - 1))]
    # ITU-R BT.601, as Pillow converts
    grey = red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)
    detail, gradient = _laplacian_variance(grey), _gradient_energy(grey)
    return np.stack(
        [
            np.max([_spread(colour) for colour in (red, green, blue)], 0),
            bright,
            dark,
            (strongest - weakest).mean((1, 2), dtype=np.float32),
            np.log(detail + 1.0),
            np.log(detail + 1.0) - np.log(gradient + 1.0),
        ],
        1,
    ).astype(np.float64)


def _spread(values: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The standard deviation within each image, (n, side, side) to (n,)."""
    mean = values.mean((1, 2), dtype=np.float64)
    squares = np.square(values, dtype=np.uint16).mean((1, 2), dtype=np.float64)
    spread: NDArray[np.float64] = np.sqrt(np.maximum(squares - mean**2, 0.0))
    return spread


def _laplacian_variance(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """The variance of the Laplacian of each image, a measure of focus (Pech-Pacheco et al. 2000)."""
    if grey.shape[1] < 3:
        return np.zeros(len(grey), np.float32)
    sums = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    variance: NDArray[np.float32] = (sums - 4 * grey[:, 1:-1, 1:-1]).var((1, 2))
    return variance


def _gradient_energy(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    if grey.shape[1] < 2:
        return np.zeros(len(grey), np.float32)
    across, down = np.diff(grey, axis=2), np.diff(grey, axis=1)
    energy: NDArray[np.float32] = (across**2).mean((1, 2)) + (down**2).mean((1, 2))
    return energy


def _deviations(values: NDArray[np.float64], among: NDArray[np.bool_] | None = None) -> NDArray[np.float64]:
    """How many robust standard deviations each value lies from the median of those `among` which it is judged."""
    usual = values if among is None or not among.any() else values[among]
    median = np.median(usual)
    deviation = 1.4826 * np.median(np.abs(usual - median))  # equals the standard deviation of a normal distribution
    scaled: NDArray[np.float64] = (values - median) / max(float(deviation), 1e-6)
    return scaled


def _rare(chosen: NDArray[np.bool_], share: float) -> NDArray[np.bool_]:
    """The chosen, or none where they are too many to be odd."""
    return chosen if chosen.sum() <= max(FEW, share * len(chosen)) else np.zeros_like(chosen)


def _first(chosen: NDArray[np.bool_], order: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows that are chosen, the one with the least value first."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(order[rows], kind="stable")]


def _of_one_tone(
    index: ImageIndex, blank: NDArray[np.int64], dark: NDArray[np.int64], light: NDArray[np.int64]
) -> Iterator[Finding]:
    yield from _finding(
        index, blank, "blank", "of one colour, with nothing to see.",
        "Drop, unless an empty picture is what the class means.", "likely", drop=True,
    )  # fmt: skip
    for kind, rows, word in (("dark", dark, "black"), ("light", light, "white")):
        what = f"almost {word} in 99 of 100 pixels."
        advice = "Look whether anything can be recognised, and drop what even you cannot tell."
        yield from _finding(index, rows, kind, what, advice, "likely")


def _blurred(index: ImageIndex, looks: Looks, plain: NDArray[np.bool_]) -> Iterator[Finding]:
    deviation = _deviations(looks.sharpness, plain)
    blurred = plain & (deviation < _BLURRED) & (_deviations(looks.detail, plain) < _FAINT)
    rows = _first(_rare(blurred, ODD_SHARE), deviation)
    what = "far more blurred than the others, at the size at which they are learnt."
    yield from _finding(index, rows, "blurred", what, "Nothing, if such images will come in use too; else drop.")


def _grey(index: ImageIndex, looks: Looks, plain: NDArray[np.bool_]) -> Iterator[Finding]:
    rows = _first(_rare(plain & (looks.colour < _GREY_COLOUR), GREY_SHARE), looks.colour)
    what = f"without colour, where {len(index) - len(rows):,} others have some."
    advice = "Look where they come from: that an image is grey must not give its class away."
    yield from _finding(index, rows, "grey", what, advice)


def _odd_sizes(index: ImageIndex) -> Iterator[Finding]:
    """Images whose side (the root of their area) is 3 times the usual one or a third of it, and far out."""
    log = np.log(index.widths.astype(np.float64) * index.heights) / 2
    log -= np.median(log)
    far = np.abs(_deviations(log)) > _DEVIATIONS
    limit = np.log(_SIZE_FACTOR)
    small = _first(far & _rare(log < -limit, ODD_SHARE), log)
    large = _first(far & _rare(log > limit, ODD_SHARE), -log)
    usual = _size_of(index, int(np.argsort(log, kind="stable")[len(log) // 2]))
    if len(small):
        what = f"far smaller than the others, down to {_size_of(index, small[0])} px where {usual} px is usual."
        advice = "Look whether they show what the class means, or are icons and previews. They are learnt enlarged."
        yield from _finding(index, small, "odd-size", what, advice)
    if len(large):
        what = f"far larger than the others, up to {_size_of(index, large[0])} px where {usual} px is usual."
        advice = "Nothing, unless they show more than one thing. They are learnt at the size of the others."
        yield from _finding(index, large, "odd-size", what, advice)


def _odd_shapes(index: ImageIndex) -> Iterator[Finding]:
    """Images twice as long for their width as the usual one, lying or standing, and far out."""
    log = np.log(np.maximum(index.widths, index.heights) / np.minimum(index.widths, index.heights))
    usual = np.median(log)
    odd = (log - usual > np.log(_SHAPE_FACTOR)) & (_deviations(log) > _DEVIATIONS)
    rows = _first(_rare(odd, ODD_SHARE), -log)
    if len(rows):
        what = (
            f"far more elongated than the others, up to {np.exp(log[rows[0]]):.1f} to 1 where {np.exp(usual):.1f} to 1 "
            "is usual. They are learnt squeezed into a square."
        )
        yield from _finding(index, rows, "odd-shape", what, "Crop them to what the class means.")


def _size_of(index: ImageIndex, row: int) -> str:
    return f"{index.widths[row]} x {index.heights[row]}"


def _finding(
    index: ImageIndex,
    rows: NDArray[np.int64],
    kind: str,
    what: str,
    advice: str,
    sure: Sure = "possible",
    *,
    drop: bool = False,
) -> Iterator[Finding]:
    """The finding on some rows, where there are any."""
    paths = tuple(index.paths[row] for row in rows)
    if paths:
        drops = tuple(Suggestion(path, "drop") for path in paths) if drop else ()
        yield Finding(kind, f"{counted(paths, 'image')} {what}", sure, advice, paths, suggestions=drops)
