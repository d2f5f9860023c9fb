"""How far images are from those that a network was trained on, in what its last layer sees of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context
from sklearn.neighbors import NearestNeighbors

NEIGHBOURS = 10  # as in cleanlab's OutOfDistribution
_WORKING_MIB = 64  # of distances in memory at a time
MOST_KNOWN = 20_000  # images to compare with: more change little, and each costs a product with every image asked about


def distances_to_known(known: NDArray[np.float32], features: NDArray[np.float32]) -> NDArray[np.float32]:
    """The mean cosine distance of images to their nearest `NEIGHBOURS` known ones.

    Nearest neighbours among directions of features tell foreign images from known ones better than probabilities do
    (Sun, Ming, Zhu & Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", 2022).

    Args:
        known: (m, features), of training images.
        features: (n, features), of the images that are asked about, which are not among the known ones.

    Returns:
        (n,), 0 to 2.
    """
    if not len(features):
        return np.zeros(0, np.float32)
    nearest = NearestNeighbors(n_neighbors=min(NEIGHBOURS, len(known)), metric="cosine", algorithm="brute").fit(known)
    with config_context(working_memory=_WORKING_MIB):
        distances: NDArray[np.float32] = nearest.kneighbors(features)[0].mean(1).astype(np.float32)
    return distances
