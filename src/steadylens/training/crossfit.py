"""What networks say of images that they were not trained on, for every image of a data set: cross-fitting.

The images are dealt into folds. For each fold a network is trained on the other folds, and asked about this one, and
about those that it was trained on.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from steadylens.config import Config, Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.models import fresh
from steadylens.models.distance import MOST_KNOWN, distances_to_known
from steadylens.models.inference import features_of, logits_of
from steadylens.training.clock import Clock
from steadylens.training.loop import begin, train_epoch
from steadylens.training.mirroring import answers
from steadylens.training.resolution import resolve
from steadylens.training.state import Step, Training

FOLDS = 5
_DECAY = 0.05  # usual for AdamW; that of the rules suits Muon
_DEAL = 3  # keeps this use of a seed apart from those of data.batches


@dataclass(frozen=True, slots=True)
class CrossFit:
    """What networks say of images, as cross-fitting tells it.

    Attributes:
        judged: (m,) positions in the images given, ascending. Left out are those that alone show their class: without
            them, no network could know it.
        logits: (m, classes), of the networks that were not trained on the image.
        seen: (m, classes), of the networks that were: what they learned against the label is as telling.
        distances: (m,) how far each is from what its networks were trained on; see `distances_to_known`.
    """

    judged: NDArray[np.int64]
    logits: NDArray[np.float32]
    seen: NDArray[np.float32]
    distances: NDArray[np.float32]


def cross_fit(
    images: LabelledPixels,
    units: NDArray[np.int64],
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    folds: int = FOLDS,
    seconds: float | None = None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> CrossFit:
    """Train a network for each fold on the others, and ask it about all images.

    Args:
        images: all images, with the labels that are in doubt.
        units: (n,) a number for each image; images of one number (copies, one film) are never in two folds.
        recipe: of every one of the networks, but for the seed.
        preprocessing: how pixels become input.
        folds: how many networks.
        seconds: of wall time for everything; None where the recipe's epochs alone decide.
        on_progress: told the share that is done, after each step.

    Raises:
        ConfigError: the loss is no longer a number.
    """
    start, n = time.perf_counter(), len(images)
    fold_of = deal(images.labels, units, folds, recipe.seed)
    logits, seen = np.zeros((2, n, len(recipe.classes)), np.float32)
    distances, asking_s = np.zeros(n, np.float32), 0.0
    for fold in range(folds):
        known, held_out = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        if not len(held_out):  # fewer units than folds
            continue

        def on_step(step: Step, before: int = fold) -> None:
            on_progress((before + min(1.0, step.progress)) / folds)

        left = None if seconds is None else (seconds - (time.perf_counter() - start)) / (folds - fold) - asking_s
        its_recipe = replace(recipe, seed=recipe.seed + fold)
        training = _train(_part(images, known), its_recipe, preprocessing, left, on_step)
        asked = time.perf_counter()
        said, distances[held_out] = _ask(training, images, held_out)
        asking_s = time.perf_counter() - asked
        logits[held_out] = said[held_out]
        seen[known] += said[known] / (folds - 1)
    judged = np.flatnonzero(fold_of >= 0)
    return CrossFit(judged, logits[judged], seen[judged], distances[judged])


def choose_recipe(
    images: LabelledPixels,
    units: NDArray[np.int64],
    classes: tuple[str, ...],
    preprocessing: Preprocessing,
    config: Config,
    *,
    folds: int = FOLDS,
    seconds: float | None,
) -> Recipe:
    """The recipe that `resolve` gives for one of the folds, in its part of the seconds there are.

    What would bend the probabilities is left out: remedies for imbalance, since a rare class is to stay improbable, and
    stopping by the held-out images, whose labels are in doubt. And AdamW trains, with the decay that suits it, since
    Muon learns wrong labels sooner. At least one image must be in a fold (see `deal`).
    """
    fold_of = deal(images.labels, units, folds, config.seed)
    one = fold_of[fold_of >= 0].min()  # which is not the first where that would hold lone classes only
    known, held_out = (_part(images, np.flatnonzero(which)) for which in (fold_of != one, fold_of == one))
    plain = replace(config, imbalance="none", minority_augment=0.0, early_stopping=0, members=1)
    left = None if seconds is None else seconds / folds
    recipe = resolve(plain, classes, known, held_out, preprocessing, "the images' own", seconds=left).recipe
    with_muon = recipe.optimizer == "muon" and config.l2 == "auto"
    return replace(recipe, optimizer="adamw", l2=_DECAY if with_muon else recipe.l2)


def deal(labels: NDArray[np.int64], units: NDArray[np.int64], folds: int, seed: int) -> NDArray[np.int64]:
    """Deal images into folds, class by class and units whole.

    A unit of several classes counts for the rarest of them. Where all images of a class would be in one fold, they and
    what is in one unit with them are in none.

    Args:
        labels: (n,)
        units: (n,) images of the same number stay together.
        folds: how many.
        seed: of the order in which the units of a class are dealt.

    Returns:
        (n,) the fold of each image, from 0; -1 for those that are in none.
    """
    unit_of = np.unique(units, return_inverse=True)[1]
    support = np.bincount(labels)
    rarest_first = np.lexsort((labels, support[labels]))
    first = np.unique(unit_of[rarest_first], return_index=True)[1]
    class_of = labels[rarest_first[first]]  # of each unit
    order = np.lexsort((np.random.default_rng([seed, _DEAL]).permutation(len(class_of)), class_of))
    fold_of_unit = np.empty(len(order), np.int64)
    fold_of_unit[order] = np.arange(len(order)) % folds
    fold_of = fold_of_unit[unit_of]
    lone = [label for label in np.unique(labels) if len(np.unique(fold_of[labels == label])) == 1]
    fold_of[np.isin(unit_of, unit_of[np.isin(labels, lone)])] = -1
    return fold_of


def _train(
    known: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    seconds: float | None,
    on_step: Callable[[Step], None],
) -> Training:
    training = begin(fresh(recipe), known, recipe, preprocessing, None, on_step)
    clock, stopped = Clock(seconds, recipe.epochs), ""
    while not stopped:
        _, stopped = train_epoch(training, clock)
    return training


def _ask(
    training: Training, images: LabelledPixels, held_out: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A trained network's logits of all images, and how far the held-out ones are from those that it knows."""
    network, recipe, preprocessing = training.network, training.recipe, training.preprocessing
    with training.average.shown_by(network):
        if recipe.flip:
            _, logits = answers(network, images, preprocessing, recipe.precision)
        else:
            logits = logits_of(network, images, preprocessing, precision=recipe.precision)
        parts = (training.images.sample(MOST_KNOWN, recipe.seed), _part(images, held_out))
        known, asked = (features_of(network, part, preprocessing, precision=recipe.precision) for part in parts)
    return logits, distances_to_known(known, asked)


def _part(images: LabelledPixels, positions: NDArray[np.int64]) -> LabelledPixels:
    return LabelledPixels(images.pixels, images.rows[positions], images.labels[positions])
