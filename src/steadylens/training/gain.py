"""Whether one network is better than another on the same images, by more than chance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from steadylens.metrics import balanced_log_loss, softmax
from steadylens.training.early_stopping import TEMPERATURES

Logits = NDArray[np.float32]

SURE = 0.95  # how sure a gain on the validation images must be before fine-tuned weights take the probe's place


@dataclass(frozen=True)
class Gain:
    """How a network does beside the probe on the validation images.

    Attributes:
        loss: its balanced log-loss at its best temperature.
        difference: that, less the probe's.
        margin: by which the difference must be below 0 to be more than chance.
    """

    loss: float
    difference: float
    margin: float

    @property
    def is_sure(self) -> bool:
        """Whether it is better by more than chance."""
        return self.difference < -self.margin


def gain_of(logits: Logits, of_probe: Logits, labels: NDArray[np.int64]) -> Gain:
    """Compare two networks' logits (n, classes) on the same images, each at its best temperature.

    The difference is a mean of paired differences in which each class counts the same; its margin is Student's
    one-sided quantile times its standard error, with as many images as there are in effect (Kish 1965).
    """
    support = np.bincount(labels)
    weights = 1.0 / (support[labels] * np.count_nonzero(support))
    losses, losses_of_probe = _losses(logits, labels), _losses(of_probe, labels)
    differences = losses - losses_of_probe
    mean = float(weights @ differences)
    effective = 1.0 / float(weights @ weights)
    if effective < 2:
        return Gain(float(weights @ losses), mean, math.inf)
    variance = float(weights**2 @ (differences - mean) ** 2) * effective / (effective - 1)
    return Gain(float(weights @ losses), mean, float(student.ppf(SURE, effective - 1)) * math.sqrt(variance))


def _losses(logits: Logits, labels: NDArray[np.int64]) -> NDArray[np.float64]:
    """The log-loss of each image, (n,), at the temperature that is best for all of them."""
    best = min(TEMPERATURES, key=lambda t: balanced_log_loss(labels, softmax(logits / t)))
    chosen = softmax(logits / best)[np.arange(len(labels)), labels]
    losses: NDArray[np.float64] = -np.log(np.clip(chosen, 1e-12, None))
    return losses
