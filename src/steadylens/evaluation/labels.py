"""Which labels are probably wrong, and which images are like no others, by networks that were not trained on them.

How many labels are wrong is counted without trusting any probability. What a wrong label looks like to a network is
known: as the image's other classes do. So where of all labels the share F(s) is at most as plausible as s, and of all
other classes the share W(s), F(s) is at least the share of wrong labels times W(s): the share of wrong labels is at
most the least of F / W, and close to it, because the most implausible labels are nearly all wrong. (It is the way in
which the share of one component of a mixture is found where a sample of that component is at hand: Blanchard, Lee &
Scott, "Semi-Supervised Novelty Detection", 2010. Labels are taken to be wrong in favour of any class alike.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, log_softmax

from steadylens.config import Config
from steadylens.data.batches import LabelledPixels, preprocessing_of
from steadylens.data.findings import Finding, Suggestion, Sure
from steadylens.data.folders import counted
from steadylens.evaluation.calibration import HIGHEST, LOWEST, PRIOR
from steadylens.metrics import Floats, Integers
from steadylens.training.crossfit import FOLDS, choose_recipe, cross_fit, deal

MOST_NOISE = 0.5  # where more labels than this are wrong, they cannot tell what is right
# The least of F / W is looked for from so many images on: below, it is chance. Half a standard error is added to each
# F, since the least of many ratios lies below them; in simulations with 1 to 30 % of CIFAR-10's labels made wrong this
# leaves the count within a few per cent on average.
_FEWEST, _ONE_IN = 3, 500
_EVIDENCE = 1.35  # gain in log-likelihood that chance alone reaches once in 20 times (half of chi-squared at 90 %)
_SMALLEST = float(np.finfo(np.float64).tiny)
_SHOWN = 3  # images of which a finding's text says what they look like


@dataclass(frozen=True, slots=True)
class Doubts:
    """How doubtful labels are.

    Attributes:
        scores: (n,) higher is more doubtful: minus the log-odds of the label.
        suspicious: (n,) whether the label is among those that are taken to be wrong.
        other: (n,) the most probable of the other classes.
        probability: (n,) of that class.
        noise: estimated share of wrong labels.
    """

    scores: NDArray[np.float64]
    suspicious: NDArray[np.bool_]
    other: NDArray[np.int64]
    probability: NDArray[np.float64]
    noise: float


def doubt(logits: Floats, labels: Integers, seen: Floats | None = None) -> Doubts:
    """Estimate how many labels are wrong, and take that many of the least plausible ones to be so.

    Args:
        logits: (n, classes), before calibration, of networks that were not trained on the image; at least two classes.
        labels: (n,) the labels in doubt.
        seen: (n, classes), of networks that were trained on the image. They are not asked how many labels are wrong,
            but have the same say in which ones.
    """
    rows = np.arange(len(labels))
    temperature, evident = _fit(np.asarray(logits, np.float64), labels)
    plausible = _log_odds(logits / temperature)
    noise = wrong_share(plausible, labels) if evident else 0.0
    if noise >= MOST_NOISE:
        noise = 0.0  # the networks have learned too little to say anything
    together = np.asarray(logits if seen is None else (logits + seen) / 2, np.float64) / temperature
    scores = -_log_odds(together)[rows, labels]
    suspicious = np.zeros(len(labels), bool)
    suspicious[np.argsort(-scores, kind="stable")[: round(noise * len(labels))]] = True
    probabilities = np.exp(log_softmax(together, axis=1))
    probabilities[rows, labels] = -1.0
    other = probabilities.argmax(1)
    return Doubts(scores, suspicious, other, probabilities[rows, other], noise)


def wrong_share(plausible: Floats, labels: Integers) -> float:
    """The estimated share of wrong labels, at most `MOST_NOISE`; see the top of this module.

    Args:
        plausible: (n, classes) how plausible each class is for each image, in any unit.
        labels: (n,)
    """
    n = len(labels)
    mine = np.arange(plausible.shape[1]) == labels[:, None]
    given, others = np.sort(plausible[mine]), np.sort(plausible[~mine])
    counts = np.searchsorted(given, given, side="right")
    share_of_all = (counts + 0.5 * np.sqrt(counts)) / n
    share_of_others = np.searchsorted(others, given, side="right") / len(others)
    start = max(_FEWEST, n // _ONE_IN) - 1
    ratios = share_of_all[start:] / np.maximum(share_of_others[start:], _SMALLEST)
    return float(ratios.min(initial=MOST_NOISE))


def _fit(logits: NDArray[np.float64], labels: Integers) -> tuple[float, bool]:
    """The temperature, and whether there is evidence that any label is wrong.

    The model: the true class is drawn from softmax(logits / temperature), the label is the true class or, with the
    probability `noise`, any of the others. The evidence is how much more probable the labels are with noise than
    without, each at its best temperature, with the weak prior of `calibration` on it.
    """
    rows, others = np.arange(len(labels)), logits.shape[1] - 1

    def improbability(log_temperature: float, noise: float) -> float:
        right = np.exp(log_softmax(logits / np.exp(log_temperature), axis=1)[rows, labels])
        mixed = (1 - noise) * right + noise * (1 - right) / others
        return float(-np.log(np.maximum(mixed, _SMALLEST)).sum() + 0.5 * (log_temperature / PRIOR) ** 2)

    range_of = (np.log(LOWEST), np.log(HIGHEST))
    clean = minimize_scalar(lambda t: improbability(t, 0.0), bounds=range_of, method="bounded")
    noisy = minimize(
        lambda p: improbability(p[0], MOST_NOISE * expit(p[1])),
        [clean.x, -3.0],
        method="Nelder-Mead",
        bounds=[range_of, (-12.0, 12.0)],
    )
    return float(np.exp(noisy.x[0])), bool(clean.fun - noisy.fun > _EVIDENCE)


def _log_odds(logits: Floats) -> NDArray[np.float64]:
    """The log-odds of each class against all others together, (n, classes)."""
    of_one = log_softmax(np.asarray(logits, np.float64), axis=1)
    odds: NDArray[np.float64] = of_one - np.log(np.maximum(-np.expm1(of_one), _SMALLEST))
    return odds


def suspicious_labels(
    doubts: Doubts, labels: Integers, classes: Sequence[str], paths: Sequence[str]
) -> tuple[Finding, ...]:
    """The suspicious labels: one finding for each class and degree of certainty.

    Args:
        doubts: about each label.
        labels: (n,) the labels in doubt.
        classes: the names.
        paths: (n,) of the images.

    Returns:
        The findings with the most suspicious images first; in each, the paths are in that order too. The more
        suspicious half of the images is "likely" wrong.
    """
    order = np.argsort(-doubts.scores, kind="stable")
    suspects = order[doubts.suspicious[order]].tolist()
    found: dict[tuple[Sure, int], list[int]] = {}
    for place, row in enumerate(suspects):
        sure: Sure = "likely" if 2 * place < len(suspects) else "possible"
        found.setdefault((sure, int(labels[row])), []).append(row)
    return tuple(_suspicion(sure, label, rows, doubts, classes, paths) for (sure, label), rows in found.items())


def outliers(distances: Floats, paths: Sequence[str]) -> tuple[Finding, ...]:
    """The images that are far from all that networks were trained on; none or one finding, the farthest image first.

    Far is what lies beyond Tukey's fence (1977): one and a half interquartile ranges above the upper quartile.

    Args:
        distances: (n,) see `models.distance`.
        paths: (n,) of the images.
    """
    if not len(distances):
        return ()
    lower, upper = np.quantile(distances, (0.25, 0.75))
    order = np.argsort(-distances, kind="stable")
    far = [paths[row] for row in order if distances[row] > upper + 1.5 * (upper - lower)]
    if not far:
        return ()
    text = f"{counted(far, 'image')} unlike everything that the network was trained on, the most unlike first."
    advice = "Look at them: remove what does not belong to any class; add images like those that do."
    return (Finding("outlier", text, "possible", advice, tuple(far)),)


def check_all(
    images: LabelledPixels,
    units: NDArray[np.int64],
    classes: tuple[str, ...],
    paths: Sequence[str],
    config: Config,
    *,
    seconds: float | None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> tuple[Finding, ...]:
    """Check the label of every image, and whether it is like others, by cross-fitting.

    Args:
        images: all images.
        units: (n,) images of the same number (copies, near-duplicates, one group) are never judged by a network that
            was trained on another of them.
        classes: the names.
        paths: (n,) of the images.
        config: of the networks; its seed is that of everything random.
        seconds: of wall time; None where the config's epochs alone decide.
        on_progress: told the share that is done.

    Raises:
        ConfigError: the loss is no longer a number.
    """
    if (deal(images.labels, units, FOLDS, config.seed) < 0).all():
        return tuple(_unchecked(sorted(paths)))
    begin, preprocessing = time.perf_counter(), preprocessing_of(images)
    recipe = choose_recipe(images, units, classes, preprocessing, config, seconds=seconds)
    left = None if seconds is None else seconds - (time.perf_counter() - begin)
    said = cross_fit(images, units, recipe, preprocessing, seconds=left, on_progress=on_progress)
    labels, judged = images.labels[said.judged], [paths[row] for row in said.judged]
    doubts = doubt(said.logits, labels, said.seen)
    return (
        *suspicious_labels(doubts, labels, classes, judged),
        *outliers(said.distances, judged),
        *_unchecked(sorted(set(paths) - set(judged))),
    )


def _unchecked(paths: Sequence[str]) -> Iterator[Finding]:
    if paths:
        text = f"{counted(paths, 'image')} not checked for a wrong label: without them nothing shows their class."
        yield Finding("unchecked-label", text, "certain", "Add other images of these classes.", tuple(paths))


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
