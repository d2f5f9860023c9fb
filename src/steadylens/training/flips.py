"""Whether mirroring keeps the label of an image, as it does of cats and does not of digits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from steadylens.data.batches import LabelledPixels
from steadylens.metrics import balanced_accuracy


def choose_flip(
    asked: str, augment: str, minority: bool, train: LabelledPixels, validation: LabelledPixels
) -> tuple[bool, str]:
    """Whether mirroring keeps the label: whether nearest neighbours still recognise mirrored validation images."""
    if asked != "auto":
        return asked == "on", "given"
    if augment == "off" and not minority:
        return False, "augmentation is off"
    known, queries = train.sample(2000, 0), validation.sample(500, 0)
    neighbours = KNeighborsClassifier(min(3, len(known))).fit(_thumbnails(known), known.labels)
    classes = int(max(train.labels.max(), validation.labels.max())) + 1
    plain = balanced_accuracy(queries.labels, neighbours.predict(_thumbnails(queries)), classes)
    mirrored = balanced_accuracy(queries.labels, neighbours.predict(_thumbnails(queries, mirrored=True)), classes)
    figures = f"nearest neighbours recognise {plain:.0%} of validation images and {mirrored:.0%} of them mirrored"
    if plain <= 1 / len(np.unique(queries.labels)):
        return False, f"{figures}: that is no more than guessing, and tells nothing of mirrored ones"
    # Losing a quarter of what is recognised is far beyond the noise, and far less than digits or letters lose.
    return mirrored >= 0.75 * plain, figures


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
