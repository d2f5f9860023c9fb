"""The probe: what a pretrained backbone sees in each image, and a logistic regression on it, in seconds.

The regression is multinomial and prior-adjusted (see `imbalance.log_prior`): adding a constant to each logit inside
the loss does nothing to a regression whose intercept is free but shift that intercept. So it is fitted as it is, and
the logarithm of each class's share is taken off afterwards.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from steadylens import files
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.data.reading import in_threads
from steadylens.data.store import FEATURES
from steadylens.models.folding import folded
from steadylens.models.inference import logits_of
from steadylens.models.pretrained import Backbone
from steadylens.training.gain import tempered_log_loss
from steadylens.training.imbalance import effective_number_weights

Features = NDArray[np.float32]

# Inverse strengths of the L2 penalty on standardised features, from strong to weak: about half a decade apart.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
MIDDLE = 1e-3  # where the search begins; and where no class has two images, nothing can be cross-validated
FOLDS = 5
# Images among which the strength is chosen; it varies slowly with their number, and so many are enough to tell. So many
# of each class are among them wherever it has them, however small its share is.
MOST_TO_CHOOSE, FEWEST_TO_CHOOSE = 8000, 10
_PIECE = 256  # images between two reports of progress
_FORMAT = 2  # of the features in the cache: raised when the same pixels come to give others


@dataclass(frozen=True)
class Probe:
    """A linear classifier of features.

    Attributes:
        weight: (classes, width), of features as they are: the standardisation is folded in.
        bias: (classes,)
        strength: the inverse strength of its L2 penalty that was chosen.
        folds: of the cross-validation that chose it; 0 where there were too few images for any.
    """

    weight: Features
    bias: Features
    strength: float
    folds: int

    def logits(self, features: Features) -> Features:
        """(n, width) to (n, classes)."""
        return features @ self.weight.T + self.bias

    @torch.no_grad()
    def write_into(self, head: nn.Linear) -> None:
        """Make the last layer of a network give these logits."""
        head.weight.copy_(torch.from_numpy(self.weight))
        head.bias.copy_(torch.from_numpy(self.bias))


class View(nn.Module):
    """The features of an image, or of its mirror image."""

    def __init__(self, backbone: Backbone, mirrored: bool) -> None:
        super().__init__()
        self.backbone, self.mirrored = backbone, mirrored

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, side, side) to features (n, width)."""
        return self.backbone.features(images.flip(3) if self.mirrored else images)


def features_of(
    backbone: Backbone,
    images: LabelledPixels,
    preprocessing: Preprocessing,
    *,
    weights: str,
    mirrored: bool = False,
    precision: str = "fp32",
    cache: Path | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> Features:
    """What the backbone says of each image, (n, width), computed once and found in the cache from then on.

    Args:
        backbone: holding its pretrained weights.
        images: to look at.
        preprocessing: which the weights want.
        weights: tells these weights and this network from all others.
        mirrored: look at the images' mirror images.
        precision: of the network, "fp32" or "bf16".
        cache: the folder of the cache; None computes anew.
        advance: told of so many more images that were looked at; not of what was in the cache.
    """
    device = next(backbone.parameters()).device.type
    folder = None if cache is None else cache / _key(images, preprocessing, [weights, mirrored, device, precision])
    found = None if folder is None else _found(folder, (len(images), backbone.head.in_features))
    if found is None:
        view = View(folded(backbone, preprocessing.image_size), mirrored)  # once, and not for each piece
        pieces = []
        for start in range(0, len(images), _PIECE):
            pieces.append(logits_of(view, images[start : start + _PIECE], preprocessing, precision=precision))
            advance(len(pieces[-1]))
        found = np.concatenate(pieces)
        if folder is not None:
            _keep(folder, found)
    return found


def fit_probe(
    views: Sequence[Features],
    labels: NDArray[np.int64],
    classes: int,
    *,
    remedy: str,
    seed: int,
    clusters: NDArray[np.int64] | None = None,
) -> Probe:
    """Fit a linear classifier, its strength chosen by stratified cross-validation on the balanced log-loss.

    Args:
        views: of the same images, each (n, width); the first is the images as they are, by which is judged.
        labels: (n,)
        classes: how many there are.
        remedy: for imbalance, one of `config.IMBALANCE` but for `config.FROM_SCRATCH_ONLY`; drawing classes equally
            often and weighting them are the same here.
        seed: of the folds.
        clusters: (n,) number of the set of near-duplicates of each image, which stays in one fold; None: each its own.
    """
    chosen = cross_validate(views[0], labels, classes, remedy=remedy, seed=seed, clusters=clusters)
    mean, std = _moments(views[0])
    x = np.concatenate([(view - mean) / std for view in views])
    # The loss is a sum over images, and the penalty must weigh as much against that of several views as against one.
    regression, strength = _Regression(remedy, classes, labels), chosen.strength / len(views)
    with _fitting():
        weight, bias = regression.fit(x, np.tile(labels, len(views)), strength)
    weight = weight / std
    bias = bias - weight @ mean
    return Probe(weight.astype(np.float32), bias.astype(np.float32), chosen.strength, chosen.folds)


def deal_folds(labels: NDArray[np.int64], clusters: NDArray[np.int64] | None, seed: int) -> NDArray[np.int64]:
    """The fold of each image, (n,), or -1 for one that is always trained on because its class has no other.

    Within a class, clusters are shuffled and dealt out like cards, so that every class is in the training part of
    every fold; a cluster of several classes goes with the first of them. There are `FOLDS` folds, or as many as the
    smallest class that can be dealt has clusters.
    """
    rng = np.random.default_rng([seed, len(labels)])
    numbers = np.arange(len(labels)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    _, first = np.unique(numbers, return_index=True)
    class_of = labels[first]
    dealt = np.full(len(first), -1)
    sizes = np.bincount(class_of)
    folds = min(FOLDS, int(sizes[sizes > 1].min(initial=FOLDS)))
    for label in np.flatnonzero(sizes > 1):
        members = rng.permutation(np.flatnonzero(class_of == label))
        dealt[members] = (np.arange(len(members)) + rng.integers(folds)) % folds
    return dealt[numbers]


@dataclass(frozen=True)
class CrossValidated:
    """What cross-validation says of a probe.

    Attributes:
        strength: the one with the lowest balanced log-loss on images that were left out, at its best temperature.
        folds: how many there were; 0 where no class has two images that could be told apart.
        rows: (m,) the images that were left out once.
        logits: (m, classes), of each by the regression that had not seen it.
    """

    strength: float
    folds: int
    rows: NDArray[np.int64]
    logits: Features


def cross_validate(
    features: Features,
    labels: NDArray[np.int64],
    classes: int,
    *,
    remedy: str,
    seed: int,
    clusters: NDArray[np.int64] | None = None,
) -> CrossValidated:
    """Judge every strength of the penalty on images that were left out; the arguments are those of `fit_probe`.

    One view of the images, `features` (n, width), is enough to tell, in half of the time that two would take.
    """
    folds = deal_folds(labels, clusters, seed)
    rows = _drawn(labels, seed)
    mean, std = _moments(features)
    scaled = (features - mean) / std
    parts = []
    for fold in np.unique(folds[rows][folds[rows] >= 0]):
        learned, left_out = rows[folds[rows] != fold], rows[folds[rows] == fold]
        # A class all of whose images hang together with the images left out could not be known.
        left_out = left_out[np.isin(labels[left_out], labels[learned])]
        if len(left_out) and len(np.unique(labels[learned])) > 1:
            # Each regression goes on from where its last fit ended.
            parts.append((scaled[learned], labels[learned], left_out, _Regression(remedy, classes, labels[learned])))
    if not parts:
        return CrossValidated(MIDDLE, 0, np.zeros(0, np.int64), np.zeros((0, classes), np.float32))
    judged = np.sort(np.concatenate([part[2] for part in parts]))

    def left_out_logits(strength: float) -> Features:
        out = np.zeros((len(labels), classes), np.float32)
        fitted = in_threads(lambda part: part[3].fit(part[0], part[1], strength), parts, piece=1)
        for (_, _, left_out, _), (weight, bias) in zip(parts, fitted, strict=True):
            out[left_out] = scaled[left_out] @ weight.T.astype(np.float32) + bias
        found: Features = out[judged]
        return found

    with _fitting():
        best, logits = _lowest(left_out_logits, labels[judged])
    return CrossValidated(STRENGTHS[best], len(parts), judged, logits)


def _drawn(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Which images to choose by, in random order: all, or about `MOST_TO_CHOOSE`, each class with its share of them.

    No class has fewer than `FEWEST_TO_CHOOSE`, but where it has no more.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    if len(order) <= MOST_TO_CHOOSE:
        return order
    kept = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        kept[members[: max(FEWEST_TO_CHOOSE, round(MOST_TO_CHOOSE * len(members) / len(labels)))]] = True
    return order[kept[order]]


def _lowest(logits_of: Callable[[float], Features], labels: NDArray[np.int64]) -> tuple[int, Features]:
    """The place in `STRENGTHS` with the lowest balanced log-loss, and its logits: from the middle downhill.

    The loss has one valley, so that most strengths need not be tried, and the fits of the strongest take the longest.
    """
    best = middle = STRENGTHS.index(MIDDLE)
    logits = logits_of(MIDDLE)
    loss = tempered_log_loss(logits, labels)
    for step in (1, -1):
        while 0 <= best + step < len(STRENGTHS):
            tried = logits_of(STRENGTHS[best + step])
            tried_loss = tempered_log_loss(tried, labels)
            if tried_loss >= loss:
                break
            best, logits, loss = best + step, tried, tried_loss
        if best != middle:
            break
    return best, logits


def _moments(features: Features) -> tuple[Features, Features]:
    """Mean and standard deviation of each feature, (width,), the latter above 0."""
    return features.mean(0), features.std(0) + 1e-6


@contextmanager
def _fitting() -> Iterator[None]:
    """What regressions are fitted in, one in each thread.

    Each takes one thread for its products: of such shapes, two were in each other's way, and took five times as long
    (two cores of an Intel Xeon). 200 steps bring it close enough without a warning: what counts is judged on images
    that were left out.
    """
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


class _Regression:
    """scikit-learn's multinomial logistic regression with the remedy for imbalance, warm from its last fit."""

    def __init__(self, remedy: str, classes: int, labels: NDArray[np.int64]) -> None:
        """`labels` are those of the images that it will be fitted to, each once however many views there are."""
        self.remedy, self.classes = remedy, classes
        weighting: str | dict[int, float] | None = "balanced" if remedy in ("class-weights", "oversample") else None
        if remedy == "effective-number":
            present, counts = np.unique(labels, return_counts=True)
            weights = effective_number_weights(counts, counts / counts.sum())
            weighting = dict(zip(present.tolist(), weights.tolist(), strict=True))
        self._model = LogisticRegression(class_weight=weighting, warm_start=True, max_iter=200, tol=1e-3)

    def fit(
        self, x: Features, y: NDArray[np.int64], strength: float
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights (classes, width) and bias (classes,) in double precision."""
        self._model.set_params(C=strength)
        self._model.fit(x, y)
        found, offsets = self._model.coef_.astype(np.float64), self._model.intercept_.astype(np.float64)
        if len(found) == 1:  # of two classes scikit-learn keeps the difference only
            found, offsets = np.concatenate([-found, found]) / 2, np.concatenate([-offsets, offsets]) / 2
        # A class that is not there at all is never answered with.
        weight = np.zeros((self.classes, x.shape[1]))
        bias = np.full(self.classes, -1e3)
        counts = np.bincount(y, minlength=self.classes)
        present = self._model.classes_
        weight[present] = found
        bias[present] = offsets - (np.log(counts[present] / len(y)) if self.remedy == "logit-adjust" else 0.0)
        return weight, bias


def _key(images: LabelledPixels, preprocessing: Preprocessing, what: list[object]) -> str:
    """Names features after all that determines them: the pixels themselves, the weights and how they are looked at."""
    about = [_FORMAT, torch.__version__, preprocessing.mean, preprocessing.std, *what]
    digest = hashlib.sha256(json.dumps(about).encode())
    for start in range(0, len(images), _PIECE):
        digest.update(images[start : start + _PIECE].data)
    return digest.hexdigest()


def _found(folder: Path, shape: tuple[int, int]) -> Features | None:
    """The features in a folder of the cache; what is damaged counts as absent."""
    try:
        features = np.load(folder / FEATURES, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = features.shape == shape and features.dtype == np.float32 and bool(np.isfinite(features).all())
    return features if whole else None


def _keep(folder: Path, features: Features) -> None:
    buffer = io.BytesIO()
    np.save(buffer, features, allow_pickle=False)
    files.make_folder(folder)
    files.write_bytes(folder / FEATURES, buffer.getvalue())
