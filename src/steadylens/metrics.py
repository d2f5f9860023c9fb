"""What a figure means: each has one definition, and an interval that says how far to trust it.

A class's *support* is the number of its images. A class without support has no recall, so means
and minima over classes are over those that have support. The points agree with scikit-learn's
functions of the same names, which the tests use as their reference.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.integer]
Floats = NDArray[np.floating]

BINS = 15  # Guo et al. 2017, section 3, and most tables of calibration errors since
LEVEL = 95.0  # per cent: the level of every interval
MAX_RESAMPLED = 20_000_000  # images drawn in all by one call: about a second on one core
MIN_DRAWS = 200  # the fewest with which a 2.5 % percentile still lies on five draws
_SMALLEST = float(np.finfo(np.float64).eps)  # probabilities below count as this, as in scikit-learn's log_loss


@dataclass(frozen=True)
class Figure:
    """A figure with its 95 % interval; `low <= value <= high` always."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """The three numbers as `report.json` holds them."""
        return asdict(self)


@dataclass(frozen=True)
class Bin:
    """One bin of a reliability diagram: mean top probability, share of right answers, number of images."""

    confidence: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Answers:
    """What one method, trained with one or more seeds, says of some images.

    Attributes:
        predicted: (seeds, n) the labels that it answers with.
        losses: (seeds, n) the negative logarithm of the probability that it gives to the true class.
    """

    predicted: Integers
    losses: Floats


@dataclass(frozen=True)
class _Images:
    """What the figures need of each image, sorted by class; `starts[c]` is where class `c` begins.

    Classes without support are left out and the others renumbered, except in `predicted`, whose
    wrong answers may name any class.
    """

    starts: Integers  # (supported classes,)
    support: Integers  # (supported classes,)
    names: Integers  # (supported classes,): the original label of each
    predicted: Integers  # (n,), original labels
    right: Floats  # (n,), 0.0 or 1.0
    losses: Floats  # (n,)
    bins: Integers  # (n,), the bin of the top probability
    excess: Floats  # (n,), top probability minus `right`
    classes: int


def softmax(logits: Floats) -> NDArray[np.float64]:
    """Turn logits (n, classes) into probabilities of the same shape, in float64 and without overflow."""
    shifted = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True))


def recalls(labels: Integers, predicted: Integers, classes: int) -> NDArray[np.float64]:
    """The share of each class's images that was recognised, (classes,); nan where a class has no support."""
    support = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    return np.where(support > 0, right / np.maximum(support, 1), np.nan)


def balanced_accuracy(labels: Integers, predicted: Integers, classes: int) -> float:
    """The mean recall of the classes that have support."""
    return float(np.nanmean(recalls(labels, predicted, classes)))


def worst_class_recall(labels: Integers, predicted: Integers, classes: int) -> float:
    """The lowest recall among the classes that have support."""
    return float(np.nanmin(recalls(labels, predicted, classes)))


def macro_f1(labels: Integers, predicted: Integers, classes: int) -> float:
    """The mean F1 of the classes that have support; a class that is never recognised has an F1 of zero."""
    support = np.bincount(labels, minlength=classes)
    right = np.bincount(labels[labels == predicted], minlength=classes)
    named = np.bincount(predicted, minlength=classes)
    has_support = support > 0
    return float(np.mean(2 * right[has_support] / (support + named)[has_support]))


def log_losses(labels: Integers, probabilities: Floats) -> NDArray[np.float64]:
    """The log-loss of each image, (n,), in nats, from labels (n,) and probabilities (n, classes)."""
    of_true_class = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    return np.asarray(-np.log(np.maximum(of_true_class, _SMALLEST)))


def log_loss(labels: Integers, probabilities: Floats) -> float:
    """The mean negative logarithm (in nats) of the probability given to the true class."""
    return float(log_losses(labels, probabilities).mean())


def balanced_log_loss(labels: Integers, probabilities: Floats) -> float:
    """The mean over the classes that have support of the class's mean log-loss, in nats."""
    support = np.bincount(labels)
    sums = np.bincount(labels, weights=log_losses(labels, probabilities))
    return float(np.mean(sums[support > 0] / support[support > 0]))


def reliability(labels: Integers, probabilities: Floats, bins: int = BINS) -> list[Bin]:
    """The reliability diagram: equal-width bins of the top probability, empty ones left out (Guo et al. 2017)."""
    top = probabilities.max(axis=1)
    number = _bin_of(top, bins)
    count = np.bincount(number, minlength=bins)
    confidence = np.bincount(number, weights=top, minlength=bins)
    right = np.bincount(number, weights=probabilities.argmax(axis=1) == labels, minlength=bins)
    filled = np.flatnonzero(count)
    return [Bin(float(confidence[b] / count[b]), float(right[b] / count[b]), int(count[b])) for b in filled]


def expected_calibration_error(labels: Integers, probabilities: Floats, bins: int = BINS) -> float:
    """How far the top probability lies from the share of right answers, on average over images.

    Expected calibration error with equal-width bins, equation 3 of Guo et al., "On Calibration
    of Modern Neural Networks", 2017.
    """
    rows = reliability(labels, probabilities, bins)
    return float(sum(row.count * abs(row.accuracy - row.confidence) for row in rows) / len(labels))


def figures(labels: Integers, probabilities: Floats, *, seed: int = 0, draws: int = 1000) -> dict[str, Figure]:
    """Every headline figure with its 95 % interval.

    Macro F1, the two log-losses and the calibration error have the percentile interval of a
    bootstrap that is stratified by class: each draw resamples the images of every class with
    replacement, so that supports stay as they are.

    A bootstrap of a recall that is exactly 0 or 1 would claim certainty, even for a class of five
    images. For accuracy, balanced accuracy and worst-class recall, each draw therefore takes the
    recall of a class with `support` images from Binomial(support, p) / support, where
    p = (right + 1/2) / (support + 1) is the mean under Jeffreys' prior (Brown, Cai & DasGupta
    2001). That pulls p towards 1/2, and over many small classes the pulls add up until the interval
    misses the truth; the same draws moved back to lie around the observed value do not, but are too
    narrow where one rare class has all its few images right. Accuracy and balanced accuracy
    therefore get the interval that holds both: in simulations of 2 to 100 classes of 5 to 1,000
    images it covered the true balanced accuracy in about 95 to 100 % of the tests.

    The minimum is left as it is drawn, so the interval of worst-class recall leans to the low side,
    strongly so with many classes of few images: it under-promises. In the same way, resampling adds
    to a calibration error, whose interval leans to the high side, and blurs F1, whose interval leans
    to the low side. An interval is widened to hold its value where it would not.

    Args:
        labels: (n,) the true labels, n >= 1.
        probabilities: (n, classes), each row summing to one.
        seed: the interval is a function of the images, the seed and `draws`.
        draws: with more than 20,000 images fewer than 1,000 are taken, so that no more than 20 million
            images are resampled in all, but always at least 200 (or `draws`). Memory grows with n alone.

    Returns:
        accuracy, balanced_accuracy, macro_f1, worst_class_recall, log_loss, balanced_log_loss, ece.
    """
    images = _sort(labels, probabilities)
    rng = np.random.default_rng(seed)
    draws = min(draws, max(MIN_DRAWS, MAX_RESAMPLED // len(labels)))
    values = _values(images, slice(None))
    drawn = _draw_recalls(images, rng, draws)
    resampled = [_values(images, _drawn_rows(images.starts, images.support, rng)) for _ in range(draws)]
    for name in ("macro_f1", "log_loss", "balanced_log_loss", "ece"):
        drawn[name] = np.array([row[name] for row in resampled])
    return {name: _interval(value, drawn[name]) for name, value in values.items()}


def paired_differences(
    labels: Integers, ours: Answers, theirs: Answers, *, seed: int = 0, draws: int = 1000
) -> dict[str, Figure]:
    """How much higher the figures of one method are than those of another on the same images, with 95 % intervals.

    Each figure is the mean over a method's seeds, and each difference has the percentile interval of a paired bootstrap
    (Efron & Tibshirani 1993, chapter 13; for two methods on one test set, Koehn 2004): a draw resamples the images of
    every class with replacement, the same ones for both methods and for all seeds. What is hard about an image is hard
    for both, and falls out of the difference. So the interval says what other images might have said of these
    trainings; how other seeds would have come out it cannot say.

    Where no image of a class tells the methods apart, a bootstrap would claim certainty, even for a class of five
    images. In the spirit of Jeffreys' prior (see `figures`) each class therefore has one image more to draw, which one
    of the two methods recognises and the other does not, either as often. The draws of balanced accuracy are moved back
    to lie around the observed difference; the minimum is left as it is drawn; an interval is widened to hold its value.

    Args:
        labels: (n,) the true labels, n >= 1.
        ours: on these images.
        theirs: on these images; of other seeds, where it has others.
        seed: the interval is a function of the images, the seed and `draws`.
        draws: of them fewer are taken where there are many images, as in `figures`.

    Returns:
        balanced_accuracy, worst_class_recall, balanced_log_loss.
    """
    order = np.argsort(labels, kind="stable")
    _, starts, support = np.unique(labels[order], return_index=True, return_counts=True)
    right = [(answers.predicted == labels)[:, order].astype(np.float64) for answers in (ours, theirs)]
    losses = [answers.losses[:, order] for answers in (ours, theirs)]

    def differences(right: list[Floats], losses: list[Floats]) -> NDArray[np.float64]:
        mine, other, my_loss, other_loss = (np.add.reduceat(x, starts, axis=1) / support for x in (*right, *losses))
        worst = mine.min(axis=1).mean() - other.min(axis=1).mean()
        return np.array([mine.mean() - other.mean(), worst, my_loss.mean() - other_loss.mean()])

    rng, observed = np.random.default_rng(seed), differences(right, losses)
    draws = min(draws, max(MIN_DRAWS, MAX_RESAMPLED // (len(labels) * max(len(one) for one in right))))
    share = 1 / np.repeat(support + 1, support)  # of the draws of its class that the one more image gets
    drawn = np.empty((draws, len(observed)))
    for row in drawn:
        rows, chance = _drawn_rows(starts, support, rng), rng.random(len(labels))
        only = (chance < share / 2, (chance >= share / 2) & (chance < share))
        resampled = [np.where(only[0] | only[1], own, x[:, rows]) for own, x in zip(only, right, strict=True)]
        row[:] = differences(resampled, [loss[:, rows] for loss in losses])
    gaps = np.add.reduceat(right[0].mean(0) - right[1].mean(0), starts) / support
    drawn[:, 0] += np.mean(gaps / (support + 1))
    names = ("balanced_accuracy", "worst_class_recall", "balanced_log_loss")
    return {name: _interval(float(observed[i]), drawn[:, i]) for i, name in enumerate(names)}


def _bin_of(confidence: Floats, bins: int) -> Integers:
    """Bins are open below and closed above, as in Guo et al."""
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _sort(labels: Integers, probabilities: Floats) -> _Images:
    # Sorting by content, not only by class, makes every interval independent of the images' order.
    predicted, top, losses = probabilities.argmax(axis=1), probabilities.max(axis=1), log_losses(labels, probabilities)
    order = np.lexsort((predicted, top, losses, labels))
    names, starts, support = np.unique(labels[order], return_index=True, return_counts=True)
    right = (predicted == labels)[order].astype(np.float64)
    return _Images(
        starts=starts,
        support=support,
        names=names,
        predicted=predicted[order],
        right=right,
        losses=losses[order],
        bins=_bin_of(top[order], BINS),
        excess=top[order] - right,
        classes=probabilities.shape[1],
    )


def _drawn_rows(starts: Integers, support: Integers, rng: np.random.Generator) -> Integers:
    """Row numbers of images sorted by class: for every image another one of its class, with replacement."""
    offsets = rng.random(int(support.sum())) * np.repeat(support, support)
    return offsets.astype(np.int64) + np.repeat(starts, support)


def _values(images: _Images, rows: Integers | slice) -> dict[str, float]:
    """Every figure of the chosen rows, which must keep each class's support and order."""
    right = np.add.reduceat(images.right[rows], images.starts)
    losses = np.add.reduceat(images.losses[rows], images.starts)
    named = np.bincount(images.predicted[rows], minlength=images.classes)[images.names]
    excess = np.bincount(images.bins[rows], weights=images.excess[rows])
    n = images.support.sum()
    return {
        "accuracy": float(right.sum() / n),
        "balanced_accuracy": float(np.mean(right / images.support)),
        "macro_f1": float(np.mean(2 * right / (images.support + named))),
        "worst_class_recall": float(np.min(right / images.support)),
        "log_loss": float(losses.sum() / n),
        "balanced_log_loss": float(np.mean(losses / images.support)),
        "ece": float(np.abs(excess).sum() / n),
    }


def _draw_recalls(images: _Images, rng: np.random.Generator, draws: int) -> dict[str, NDArray[np.float64]]:
    right = np.add.reduceat(images.right, images.starts)
    p = (right + 0.5) / (images.support + 1)
    drawn = rng.binomial(images.support, p, size=(draws, len(p))) / images.support
    around = drawn - p + right / images.support  # may leave [0, 1]: clipped once averaged, or it would be pulled again
    share = images.support / images.support.sum()
    return {
        "accuracy": np.stack([drawn @ share, np.clip(around @ share, 0.0, 1.0)]),
        "balanced_accuracy": np.stack([drawn.mean(axis=1), np.clip(around.mean(axis=1), 0.0, 1.0)]),
        "worst_class_recall": drawn.min(axis=1),
    }


def _interval(value: float, drawn: Floats) -> Figure:
    """The 95 % interval of some draws (..., draws), widened to hold that of every row and the value."""
    low, high = np.percentile(drawn, [(100 - LEVEL) / 2, (100 + LEVEL) / 2], axis=-1)
    return Figure(value, float(np.min(low, initial=value)), float(np.max(high, initial=value)))
