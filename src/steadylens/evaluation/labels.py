"""Which labels are probably wrong, and which images are like no others, by networks that were not trained on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax

from steadylens.data.findings import Finding, Suggestion, Sure
from steadylens.data.folders import counted
from steadylens.evaluation.calibration import HIGHEST, LOWEST, PRIOR
from steadylens.metrics import Floats, Integers

SUSPICIOUS = 0.5  # more probably wrong than right
LIKELY = 0.9  # one in ten of those that are just this suspicious is right after all
MOST_NOISE = 0.5  # where more labels than this are wrong, they cannot tell what is right
_SMALLEST = float(np.finfo(np.float64).tiny)
_SHOWN = 3  # images of which a finding's text says what they look like


@dataclass(frozen=True, slots=True)
class Doubts:
    """How doubtful labels are.

    Attributes:
        wrong: (n,) probability that the label is wrong.
        other: (n,) the most probable of the other classes.
        probability: (n,) of that class, by the network alone.
        noise: estimated share of wrong labels.
        temperature: of the logits.
    """

    wrong: NDArray[np.float64]
    other: NDArray[np.int64]
    probability: NDArray[np.float64]
    noise: float
    temperature: float


def doubt(logits: Floats, labels: Integers) -> Doubts:
    """The probability that labels are wrong, and how many are, from the logits of networks not trained on them.

    The model: an image's true class is drawn from softmax(logits / temperature), and its label is the true class, or
    with probability `noise` any of the other classes, each as probable. So of the labels that a network finds all but
    impossible, more occur than its probabilities allow; by how many is what tells the noise. Temperature and noise are
    those under which the labels are most probable, with the weak prior of `calibration` on the temperature; the
    probability that a label is wrong then follows from Bayes' rule.

    Args:
        logits: (n, classes), before calibration; at least two classes.
        labels: (n,) the labels in doubt.
    """
    z, rows, others = np.asarray(logits, np.float64), np.arange(len(labels)), logits.shape[1] - 1

    def given(log_temperature: float) -> NDArray[np.float64]:
        """The probability of the given class, without noise."""
        probabilities: NDArray[np.float64] = np.exp(log_softmax(z / np.exp(log_temperature), axis=1)[rows, labels])
        return probabilities

    def joint(parameters: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The probabilities of the given label being right and of its being wrong."""
        noise, right = MOST_NOISE * expit(parameters[1]), given(parameters[0])
        return (1 - noise) * right, noise * (1 - right) / others

    def improbability(parameters: NDArray[np.float64]) -> float:
        right, wrong = joint(parameters)
        return float(-np.log(np.maximum(right + wrong, _SMALLEST)).sum() + 0.5 * (parameters[0] / PRIOR) ** 2)

    bounds = [(np.log(LOWEST), np.log(HIGHEST)), (-12.0, 12.0)]
    found = minimize(improbability, [0.0, -3.0], method="Nelder-Mead", bounds=bounds).x
    right, wrong = joint(found)
    probabilities = np.exp(log_softmax(z / np.exp(found[0]), axis=1))
    probabilities[rows, labels] = -1.0
    other = probabilities.argmax(1)
    return Doubts(
        wrong / np.maximum(right + wrong, _SMALLEST),
        other,
        probabilities[rows, other],
        float(MOST_NOISE * expit(found[1])),
        float(np.exp(found[0])),
    )


def suspicious_labels(
    doubts: Doubts, labels: Integers, classes: Sequence[str], paths: Sequence[str]
) -> tuple[Finding, ...]:
    """The labels that are more probably wrong than right: one finding for each class and degree of certainty.

    Args:
        doubts: about each label.
        labels: (n,) the labels in doubt.
        classes: the names.
        paths: (n,) of the images.

    Returns:
        The findings with the most suspicious images first; in each, the paths are in that order too.
    """
    order = np.argsort(-doubts.wrong, kind="stable")
    found: dict[tuple[Sure, int], list[int]] = {}
    for row in order[doubts.wrong[order] > SUSPICIOUS].tolist():
        sure: Sure = "likely" if doubts.wrong[row] > LIKELY else "possible"
        found.setdefault((sure, int(labels[row])), []).append(row)
    return tuple(_suspicion(sure, label, rows, doubts, classes, paths) for (sure, label), rows in found.items())


def outliers(distances: Floats, paths: Sequence[str]) -> tuple[Finding, ...]:
    """The images that are far from all that networks were trained on; none or one finding, the farthest image first.

    Far is what lies beyond Tukey's outer fence (1977): three times the interquartile range above the upper quartile.

    Args:
        distances: (n,) see `models.distance`.
        paths: (n,) of the images.
    """
    if not len(distances):
        return ()
    lower, upper = np.quantile(distances, (0.25, 0.75))
    order = np.argsort(-distances, kind="stable")
    far = [paths[row] for row in order if distances[row] > upper + 3 * (upper - lower)]
    if not far:
        return ()
    text = f"{counted(far, 'image')} unlike everything that the network was trained on, the most unlike first."
    advice = "Look at them: remove what does not belong to any class; add images like those that do."
    return (Finding("outlier", text, "possible", advice, tuple(far)),)


def _suspicion(
    sure: Sure, label: int, rows: Sequence[int], doubts: Doubts, classes: Sequence[str], paths: Sequence[str]
) -> Finding:
    seen = ", ".join(f"{classes[doubts.other[row]]!r} ({doubts.probability[row]:.0%})" for row in rows[:_SHOWN])
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    text = (
        f"{counted(rows, 'image')} labelled {classes[label]!r} {'looks' if len(rows) == 1 else 'look'} like another "
        f"class to a network that was not trained on {'it' if len(rows) == 1 else 'them'}: {seen}{more}."
    )
    relabel = tuple(Suggestion(paths[row], "relabel", classes[doubts.other[row]]) for row in rows)
    advice = "Look at them, and move those that are in the wrong class."
    return Finding("label", text, sure, advice, tuple(paths[row] for row in rows), (), relabel)
