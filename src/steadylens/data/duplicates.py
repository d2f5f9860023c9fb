"""Images that show the same photograph in another file: re-encoded, resized, slightly cropped or brighter.

Three steps, none of which looks at all pairs. Every image is described by a few of its lowest frequencies, with mean
and contrast taken out. For every image, its few nearest neighbours within a radius are found in a k-d tree; once for
the whole image and once for its middle, since a crop shifts every frequency. Then each such candidate is verified on
pixels: the two are laid over each other (see `alignment`) and their fine detail must agree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import KDTree

from steadylens.data.alignment import LUMINANCE, Floats, Likeness, compare, shrink
from steadylens.data.reading import in_threads
from steadylens.data.sources import ImageIndex

Ints = NDArray[np.int64]
Advance = Callable[[float], None]

# All figures below are from planted copies in photos of 32 px, and from what is found among photos and among
# handwritten digits of 28 px, where many look alike and none are copies: see benchmarks/duplicates.py.
SIDE, COARSE_SIDE = 32, 16  # pixels on which candidates are compared, and on which most of them are ruled out first
SMALLEST_SIDE = 16  # below, look-alikes cannot be told from copies, and only equal pixels count
ORDER = 4  # the frequencies (u, v) with 0 < u + v <= 4: fourteen figures
CONTRAST = 4.0  # grey levels in these frequencies; noise on a blank picture has less
MARGIN = 0.045  # what is left out on each side to see the middle of an image: halfway to a crop of 9 %
RADIUS = 0.4  # 1.1 times the farthest of all planted copies
NEIGHBOURS = 8
SIMILARITY = 0.95  # of planted copies the least is 0.967; of shirts of one cut on one ground, up to 0.944
BROAD_SIMILARITY = 0.95
EVIDENCE = 19.0  # of look-alike digits, one candidate in 2,000 comes to more; of planted copies, all do
DETAIL = 2.0  # grey levels: what an encoder adds to a plain area
DIFFERENCE = 12.0  # of 255: the same article in another colour differs by more
_BLOCK = 256  # pairs compared at once: about 40 MB
MOST_KEPT = 8000  # images of which a small picture is kept meanwhile, in 100 MB; of more, they are made for each pair


@dataclass(frozen=True)
class NearDuplicates:
    """Which images show the same photograph.

    `clusters` (n,) numbers what belongs together: two images have the same number where a chain of pairs, or of equal
    files, leads from one to the other. `pairs` (m, 2) are the rows that were found alike, each image with at most a few
    of the others and one of several equal files for all of them; `similarity` (m,) is the correlation of their fine
    detail, 1.0 where the pixels are equal.
    """

    clusters: Ints
    pairs: Ints
    similarity: NDArray[np.float64]


def find_near_duplicates(
    index: ImageIndex, pixels: NDArray[np.uint8], advance: Advance | None = None
) -> NearDuplicates:
    """Find the images that show the same photograph, equal files included.

    An image with hardly any detail, such as a blank one, is only tied to equal files, and one whose shorter side has
    less than 16 pixels only to equal pixels: of such, nobody can say whether they are copies. A mirrored image is not a
    copy. Memory: about 200 bytes an image, and a fixed 100 MB or so; the pixels are read in blocks.

    Args:
        index: describes the pixels, row by row.
        pixels: (n, side, side, 3), RGB.
        advance: called with the share that is done, 0 to 1.
    """
    advance = advance or _unseen
    features, contrast, equal_to, pictures = _describe(pixels, advance)
    visible = contrast >= CONTRAST
    twins = np.flatnonzero((equal_to != np.arange(len(index))) & visible)
    pairs = [np.stack([equal_to[twins], twins], axis=1)]
    similarity = [np.ones(len(twins))]
    large = np.minimum(index.widths, index.heights) >= SMALLEST_SIDE
    rows = np.flatnonzero(visible & large & (equal_to == np.arange(len(index))))
    while len(rows) > 1 and pixels.shape[1] >= SMALLEST_SIDE:
        found, alike = _verified(index, pictures, _candidates(features, rows, advance), advance)
        pairs, similarity = [*pairs, found], [*similarity, alike]
        rows, advance = _crowded(rows, found), _unseen  # a further round is short
    return _result(index, np.concatenate(pairs), np.concatenate(similarity))


def _result(index: ImageIndex, pairs: Ints, similarity: NDArray[np.float64]) -> NearDuplicates:
    contents = np.unique(index.sha256, return_inverse=True)[1]
    other = contents[pairs[:, 0]] != contents[pairs[:, 1]]
    pairs, similarity = pairs[other], similarity[other]
    n = len(index)
    edges = np.concatenate([pairs, np.stack([np.arange(n), n + contents], axis=1)])
    clusters = _components(edges, 2 * n)[:n]
    return NearDuplicates(np.unique(clusters, return_inverse=True)[1].astype(np.int64), pairs, similarity)


def _components(edges: Ints, nodes: int) -> Ints:
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(nodes, nodes))
    found: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def _crowded(rows: Ints, pairs: Ints) -> Ints:
    """One row of each component of more images than one has neighbours: such may be parts of one larger component."""
    at = np.searchsorted(rows, pairs)
    component = _components(at, len(rows)) if len(pairs) else np.arange(len(rows))
    _, first, sizes = np.unique(component, return_index=True, return_counts=True)
    return rows[np.sort(first[sizes > NEIGHBOURS])]


def _describe(pixels: NDArray[np.uint8], advance: Advance) -> tuple[Floats, Floats, Ints, Floats | NDArray[np.uint8]]:
    """What is compared first.

    The lowest frequencies of every image and of its middle, (n, 2, 14), each of length one; the contrast in them, (n,);
    the first row with the same pixels, (n,); and the images at `SIDE`, or as they are where there are more than
    `MOST_KEPT`.
    """
    first: dict[bytes, int] = {}
    features, contrast, equal_to, pictures = [], [], [], []
    for rows in _blocks(len(pixels), max(1, 2**22 // pixels[:1].size)):
        block = pixels[rows]
        equal_to += [
            first.setdefault(hashlib.sha256(image.data).digest(), row) for row, image in zip(rows, block, strict=True)
        ]
        small = shrink(block, SIDE)
        if len(pixels) <= MOST_KEPT:
            pictures.append(small)
        grey = small @ LUMINANCE
        whole, middle = _frequencies(grey, 0.0), _frequencies(grey, MARGIN)
        strength = np.linalg.norm(whole, axis=1)
        features.append(np.stack([_unit(whole), _unit(middle)], axis=1))
        contrast.append(strength)
        advance(0.1 * (rows.stop / len(pixels)))
    kept = np.concatenate(pictures) if pictures else pixels
    return np.concatenate(features), np.concatenate(contrast), np.array(equal_to, np.int64), kept


def _frequencies(grey: Floats, margin: float) -> Floats:
    """The lowest cosine frequencies of images (n, side, side), less a margin, (n, 14).

    Each is weighted by its frequency: a photograph has less of the higher ones in that proportion.
    """
    side = grey.shape[1]
    edges = np.clip(np.arange(side + 1) / side, margin, 1 - margin)
    place = (edges[1:] + edges[:-1]) / 2 - margin
    waves = np.cos(np.pi * np.arange(ORDER + 1)[:, None] * place / (1 - 2 * margin)) * np.sqrt(2)
    waves = (waves * np.diff(edges) / (1 - 2 * margin)).astype(np.float32)
    u, v = np.indices((ORDER + 1, ORDER + 1))
    kept = (u + v > 0) & (u + v <= ORDER)
    found: Floats = (waves @ grey @ waves.T)[:, kept] * np.hypot(u, v)[kept].astype(np.float32)
    return found


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    lengths[lengths == 0] = 1.0
    units: Floats = vectors / lengths
    return units


def _candidates(features: Floats, rows: Ints, advance: Advance) -> Ints:
    """The pairs of rows (m, 2) that are near each other, each row with a few at most; the smaller row first."""
    tree = KDTree(features[rows, 0])
    found = []
    for block in _blocks(len(rows), 8192):
        for view in (0, 1):
            near = tree.query(features[rows[block], view], NEIGHBOURS + 1, distance_upper_bound=RADIUS, workers=-1)[1]
            here = np.broadcast_to(np.array(block)[:, None], near.shape)
            known = (near < len(rows)) & (near != here)
            found.append(np.sort(np.stack([rows[here[known]], rows[near[known]]], axis=1), axis=1))
        advance(0.1 + 0.5 * block.stop / len(rows))
    return np.unique(np.concatenate(found), axis=0)


def _verified(
    index: ImageIndex, pixels: NDArray[np.uint8] | Floats, pairs: Ints, advance: Advance
) -> tuple[Ints, NDArray[np.float64]]:
    """The pairs that hold on pixels, and their similarity; which is laid over which is told by content, not order."""
    swap = np.array([index.sha256[a] > index.sha256[b] for a, b in pairs.tolist()], bool)
    ordered = np.where(swap[:, None], pairs[:, ::-1], pairs)
    coarse = _compared(pixels, ordered, COARSE_SIDE, None, lambda share: advance(0.6 + 0.3 * share))
    kept = np.flatnonzero(may_be_copy(coarse))
    fine = _compared(pixels, ordered[kept], SIDE, coarse.motion[kept], lambda share: advance(0.9 + 0.1 * share))
    alike = is_copy(fine)
    return pairs[kept[alike]], fine.detail[alike].astype(np.float64)


def may_be_copy(likeness: Likeness) -> NDArray[np.bool_]:
    """Whether two pictures are alike enough at 16 px to be looked at with more pixels, (m,)."""
    return (likeness.detail >= 0.8) & (likeness.broad >= 0.93) & (likeness.difference <= DIFFERENCE + 4)


def is_copy(likeness: Likeness) -> NDArray[np.bool_]:
    """Whether two pictures of 32 px show the same photograph, (m,), judged strictly.

    The evidence is Fisher's z: the correlation counts for more, the more pixels carry the detail. Few of them do in a
    line drawing or in an object on a plain ground.
    """
    z = np.arctanh(np.clip(likeness.detail, 0, 0.999))
    return (
        (likeness.detail >= SIMILARITY)
        & (likeness.broad >= BROAD_SIMILARITY)
        & (likeness.strength >= DETAIL)
        & (likeness.difference <= DIFFERENCE)
        & (z * np.sqrt(likeness.spread) >= EVIDENCE)
    )


def _compared(
    pixels: NDArray[np.uint8] | Floats, pairs: Ints, side: int, motion: Floats | None, advance: Advance
) -> Likeness:
    def one(block: range) -> Likeness:
        a, b = (shrink(pixels[pairs[block, i]], side) for i in (0, 1))
        return compare(a, b, None if motion is None else motion[block])

    blocks = list(_blocks(len(pairs), _BLOCK))
    parts = [compare(*np.zeros((2, 0, side, side, 3), np.float32))]
    for block, part in zip(blocks, in_threads(one, blocks, piece=1), strict=True):
        parts.append(part)
        advance(block.stop / len(pairs))
    return Likeness(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Likeness)))


def _unseen(_share: float) -> None:
    """Progress that nobody looks at."""


def _blocks(n: int, size: int) -> Iterator[range]:
    for start in range(0, n, size):
        yield range(start, min(n, start + size))
