"""Whether one network is better than another on the same images, by more than chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from steadylens.metrics import balanced_log_loss, log_losses, softmax

Logits = NDArray[np.float32]

# Overconfidence raises the log-loss long before it costs accuracy, and calibration will remove it. So networks are
# compared at the best of these temperatures each, and not by how sure of themselves they happen to be.
TEMPERATURES = np.geomspace(0.5, 8.0, 17)

SURE = 0.95  # how sure a gain on the validation images must be to be acted on


@dataclass(frozen=True)
class Gain:
    """How a network does beside another, such as the probe, on the validation images.

    Attributes:
        loss: its balanced log-loss at its best temperature.
        difference: that, less the other's.
        margin: by which the difference must be below 0 to be more than chance.
    """

    loss: float
    difference: float
    margin: float

    @property
    def is_sure(self) -> bool:
        """Whether it is better by more than chance."""
        return self.difference < -self.margin


def tempered_log_loss(logits: Logits, labels: NDArray[np.int64]) -> float:
    """The balanced log-loss of some logits, (n, classes), at the best of `TEMPERATURES`."""
    return balanced_mean(tempered_losses(logits, labels), labels)


def tempered_losses(logits: Logits, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The log-loss of each image, (n,), at the one of `TEMPERATURES` that is best for the balanced mean of them."""
    best = min(TEMPERATURES, key=lambda t: balanced_log_loss(labels, softmax(logits / t)))
    return log_losses(labels, softmax(logits / best))


def balanced_mean(losses: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The mean of the losses (n,), in which each class counts the same."""
    return float(_weights(labels) @ losses)


def gain_of(logits: Logits, of_other: Logits, labels: NDArray[np.int64]) -> Gain:
    """Compare two networks' logits (n, classes) on the same images, each at its best temperature."""
    return gain_between(tempered_losses(logits, labels), tempered_losses(of_other, labels), labels)


def gain_between(
    losses: NDArray[np.float64], of_other: NDArray[np.float64], labels: NDArray[np.int64], *, candidates: int = 1
) -> Gain:
    """Compare two networks' losses (n,) on the same images.

    The difference is a mean of paired differences in which each class counts the same; its margin is Student's
    one-sided quantile times its standard error, with as many images as there are in effect (Kish 1965).

    Args:
        losses: of the one that may be better.
        of_other: of the other.
        labels: (n,).
        candidates: from how many the one was chosen by these images: the best of many is better by chance too, so that
            the chance of error is shared out among them (Bonferroni).
    """
    weights = _weights(labels)
    differences = losses - of_other
    mean = float(weights @ differences)
    effective = 1.0 / float(weights @ weights)
    if effective < 2:
        return Gain(float(weights @ losses), mean, math.inf)
    variance = float(weights**2 @ (differences - mean) ** 2) * effective / (effective - 1)
    quantile = float(student.ppf(1 - (1 - SURE) / candidates, effective - 1))
    return Gain(float(weights @ losses), mean, quantile * math.sqrt(variance))


def _weights(labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """What each image counts, (n,), where each class counts the same and all together 1."""
    support = np.bincount(labels)
    weights: NDArray[np.float64] = 1.0 / (support[labels] * np.count_nonzero(support))
    return weights
