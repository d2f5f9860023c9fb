"""Which test images the report shows: right ones, wrong ones, and those that the network was surest of and wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steadylens.data.batches import LabelledPixels
from steadylens.report.page import Example

MOST = 12  # of each kind: two rows on a wide page


def choose_examples(
    pixels: NDArray[np.uint8] | LabelledPixels,
    paths: Sequence[str],
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    classes: Sequence[str],
    *,
    seed: int,
) -> list[Example]:
    """Pick up to `MOST` images of each kind.

    Right ones are taken from every class in turn; wrong ones at random from those that are not among the surest.

    Args:
        pixels: uint8, (n, side, side, 3).
        paths: (n,).
        labels: (n,).
        probabilities: (n, classes).
        classes: names, in the order of the labels.
        seed: of the run.
    """
    rng = np.random.default_rng([seed, 3])
    predicted, sure = probabilities.argmax(1), probabilities.max(1)
    wrong = np.flatnonzero(predicted != labels)
    surest = wrong[np.argsort(-sure[wrong], kind="stable")][:MOST]
    others = rng.permutation(np.setdiff1d(wrong, surest))[:MOST]
    right = _by_turns(rng.permutation(np.flatnonzero(predicted == labels)), labels)[:MOST]
    return [
        Example(group, _png(pixels[i]), paths[i], classes[labels[i]], classes[predicted[i]], float(sure[i]))
        for group, chosen in (("confident-wrong", surest), ("wrong", others), ("right", right))
        for i in chosen
    ]


def _by_turns(rows: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows reordered: the first of every class, then the second of every class, and so on."""
    turn = np.zeros(len(rows), np.int64)
    for label in np.unique(labels[rows]):
        members = labels[rows] == label
        turn[members] = np.arange(members.sum())
    return rows[np.lexsort((labels[rows], turn))]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
