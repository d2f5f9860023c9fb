"""One recipe, several networks: where more epochs would only teach a network its training images by heart.

Members differ in their first weights, in the order of their images and in how these are augmented: all follow from a
seed of each one's own. They are trained one after another, each with an equal part of the time. A member joins unless
the mean of all logits is surely worse for it on the validation images: members of one recipe are alike, their mean is
better the more there are, and on few images of a class it only seems otherwise.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from steadylens.config import Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.metrics import balanced_accuracy
from steadylens.models import fresh
from steadylens.models.ensemble import Ensemble
from steadylens.models.inference import logits_of
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.gain import gain_of
from steadylens.training.loop import fit
from steadylens.training.position import elapsed_at, fitted_from, outcome_of
from steadylens.training.state import Epoch, Fitted, Member, Step, judged_on_both

_APART = 2**20  # between the seeds of members, so that runs with seeds 0, 1, 2 have none in common


def fit_members(
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    seconds: float | None = None,
    checkpoints: Checkpoints | None = None,
    place: Checkpoint | None = None,
    first: Fitted | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Train as many networks as the recipe has members, and put those together of which none is surely worse.

    Args:
        train: images to learn from.
        validation: images to choose each one's weights by, and to judge whether it joins.
        recipe: what to do; its seed is that of the first member.
        preprocessing: how pixels become input.
        seconds: of wall time for everything done here; None where the recipe's epochs alone decide.
        checkpoints: where trainings are kept, and gone on from.
        place: where a trial got to, which the first training goes on with.
        first: the first training where it is done (see `fit_first`).
        on_step: told after each step of any of them.
        on_epoch: told after each measured epoch of the first.
        say: told of each further member, and whether it joins.

    Returns:
        The training of the first member, with the network that answers and its figures.

    Raises:
        ConfigError: the loss is no longer a number.
        ResourceError: a checkpoint could not be written.
        Interrupted: after a step, which is saved.
    """
    begin, checkpoints = time.perf_counter(), checkpoints or Checkpoints(None)
    train_one = partial(_member, train, validation, recipe, preprocessing, checkpoints=checkpoints, on_step=on_step)

    def share(number: int) -> float | None:
        if seconds is None:
            return None
        start = checkpoints.position(_stage(number)) or (None if number else place)
        gone = elapsed_at(start)  # is part of its share, and over
        left = seconds - (time.perf_counter() - begin)
        return max(0.0, (left + gone) / (recipe.members - number) - gone)

    if first is None:
        first = train_one(0, share(0), place=place, on_epoch=on_epoch)
    if recipe.members == 1:
        return first
    ask = partial(logits_of, preprocessing=preprocessing, precision=recipe.precision)
    answers = [ask(first.network, validation)]
    networks, members = [first.network], [_about(first, first.kept.validation_balanced_accuracy, joins=True)]
    for number in range(1, recipe.members):
        one = train_one(number, share(number))
        theirs = ask(one.network, validation)
        without = gain_of(np.mean(answers, 0), np.mean([*answers, theirs], 0), validation.labels)
        joins = not without.is_sure
        if joins:
            answers.append(theirs)
            networks.append(one.network)
        found = np.mean(answers, 0).argmax(1)
        members.append(_about(one, balanced_accuracy(validation.labels, found, len(recipe.classes)), joins=joins))
        say(
            f"network {number + 1} of {recipe.members} {'joins' if joins else 'does not join'}: balanced log-loss on "
            f"validation {without.loss - without.difference:.3f} with it, {without.loss:.3f} without"
        )
    fitted = replace(first, members=tuple(members), seconds=sum(member.seconds for member in members))
    if len(networks) == 1:
        return fitted
    network, sample = Ensemble(networks).eval(), train.sample(max(1000, len(validation)), recipe.seed)
    figures = np.mean(answers, 0), validation.labels, ask(network, sample), sample.labels
    return replace(fitted, network=network, kept=judged_on_both(fitted.kept, *figures))


def fit_first(
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    seconds: float,
    checkpoints: Checkpoints,
    on_step: Callable[[Step], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Fitted:
    """Train the first member alone, or take what was trained: in so many seconds, those of earlier processes included.

    All else is as in `fit_members`, which takes it as `first`.
    """
    gone = elapsed_at(checkpoints.position(_stage(0)))
    return _member(
        train, validation, recipe, preprocessing, 0, max(0.0, seconds - gone),
        checkpoints=checkpoints, on_step=on_step, on_epoch=on_epoch,
    )  # fmt: skip


def _member(
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    number: int,
    seconds: float | None,
    *,
    checkpoints: Checkpoints,
    place: Checkpoint | None = None,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Fitted:
    """Train one member, or take what was trained."""
    own = replace(recipe, seed=(recipe.seed + number * _APART) % 2**32)
    network, name = fresh(own), f"member.{number}"

    def stepped(step: Step) -> None:
        on_step(replace(step, progress=(number + min(1.0, step.progress)) / recipe.members))

    kept = checkpoints.outcome(name)
    if kept is not None:
        return fitted_from(kept, network, preprocessing)
    fitted = fit(
        network, train, validation, own, preprocessing,
        seconds=seconds, checkpoints=checkpoints, stage=_stage(number), place=place,
        on_step=stepped, on_epoch=on_epoch,
    )  # fmt: skip
    if recipe.members > 1:
        checkpoints.keep(name, outcome_of(fitted))
    return fitted


def _stage(number: int) -> str:
    """What the checkpoints call the training of a member; that of the first is what it is where there is one alone."""
    return f"member.{number}" if number else "training"


def _about(one: Fitted, together: float, *, joins: bool) -> Member:
    return Member(one.epochs, one.seconds, one.kept.validation_balanced_accuracy, together, joins)
