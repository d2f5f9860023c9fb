"""Temperature scaling: one number that makes probabilities say how often they are right.

Source: Guo, Pleiss, Sun & Weinberger, "On Calibration of Modern Neural Networks", 2017, section 4.2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from steadylens.metrics import Floats, Integers, softmax

# Networks trained in the usual ways need about 0.5 to 5; the bounds only keep the search finite
# where the best temperature is 0 (nothing is wrong) or infinite (the logits say nothing).
LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(logits: Floats, labels: Integers) -> float:
    """The temperature in [0.05, 20] with the lowest class-balanced log-loss on these images.

    Every class that has images counts the same, so that a rare class has the say of a common one.
    The loss is convex in 1 / temperature and so has a single minimum, which the bounded search in
    log-temperature finds.

    Args:
        logits: (n, classes), of images that the training did not see.
        labels: (n,)
    """
    z = np.asarray(logits, dtype=np.float64)
    support = np.bincount(labels)
    weights = 1.0 / (support[labels] * np.count_nonzero(support))

    def balanced_log_loss(log_temperature: float) -> float:
        scaled = z / np.exp(log_temperature)
        return float(weights @ (logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]))

    found = minimize_scalar(balanced_log_loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded")
    return float(np.clip(np.exp(found.x), LOWEST, HIGHEST))


def apply_temperature(logits: Floats, temperature: float) -> NDArray[np.float64]:
    """Calibrated probabilities (n, classes) of logits (n, classes); the order of the classes never changes."""
    return softmax(np.asarray(logits, dtype=np.float64) / temperature)
