"""From a chosen recipe to trained weights, which the run's checkpoints keep; and what is said meanwhile."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from steadylens.console import Advance, Console
from steadylens.data.store import cache_folder
from steadylens.errors import DataError
from steadylens.models import answering, fresh, pretrained, spec_answering
from steadylens.models.mirrored import Mirrored
from steadylens.preparation import Prepared
from steadylens.report import run_folder
from steadylens.report.contents import curve_row
from steadylens.report.loggers import Loggers
from steadylens.report.metrics_log import epoch_line
from steadylens.training import refit as refitting
from steadylens.training.checkpoint import Checkpoint, Checkpoints, copied
from steadylens.training.ensembling import fit_members
from steadylens.training.finetune import adapt
from steadylens.training.mirroring import mirror
from steadylens.training.position import fitted_from, outcome_of
from steadylens.training.selection import Selection
from steadylens.training.state import Epoch, Fitted, Step


@dataclass(frozen=True)
class Onlookers:
    """Who is told of a training while it goes on: metrics.jsonl of the run, the console, its bar, and the loggers."""

    run: Path
    console: Console
    advance: Advance
    loggers: Loggers


def learn(
    prepared: Prepared, selection: Selection, seconds: float | None, checkpoints: Checkpoints, onlookers: Onlookers
) -> tuple[Fitted, dict[str, Any] | None]:
    """Train, or take what was trained; with a pretrained backbone there is an account of it for the report."""
    backbone = prepared.backbone.pretrained
    if (backbone.sha256 if backbone else "") != selection.recipe.weights_sha256:
        raise DataError(
            f"The pretrained weights are not those that {onlookers.run} was begun with. Begin another with --out."
        )
    outcome = checkpoints.outcome("trained")
    if outcome is not None:
        network = answering(selection.recipe, outcome.state["members"], mirrored=outcome.state["mirrored"])
        trained = Checkpoint(outcome.state["fitted"], outcome.tensors)
        return fitted_from(trained, network, prepared.preprocessing), outcome.state["account"]
    fitted, account = _train(prepared, selection, seconds, checkpoints, onlookers)
    training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    fitted = mirror(fitted, training, validation, selection.recipe, say=lambda text: onlookers.console.say(f"  {text}"))
    trained = outcome_of(fitted)
    spec = spec_answering(selection.recipe, fitted.network)
    state = {
        "fitted": trained.state, "account": account, "members": spec.members, "mirrored": spec.mirrored,
    }  # fmt: skip
    checkpoints.keep("trained", Checkpoint(state, trained.tensors))
    return fitted, account


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


def learn_again(
    prepared: Prepared,
    selection: Selection,
    fitted: Fitted,
    account: dict[str, Any] | None,
    seconds: float | None,
    checkpoints: Checkpoints,
    onlookers: Onlookers,
) -> Again:
    """Train again on train and validation together where the recipe says so, or take what was; see `training.refit`.

    Where the seconds that are left do not suffice, that is said, and the first network is kept.
    """
    if not selection.recipe.refit:
        return Again(fitted.network, None, {})
    outcome = checkpoints.outcome("refitted")
    if outcome is None:
        outcome = _train_again(prepared, selection, fitted, account, seconds, checkpoints, onlookers)
        checkpoints.keep("refitted", outcome)
    block, why = outcome.state["block"], {"refit": f"given: {outcome.state['why']}"}
    onlookers.console.say(f"  {outcome.state['why']}")
    if block is None:
        return Again(fitted.network, None, why)
    network = fresh(selection.recipe)
    network.load_state_dict(outcome.tensors)
    answering = Mirrored(network) if isinstance(fitted.network, Mirrored) else network
    return Again(answering.eval(), block, why)


def _train_again(
    prepared: Prepared,
    selection: Selection,
    fitted: Fitted,
    account: dict[str, Any] | None,
    seconds: float | None,
    checkpoints: Checkpoints,
    onlookers: Onlookers,
) -> Checkpoint:
    """The weights of the second training, and what the report says of it."""
    parts = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    images, first = refitting.together(*parts), refitting.first_of(fitted, account)
    needed = refitting.seconds_for(first, len(images), len(parts[0]))
    begun = any(checkpoints.position(stage) for stage in ("refitting", "refit-tuning"))
    if seconds is not None and needed > refitting.SLACK * seconds and not begun:
        why = f"the first network is kept: training again takes {needed:.0f} s, and {max(0, seconds):.0f} s are left"
        return Checkpoint({"block": None, "why": why})
    progress, network = _Progress(onlookers), fresh(selection.recipe)
    backbone = prepared.backbone.pretrained
    if backbone is None or not isinstance(network, pretrained.Backbone):
        second = refitting.refit(
            network, images, selection.recipe, prepared.preprocessing, first,
            seconds=seconds, checkpoints=checkpoints, on_step=progress.step,
        )  # fmt: skip
    else:
        network.take_in(backbone)
        second = refitting.readapt(
            network, parts, selection.recipe, prepared.preprocessing, first,
            seconds=seconds, cache=cache_folder(), clusters=prepared.units[images.rows], checkpoints=checkpoints,
            on_step=progress.step,
        )  # fmt: skip
    block = {"images": len(images), **asdict(second)}
    why = f"trained again on all {len(images):,} images of train and validation, for {second.epochs} epochs"
    return Checkpoint({"block": block, "why": why}, copied(network.state_dict()))


def _train(
    prepared: Prepared,
    selection: Selection,
    seconds: float | None,
    checkpoints: Checkpoints,
    onlookers: Onlookers,
) -> tuple[Fitted, dict[str, Any] | None]:
    """Train from scratch, or adapt a pretrained backbone; the account of the latter goes into the report."""
    recipe, backbone = selection.recipe, prepared.backbone
    training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    progress = _Progress(onlookers)
    if backbone.pretrained is None:
        fitted = fit_members(
            training, validation, recipe, prepared.preprocessing,
            seconds=seconds, checkpoints=checkpoints,
            place=checkpoints.outcome(selection.continues) if selection.continues else None,
            on_step=progress.step, on_epoch=progress.epoch, say=lambda text: onlookers.console.say(f"  {text}"),
        )  # fmt: skip
        return fitted, None
    network = fresh(recipe)
    if not isinstance(network, pretrained.Backbone):
        raise TypeError(f"{recipe.network} takes no pretrained weights")
    network.take_in(backbone.pretrained)
    adapted = adapt(
        network, training, validation, recipe, prepared.preprocessing,
        seconds=seconds, seconds_per_image=selection.seconds_per_image, cache=cache_folder(),
        clusters=prepared.units[training.rows], checkpoints=checkpoints,
        on_features=lambda share, rate: onlookers.advance(share, f"looking at images  {rate:,.0f} images/s"),
        on_step=progress.step, on_epoch=progress.epoch,
    )  # fmt: skip
    onlookers.console.say(f"  {adapted.account['decision']}")
    return adapted.fitted, {
        **adapted.account,
        "bare_per_second": backbone.images_per_second,
        "decode_per_second": backbone.decode_per_second,
    }


@dataclass
class _Progress:
    """What is shown, and written to metrics.jsonl, while a training goes on."""

    onlookers: Onlookers
    reached: str = ""

    def step(self, step: Step) -> None:
        """Show where the training is."""
        rate, loss = f"{step.images_per_second:,.0f} images/s", f"loss {step.loss:.3f}"
        self.onlookers.advance(step.progress, f"epoch {step.epoch}  {rate}  {loss}{self.reached}")

    def epoch(self, epoch: Epoch) -> None:
        """Keep and say what was measured after an epoch."""
        run_folder.append_epoch(self.onlookers.run, epoch)
        row = curve_row(epoch)
        self.onlookers.loggers.epoch(row)
        self.reached = f"  balanced accuracy {epoch.validation_balanced_accuracy:.1%}"
        self.onlookers.console.say(epoch_line(row))
