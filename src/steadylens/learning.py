"""From a chosen recipe to trained weights, which the run's checkpoints keep; and what is said meanwhile."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from steadylens.console import Advance, Console
from steadylens.data.store import cache_folder
from steadylens.errors import DataError
from steadylens.fitting import Learned, Left, Told, fit_network
from steadylens.from_scratch import prepared_as_before
from steadylens.models import answering, fresh, pretrained, spec_answering
from steadylens.models.mirrored import Mirrored
from steadylens.preparation import Prepared
from steadylens.report import run_folder
from steadylens.report.contents import curve_row, recipe_block
from steadylens.report.loggers import Loggers
from steadylens.report.metrics_log import epoch_line
from steadylens.training import refit as refitting
from steadylens.training.checkpoint import Checkpoint, Checkpoints, copied
from steadylens.training.position import fitted_from, outcome_of
from steadylens.training.selection import Selection, selection_from
from steadylens.training.state import Epoch, Step


@dataclass(frozen=True)
class Onlookers:
    """Who is told of a training while it goes on: metrics.jsonl of the run, the console, its bar, and the loggers."""

    run: Path
    console: Console
    advance: Advance
    loggers: Loggers


def learn(
    prepared: Prepared, selection: Selection, left: Left, checkpoints: Checkpoints, onlookers: Onlookers
) -> Learned:
    """Train, or take what was trained; `left` tells the seconds for it."""
    backbone = prepared.backbone.pretrained
    if (backbone.sha256 if backbone else "") != selection.recipe.weights_sha256:
        raise DataError(
            f"The pretrained weights are not those that {onlookers.run} was begun with. Begin another with --out."
        )
    outcome = checkpoints.outcome("trained")
    if outcome is not None:
        learned = _learned_before(prepared, selection, outcome)
    else:
        learned = _train(prepared, selection, left, checkpoints, onlookers)
        trained, spec = outcome_of(learned.fitted), spec_answering(learned.selection.recipe, learned.fitted.network)
        state = {
            "fitted": trained.state, "account": learned.account, "members": spec.members, "mirrored": spec.mirrored,
            "selection": asdict(learned.selection),
        }  # fmt: skip
        checkpoints.keep("trained", Checkpoint(state, trained.tensors))
    if selection.beside is not None:
        curve = [curve_row(row) for row in learned.fitted.curve]
        if learned.prepared is not prepared:
            run_folder.write_recipe(onlookers.run, learned.selection.recipe)
            run_folder.write_metrics(onlookers.run, curve)
        onlookers.loggers.whole(recipe_block(learned.selection.recipe), curve)
    return learned


def _learned_before(prepared: Prepared, selection: Selection, outcome: Checkpoint) -> Learned:
    """What an earlier process has trained."""
    chosen = selection_from(outcome.state["selection"])
    if chosen.recipe != selection.recipe:
        other = prepared_as_before(prepared, chosen.recipe)
        if isinstance(other, str):
            raise DataError(f"The run cannot go on: {other}. Mend that, and run the same command again.")
        prepared = other
    network = answering(chosen.recipe, outcome.state["members"], mirrored=outcome.state["mirrored"])
    trained = Checkpoint(outcome.state["fitted"], outcome.tensors)
    fitted = fitted_from(trained, network, prepared.preprocessing)
    return Learned(prepared, chosen, fitted, outcome.state["account"])


@dataclass(frozen=True)
class Again:
    """What came of training again.

    Attributes:
        network: the one to keep.
        block: for the report; None where it is the first one.
        why: which it is, in words, for the option's line in the report; empty where it was not asked for.
    """

    network: nn.Module
    block: dict[str, Any] | None
    why: dict[str, str]


def learn_again(learned: Learned, seconds: float | None, checkpoints: Checkpoints, onlookers: Onlookers) -> Again:
    """Train again on train and validation together where the recipe says so, or take what was; see `training.refit`.

    Where the seconds that are left do not suffice, that is said, and the first network is kept.
    """
    recipe, fitted = learned.selection.recipe, learned.fitted
    if not recipe.refit:
        return Again(fitted.network, None, {})
    outcome = checkpoints.outcome("refitted")
    if outcome is None:
        outcome = _train_again(learned, seconds, checkpoints, onlookers)
        checkpoints.keep("refitted", outcome)
    block, why = outcome.state["block"], {"refit": f"given: {outcome.state['why']}"}
    onlookers.console.say(f"  {outcome.state['why']}")
    if block is None:
        return Again(fitted.network, None, why)
    network = fresh(recipe)
    network.load_state_dict(outcome.tensors)
    answering = Mirrored(network) if isinstance(fitted.network, Mirrored) else network
    return Again(answering.eval(), block, why)


def _train_again(learned: Learned, seconds: float | None, checkpoints: Checkpoints, onlookers: Onlookers) -> Checkpoint:
    """The weights of the second training, and what the report says of it."""
    prepared, recipe = learned.prepared, learned.selection.recipe
    parts = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    images, first = refitting.together(*parts), refitting.first_of(learned.fitted, learned.account)
    needed = refitting.seconds_for(first, len(images), len(parts[0]))
    begun = any(checkpoints.position(stage) for stage in ("refitting", "refit-tuning"))
    if seconds is not None and needed > refitting.SLACK * seconds and not begun:
        why = f"the first network is kept: training again takes {needed:.0f} s, and {max(0, seconds):.0f} s are left"
        return Checkpoint({"block": None, "why": why})
    progress, network = _Progress(onlookers), fresh(recipe)
    backbone = prepared.backbone.pretrained
    if backbone is None or not isinstance(network, pretrained.Backbone):
        second = refitting.refit(
            network, images, recipe, prepared.preprocessing, first,
            seconds=seconds, checkpoints=checkpoints, on_step=progress.step,
        )  # fmt: skip
    else:
        network.take_in(backbone)
        second = refitting.readapt(
            network, parts, recipe, prepared.preprocessing, first,
            seconds=seconds, cache=cache_folder(), clusters=prepared.units[images.rows], checkpoints=checkpoints,
            on_step=progress.step,
        )  # fmt: skip
    block = {"images": len(images), **asdict(second)}
    why = f"trained again on all {len(images):,} images of train and validation, for {second.epochs} epochs"
    return Checkpoint({"block": block, "why": why}, copied(network.state_dict()))


def _train(
    prepared: Prepared, selection: Selection, left: Left, checkpoints: Checkpoints, onlookers: Onlookers
) -> Learned:
    """Train by what was chosen, and tell all who look on."""
    progress, beside = _Progress(onlookers, with_loggers=selection.beside is None), _Progress(onlookers)
    told = Told(
        step=progress.step,
        epoch=progress.epoch,
        beside_step=beside.step,
        beside_epoch=beside.say,
        features=lambda share, rate: onlookers.advance(share, f"looking at images  {rate:,.0f} images/s"),
        console=onlookers.console,
    )
    place = checkpoints.outcome(selection.continues) if selection.continues else None
    return fit_network(prepared, selection, left, checkpoints, told, place)


@dataclass
class _Progress:
    """What is shown, and written to metrics.jsonl, while a training goes on.

    Loggers cannot take back what they were told: where another network may be kept, they wait until that is decided.
    """

    onlookers: Onlookers
    with_loggers: bool = True
    reached: str = ""

    def step(self, step: Step) -> None:
        """Show where the training is."""
        rate, loss = f"{step.images_per_second:,.0f} images/s", f"loss {step.loss:.3f}"
        self.onlookers.advance(step.progress, f"epoch {step.epoch}  {rate}  {loss}{self.reached}")

    def epoch(self, epoch: Epoch) -> None:
        """Keep and say what was measured after an epoch."""
        run_folder.append_epoch(self.onlookers.run, epoch)
        if self.with_loggers:
            self.onlookers.loggers.epoch(curve_row(epoch))
        self.say(epoch)

    def say(self, epoch: Epoch) -> None:
        """Say what was measured after an epoch."""
        self.reached = f"  balanced accuracy {epoch.validation_balanced_accuracy:.1%}"
        self.onlookers.console.say(epoch_line(curve_row(epoch)))
