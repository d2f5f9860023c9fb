"""Temperature scaling: one number that makes probabilities say how often they are right.

Source: Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks", 2017, section 4.2.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from steadylens.metrics import Floats, Integers, softmax

# How far from 1 the temperature is before the images are seen: a factor of 2 either way is one standard deviation, the
# range in which networks trained in the usual ways lie. A few images that happen to be all right would otherwise ask
# for a temperature of 0 and certainty in every answer; a few hundred images outweigh it.
PRIOR = math.log(2.0)
# Networks trained in the usual ways need about 0.5 to 5; the bounds only keep the search finite
# where the best temperature is 0 (nothing is wrong) or infinite (the logits say nothing).
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: Floats, labels: Integers) -> float:
    """The temperature in [0.05, 20] that best explains these images: the class-balanced log-loss, with a weak prior.

    Every class that has images counts the same, so that a rare class has the say of a common one.
    The loss is taken as many times as there are images in effect (Kish 1965: the inverse of the sum of squared
    weights), and the prior on the logarithm of the temperature is normal (see `PRIOR`).

    Args:
        logits: (n, classes), of images that the training did not see.
        labels: (n,)
    """
    z = np.asarray(logits, dtype=np.float64)
    support = np.bincount(labels)
    weights = 1.0 / (support[labels] * np.count_nonzero(support))

    effective = 1.0 / float(weights @ weights)

    def improbability(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        losses = logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]
        return float(effective * (weights @ losses)) + 0.5 * (log_temperature / PRIOR) ** 2

    found = minimize_scalar(improbability, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.clip(np.exp(found.x), LOWEST, HIGHEST))


def apply_temperature(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Calibrated probabilities (n, classes) of logits (n, classes); the order of the classes never changes."""
    return softmax(np.asarray(logits, dtype=np.float64) / temperature)
