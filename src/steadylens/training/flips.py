"""Whether mirroring keeps the label of an image, as it does of cats and does not of digits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.neighbors import KNeighborsClassifier

from steadylens.data.batches import LabelledPixels
from steadylens.metrics import balanced_accuracy

# Photographs are recognised at least two thirds as often when they are mirrored, digits and letters a third as often
# (docs/benchmarks.md). What photographs lose is what neighbours of the same series, or in the same light, give away.
STILL_RECOGNISED = 0.5
BECOME_ANOTHER = 2 / 3  # of the recognised images of a class, taken for one other when they are mirrored
CHANCE = 0.01  # of taking a class for such a one, all classes together


def choose_flip(
    asked: str, augment: str, minority: bool, train: LabelledPixels, validation: LabelledPixels, classes: Sequence[str]
) -> tuple[bool, str]:
    """Whether mirroring keeps the label: whether nearest neighbours still recognise mirrored validation images.

    It does not where far fewer of all are recognised, as of digits, nor where one class turns into another, as a sign
    that points to the left does.

    Args:
        asked: "on", "off" or "auto".
        augment: the strength of augmentation. Where it is "off", only images of a minority can be mirrored.
        minority: whether those are augmented.
        train: images among which neighbours are looked for.
        validation: images that are mirrored.
        classes: names, in the order of the labels.

    Returns:
        Whether to mirror, and why.
    """
    if asked != "auto":
        return asked == "on", "given"
    if augment == "off" and not minority:
        return False, "augmentation is off"
    known, queries = train.sample(2000, 0), validation.sample(500, 0)
    neighbours = KNeighborsClassifier(min(3, len(known))).fit(_thumbnails(known), known.labels)
    seen, mirrored = (neighbours.predict(_thumbnails(queries, mirrored=as_mirrored)) for as_mirrored in (False, True))
    plain, still = (balanced_accuracy(queries.labels, found, len(classes)) for found in (seen, mirrored))
    figures = f"nearest neighbours recognise {plain:.0%} of validation images and {still:.0%} of them mirrored"
    if plain <= 1 / len(np.unique(queries.labels)):
        return False, f"{figures}: that is no more than guessing, and tells nothing of mirrored ones"
    swapped = _swapped(queries.labels, seen, mirrored, len(classes))
    if swapped is not None:
        one, other = (classes[label] for label in swapped)
        return False, f"{figures}, and take mirrored images of {one} for {other}"
    return still >= STILL_RECOGNISED * plain, figures


def _swapped(
    labels: NDArray[np.int64], seen: NDArray[np.int64], mirrored: NDArray[np.int64], classes: int
) -> tuple[int, int] | None:
    """A class whose images are taken for another when they are mirrored, and that other; None where there is none.

    More images have to change from the one to the other than the other way, by a sign test.
    """
    for one in np.unique(labels):
        own, as_seen, as_mirrored = labels == one, seen == one, mirrored == one
        became = np.bincount(mirrored[own & as_seen & ~as_mirrored], minlength=classes)
        other = int(became.argmax())
        if became[other] < BECOME_ANOTHER * np.count_nonzero(own & as_seen) or became[other] == 0:
            continue
        back = np.count_nonzero(own & as_mirrored & (seen == other))
        test = binomtest(int(became[other]), int(became[other] + back), alternative="greater")
        if test.pvalue < CHANCE / classes:
            return int(one), other
    return None


def _thumbnails(images: LabelledPixels, *, mirrored: bool = False) -> NDArray[np.float32]:
    """Means over a grid of at most 16 by 16 cells, flattened: (n, cells * cells * 3), of some pixels of large cells."""
    pieces = (piece[:, :, ::-1] if mirrored else piece for piece in images.pieces())
    return np.concatenate([_cell_means(piece) for piece in pieces])


def _cell_means(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    side = pixels.shape[1]
    cells = min(16, side)
    cut = side // cells * cells
    grid = pixels[:, :cut, :cut].reshape(len(pixels), cells, cut // cells, cells, cut // cells, 3)
    skip = max(1, cut // cells // 4)
    first = (cut // cells - 1) % skip // 2  # as far from one side as from the other, for mirror images
    grid = grid[:, :, first::skip, :, first::skip]
    means: NDArray[np.float32] = grid.mean((2, 4), dtype=np.float32).reshape(len(pixels), -1)
    return means
