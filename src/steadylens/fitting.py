"""From a chosen recipe to the networks that answer: from scratch, of a pretrained backbone, or the better of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadylens.console import Console
from steadylens.data.store import cache_folder
from steadylens.from_scratch import FAILURES, Rival, name_of, said, trial_of, try_rival
from steadylens.models import fresh, pretrained
from steadylens.preparation import Prepared
from steadylens.report.contents import adapted_trials
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.ensembling import fit_members
from steadylens.training.finetune import AfterProbe, adapt
from steadylens.training.mirroring import mirror
from steadylens.training.selection import Beside, Selection
from steadylens.training.state import Epoch, Fitted, Step

# The seconds of wall time for training that leave enough for what comes after it with such a recipe; None where epochs
# alone decide. It is asked once, when training begins.
Left = Callable[[Selection | Beside], float | None]


@dataclass(frozen=True)
class Told:
    """Who is told what while networks are trained.

    Attributes:
        step: of each step.
        epoch: of each measured epoch of what was chosen; the probe is epoch 0.
        beside_step: of each step of a network from scratch beside a backbone.
        beside_epoch: of its measured epochs.
        features: of the share of images that a backbone has looked at, and images a second.
        console: of all that is worth a line.
    """

    step: Callable[[Step], None] = lambda _: None
    epoch: Callable[[Epoch], None] = lambda _: None
    beside_step: Callable[[Step], None] = lambda _: None
    beside_epoch: Callable[[Epoch], None] = lambda _: None
    features: Callable[[float, float], None] = lambda _share, _rate: None
    console: Console = field(default_factory=lambda: Console(quiet=True))

    def say(self, text: str) -> None:
        """Say a line within the stage."""
        self.console.say(f"  {text}")


@dataclass(frozen=True)
class Learned:
    """What was trained, and is kept.

    Attributes:
        prepared: the images as the network wants them.
        selection: its recipe.
        fitted: its training.
        account: of a pretrained backbone, for the report; None where a network from scratch is kept.
    """

    prepared: Prepared
    selection: Selection
    fitted: Fitted
    account: dict[str, Any] | None


def fit_network(
    prepared: Prepared,
    selection: Selection,
    left: Left,
    checkpoints: Checkpoints,
    told: Told,
    place: Checkpoint | None = None,
) -> Learned:
    """Train what was chosen.

    Args:
        prepared: the images.
        selection: what was chosen for them.
        left: tells the seconds that there are for it.
        checkpoints: where trainings are kept, and gone on from.
        told: who is told what.
        place: where a trial got to, which the first training goes on with.

    Raises:
        ConfigError: the loss is no longer a number.
        ResourceError: there is too little memory, or a checkpoint could not be written.
        Interrupted: after a step, which is saved.
    """
    planned = selection.beside
    if prepared.backbone.pretrained is None:
        training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
        fitted = fit_members(
            training, validation, selection.recipe, prepared.preprocessing,
            seconds=left(selection), checkpoints=checkpoints, place=place,
            on_step=told.step, on_epoch=told.epoch, say=told.say,
        )  # fmt: skip
        return Learned(prepared, selection, mirror(fitted, training, validation, selection.recipe, say=told.say), None)
    if planned is None:
        return _of_backbone(prepared, selection, left(selection), checkpoints, told)
    return _better(prepared, selection, planned, left, checkpoints, told)


def _of_backbone(
    prepared: Prepared,
    selection: Selection,
    seconds: float | None,
    checkpoints: Checkpoints,
    told: Told,
    after_probe: AfterProbe = lambda _logits, left: left,
) -> Learned:
    """Adapt a pretrained backbone; the arguments are those of `fit_network` and of `adapt`."""
    recipe, backbone = selection.recipe, prepared.backbone
    training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    network = fresh(recipe)
    if backbone.pretrained is None or not isinstance(network, pretrained.Backbone):
        raise TypeError(f"{recipe.network} takes no pretrained weights")
    network.take_in(backbone.pretrained)
    adapted = adapt(
        network, training, validation, recipe, prepared.preprocessing,
        seconds=seconds, seconds_per_image=selection.seconds_per_image, cache=cache_folder(),
        clusters=prepared.units[training.rows], checkpoints=checkpoints, after_probe=after_probe,
        on_features=told.features, on_step=told.step, on_epoch=told.epoch,
    )  # fmt: skip
    told.say(str(adapted.account["decision"]))
    fitted = mirror(adapted.fitted, training, validation, recipe, say=told.say)
    account = {
        **adapted.account,
        "bare_per_second": backbone.images_per_second,
        "decode_per_second": backbone.decode_per_second,
    }
    return Learned(prepared, selection, fitted, account)


def _better(
    prepared: Prepared, selection: Selection, planned: Beside, left: Left, checkpoints: Checkpoints, told: Told
) -> Learned:
    """A pretrained backbone, or the networks from scratch beside it where they go on and come to a lower loss."""
    begin, seconds, seconds_beside = time.perf_counter(), left(selection), left(planned)
    rivals: list[Rival] = []

    def after_probe(logits: NDArray[np.float32], left: float | None) -> float | None:
        told.say(f"beside it, {name_of(planned.recipe)} is trained")
        started = time.perf_counter()
        rival = try_rival(
            prepared, planned, logits, checkpoints,
            console=told.console, on_step=told.beside_step, on_epoch=told.beside_epoch,
        )  # fmt: skip
        rivals.append(rival)
        if left is None:
            return None
        left = max(0.0, left - (time.perf_counter() - started))
        # Each gets half of all the time; where an interruption took some of it, half of what there is.
        return left - min((planned.recipe.members - 1) * planned.seconds, left / 2) if rival.first else left

    tuned = _of_backbone(prepared, selection, seconds, checkpoints, told, after_probe)
    (rival,) = rivals
    if rival.prepared is None or rival.first is None:
        return _with_story(tuned, rival.text, rival.trial)
    rest = None if seconds_beside is None else max(0.0, seconds_beside - (time.perf_counter() - begin))
    fitted, failed = _the_others(rival.prepared, rival.first, planned, rest, checkpoints, told)
    ours, theirs = (one.kept.validation_tempered_log_loss for one in (tuned.fitted, fitted))
    networks = f"{max(1, len(fitted.members))} network{'s' if fitted.members else ''} from scratch"
    outcome = (
        f"In the end it was {ours:.3f} with the backbone and {theirs:.3f} with {networks}{failed}: the "
        f"{'latter' if theirs < ours else 'backbone'} {'were' if theirs < ours and fitted.members else 'was'} kept."
    )
    told.say(outcome)
    text = f"{rival.text} {outcome}"
    if theirs >= ours:
        return _with_story(tuned, text, trial_of(planned.recipe, fitted))
    other = f"{name_of(planned.recipe)} was better on validation images than {selection.recipe.network}"
    why = {**planned.why, "network": f"{other}. {planned.why['network']}", "trials": text}
    trials = tuple(adapted_trials(selection.recipe, tuned.fitted, tuned.account or {}))
    return Learned(rival.prepared, Selection(planned.recipe, why, planned.seconds_per_image, trials), fitted, None)


def _with_story(tuned: Learned, text: str, trial: dict[str, Any]) -> Learned:
    """The backbone, and what was trained beside it."""
    why = {**tuned.selection.why, "trials": text}
    return replace(tuned, selection=replace(tuned.selection, why=why, trials=(trial,)))


def _the_others(
    prepared: Prepared,
    first: Fitted,
    planned: Beside,
    seconds: float | None,
    checkpoints: Checkpoints,
    told: Told,
) -> tuple[Fitted, str]:
    """The further networks from scratch together with the first, or it alone where one fails; and that, in words."""
    training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    fitted, failed = first, ""
    try:
        fitted = fit_members(
            training, validation, planned.recipe, prepared.preprocessing,
            seconds=seconds, checkpoints=checkpoints, first=first,
            on_step=told.beside_step, say=told.say,
        )  # fmt: skip
    except FAILURES as error:
        failed = f" (a further one failed: {said(error)})"
    return mirror(fitted, training, validation, planned.recipe, say=told.say), failed
