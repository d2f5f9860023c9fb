"""Model selection by successive halving: recipes beside that of the rules, each begun, and the best one gone on with.

A trial is the beginning of the very training that it would become. The recipe of the rules begins. How it learns tells
where to look: for more regularisation or for less, for a larger network or a smaller one. Challengers follow it to the
first rung; the best of them goes on, beside the recipe of the rules, to the last rung; and the better of the two is
trained to the end, from where it stands. What the others took is all that selection costs, and it is bounded.

Source: successive halving, Jamieson & Talwalkar 2016; here with two rungs, a reference that is never dropped before the
last one, and a test of whether a lead is more than chance.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadylens.config import Config, Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.models import spec_of
from steadylens.models.pretrained import Pretrained
from steadylens.training.account import accounts, line, none_near, what_was_tried, where
from steadylens.training.challengers import CHANGEABLE, Challenger, Look, challengers_of
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.folds import Fold, folds_of
from steadylens.training.gain import Gain, gain_of
from steadylens.training.resolution import Resolution, resolve
from steadylens.training.speed import measure_speed
from steadylens.training.state import Step
from steadylens.training.trial import Standing, Trials

SHARE = 0.2  # of the time for training: the most that trials which come to nothing may take
FIRST = 0.05  # of the training: the first rung
MOST_CHALLENGERS = 3
FEWEST_EPOCHS = 30  # of the training, for each fold: with fewer, it is time that is short, and not data
FEWEST_STEPS = 2000  # of the training, for each fold: a hundred of them are done at the first rung
LEARNED = 0.97  # of the log-loss of guessing: above, nothing has been learned yet that could be compared
IMBALANCED = 1.5  # the largest class to the smallest

_LOOK: dict[str, Look] = {"overfitting": "stronger", "underfitting": "weaker"}
_AGAINST = {"stronger": "underfitting", "weaker": "overfitting"}  # the verdict on a challenger that went too far


@dataclass(frozen=True, slots=True)
class Beside:
    """Networks from scratch to be trained beside a pretrained backbone.

    Attributes:
        recipe: of them.
        why: a sentence for each field of the recipe.
        seconds_per_image: of prediction in float32, all of them together.
        seconds: of wall time for each of them.
    """

    recipe: Recipe
    why: dict[str, str]
    seconds_per_image: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Selection:
    """The recipe, and for each of its fields why it is as it is.

    Attributes:
        recipe: what will be done.
        why: a sentence for each field of the recipe; as "trials", what was tried and what came of it.
        seconds_per_image: of prediction in float32 with the chosen network, all its members together.
        trials: as in report.json.
        continues: name of the checkpoint with which the training goes on; "" where it begins anew.
        beside: what is trained from scratch beside a pretrained backbone; None where nothing is.
    """

    recipe: Recipe
    why: dict[str, str]
    seconds_per_image: float
    trials: tuple[dict[str, Any], ...] = ()
    continues: str = ""
    beside: Beside | None = None


def select(
    config: Config,
    classes: tuple[str, ...],
    train: LabelledPixels,
    validation: LabelledPixels,
    preprocessing: Preprocessing,
    size_reason: str,
    *,
    seconds: float | None,
    backbone: Pretrained | None = None,
    reasons: Mapping[str, str] | None = None,
    units: NDArray[np.int64] | None = None,
    checkpoints: Checkpoints | None = None,
    say: Callable[[str], None] = lambda _: None,
    on_step: Callable[[Step], None] = lambda _: None,
) -> tuple[Selection, Checkpoint | None]:
    """Resolve a Config for some images, and try other recipes where that is worth its time.

    Args:
        config: what was asked for; only what it leaves to "auto" is changed.
        classes: in the order of the labels.
        train: images to learn from.
        validation: images to judge on.
        preprocessing: whose size is that of the recipe.
        size_reason: why that size.
        seconds: left of the budget for selection and training; None where epochs alone decide.
        backbone: pretrained weights, where there are any.
        reasons: why there are or are not, as "network", and for "image_fit".
        units: a number for each row of the store; images of one number are never on both sides of a fold.
        checkpoints: where trials are kept, and go on from.
        say: told a line for each trial that reaches a rung.
        on_step: told after each step of a trial.

    Returns:
        What was chosen, and the place that its training goes on from.

    Raises:
        ConfigError: the recipe of the rules has diverged.
        ResourceError: there is too little memory for it, or a checkpoint could not be written.
        Interrupted: after a step of a trial, which is saved.
    """
    begin, checkpoints = time.perf_counter(), checkpoints or Checkpoints(None)
    folds: tuple[Fold, ...] = (Fold(train, validation),)
    if config.selection != "off" and backbone is None and seconds is not None:
        folds = folds_of(train, validation, units, config.seed)
    kept = checkpoints.outcome("resolved") if backbone is None else None
    if kept is None:
        resolved = resolve(
            config, classes, train, validation, preprocessing, size_reason,
            seconds=seconds, backbone=backbone, reasons=reasons,
        )  # fmt: skip
        left = None if seconds is None else (seconds - (time.perf_counter() - begin)) / resolved.recipe.members
        why_not = _why_not(config, resolved, left, len(train), len(folds), pretrained=backbone is not None)
        if why_not or left is None:
            return Selection(resolved.recipe, {**resolved.why, "trials": why_not}, resolved.seconds_per_image), None
        kept = Checkpoint({**asdict(resolved), "planned": (1 - SHARE) * left})
        checkpoints.keep("resolved", kept)
    base = Challenger(_recipe_from(kept.state["recipe"]), "", "", "aside")
    trials = Trials(folds, preprocessing, kept.state["planned"], checkpoints, on_step)
    outcome = _halved(trials, base, _free(config), say)
    chosen = outcome.winner.challenger.recipe
    seconds_per_image = kept.state["seconds_per_image"]
    if chosen.network != base.recipe.network:
        spec = spec_of(chosen)
        _, of_one = measure_speed(spec, train, preprocessing, chosen.device, chosen.precision)
        seconds_per_image = of_one * chosen.members
    why = {**kept.state["why"], **_changed(base.recipe, chosen), "trials": outcome.text}
    selection = Selection(chosen, why, seconds_per_image, outcome.trials, outcome.winner.name)
    return selection, outcome.winner.legs[0]


def rungs_of(challengers: int, folds: int) -> tuple[float, float]:
    """The shares of the training at which so many challengers, and then the best of them, are judged.

    Where each trial gets `first` of the training and the last two `last`, what does not go on takes the first rung of
    all but the best challenger, the last rung of one of the two, and that of all folds but one of the other. The last
    rung is where `SHARE` of the time is used up by that.
    """
    lost = SHARE / (1 - SHARE) - (challengers - 1) * FIRST  # as a share of the training, as it is planned
    return FIRST, lost / (2 - 1 / folds)


def most_challengers(folds: int) -> int:
    """How many challengers can be tried so that the last rung is at least twice as far as the first."""
    fit = [n for n in range(1, MOST_CHALLENGERS + 1) if rungs_of(n, folds)[1] >= 2 * FIRST]
    return max(fit, default=1)


def _free(config: Config) -> frozenset[str]:
    return frozenset(name for name in CHANGEABLE if getattr(config, name) == "auto")


def _why_not(
    config: Config, resolved: Resolution, seconds: float | None, images: int, folds: int, *, pretrained: bool
) -> str:
    """Why nothing is tried; "" where trials are worth their time."""
    steps = resolved.epochs * images / resolved.recipe.batch_size
    few = f" in each of {folds} folds, since a class has few validation images" if folds > 1 else ""
    reason = ""
    if config.selection == "off":
        reason = "that was asked for"
    elif pretrained:
        reason = "with pretrained weights, validation chooses between the probe, fine-tuning and their blends"
    elif seconds is None or config.epochs is not None:
        reason = "the number of epochs is given, and the same command is to train the same network everywhere"
    elif not _free(config):
        reason = "every option that a trial could change is given"
    elif resolved.epochs < FEWEST_EPOCHS * folds or steps < FEWEST_STEPS * folds:
        reason = (
            f"the time suffices for {resolved.epochs:,.0f} epochs or {steps:,.0f} steps, and all of it goes to the "
            f"training; trials are made from {FEWEST_EPOCHS} epochs and {FEWEST_STEPS:,} steps on{few}"
        )
    return reason and f"No other recipe was tried: {reason}."


@dataclass(frozen=True)
class _Outcome:
    """What came of the trials: the one to go on with, all of them for the report, and the story in words."""

    winner: Standing
    trials: tuple[dict[str, Any], ...]
    text: str


def _halved(trials: Trials, base: Challenger, free: frozenset[str], say: Callable[[str], None]) -> _Outcome:
    """The recipe of the rules, then its challengers to the first rung, then the best of these and it to the last."""
    folds, counts = trials.folds, np.bincount(trials.folds[0].train.labels)
    reference = trials.advance(0, base, FIRST)
    say(line(reference))
    guessing = math.log(len(base.recipe.classes))
    if reference.loss > LEARNED * guessing:
        text = (
            f"No other recipe was tried: at {FIRST:.0%} of the training, it had learned too little to compare others."
        )
        return _Outcome(reference, accounts([[reference]], reference), text)
    look: Look = _LOOK.get(reference.verdict, "both")
    imbalanced = counts.max() >= IMBALANCED * counts[counts > 0].min()
    tried = challengers_of(base.recipe, free, look, imbalanced=imbalanced)[: most_challengers(len(folds))]
    begun = []
    for number, challenger in enumerate(tried, start=1):
        begun.append(trials.advance(number, challenger, FIRST))
        say(line(begun[-1]))
    best = best_of([one for one in begun if not one.failed])
    told = [where(reference), what_was_tried(tried, folds)]
    if best is None or _gain(best, reference).difference > _gain(best, reference).margin:
        told.append(none_near(best, reference) if tried else "There was nothing to change in that direction.")
        return _Outcome(reference, accounts([[one] for one in (reference, *begun)], reference), " ".join(told))
    last = rungs_of(len(tried), len(folds))[1]
    finalists = [trials.advance(0, base, last, reference), trials.advance(best.number, best.challenger, last, best)]
    for one in finalists:
        say(line(one))
    winner, decision = decided(finalists[0], finalists[1], _gain(best, reference).difference)
    told.append(decision)
    stood = [[one, *(last for last in finalists if last.number == one.number)] for one in (reference, *begun)]
    return _Outcome(winner, accounts(stood, winner), " ".join(told))


def _gain(one: Standing, other: Standing) -> Gain:
    return gain_of(one.logits, other.logits, one.labels)


def best_of(standings: Sequence[Standing]) -> Standing | None:
    """The one with the lowest loss; of equally good ones one that did not go too far. None of none."""
    if not standings:
        return None
    lowest = min(standings, key=lambda one: one.loss)
    equal = [one for one in standings if one is lowest or not _gain(lowest, one).is_sure]
    return min(equal, key=lambda one: (_went_too_far(one), one.loss))


def _went_too_far(one: Standing) -> bool:
    return one.verdict == _AGAINST.get(one.challenger.direction)


def decided(reference: Standing, challenger: Standing, before: float) -> tuple[Standing, str]:
    """Which of the last two the training goes on with, and why.

    A challenger must be better by more than chance, and its lead must not have shrunk since the first rung: what learns
    faster is ahead at first, and what regularises less learns faster, however it ends.

    Args:
        reference: the recipe of the rules at the last rung.
        challenger: the best challenger there.
        before: how much higher the challenger's loss was at the first rung.

    Returns:
        The winner, and a sentence that says why.
    """
    name = f"the trial with {challenger.challenger.change}"
    if challenger.failed:
        return reference, f"The recipe of the rules went on: {name} failed. {challenger.failed}"
    gain = _gain(challenger, reference)
    figures = (
        f"at {challenger.rung:.0%} of the training, its balanced log-loss on validation images was "
        f"{challenger.loss:.3f}, that of the recipe of the rules {reference.loss:.3f}, and a lead of more than "
        f"{gain.margin:.3f} would be more than chance"
    )
    if not gain.is_sure:
        return reference, f"The recipe of the rules went on; {name} was not surely better: {figures}."
    if gain.difference > before:
        lead = f"its lead had shrunk from {-before:.3f} to {-gain.difference:.3f}"
        return reference, f"The recipe of the rules went on: {name} was ahead, but {lead} since the first rung."
    if _went_too_far(challenger):
        return reference, f"The recipe of the rules went on: {name} was ahead, but is {challenger.verdict}."
    return challenger, f"{name.capitalize()} won, and went on as the training: {figures}."


def _changed(base: Recipe, chosen: Recipe) -> dict[str, str]:
    """Why the fields are as they are that the winner has otherwise than the recipe of the rules."""
    fields = [name for name in CHANGEABLE if getattr(base, name) != getattr(chosen, name)]
    return {name: f"a trial was better with it than with {getattr(base, name)}" for name in fields}


def _recipe_from(kept: Mapping[str, Any]) -> Recipe:
    return Recipe(**{**kept, "classes": tuple(kept["classes"])})


def selection_from(kept: Mapping[str, Any]) -> Selection:
    """What was chosen, from the JSON values of `dataclasses.asdict`."""
    beside = kept["beside"]
    if beside is not None:
        beside = Beside(**{**beside, "recipe": _recipe_from(beside["recipe"])})
    recipe, trials = _recipe_from(kept["recipe"]), tuple(kept["trials"])
    return Selection(**{**kept, "recipe": recipe, "trials": trials, "beside": beside})
