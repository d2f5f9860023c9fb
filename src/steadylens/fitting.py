"""From a chosen recipe to the networks that answer: from scratch, of a pretrained backbone, or the better of both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from steadylens.console import Console
from steadylens.data.store import cache_folder
from steadylens.errors import ConfigError
from steadylens.from_scratch import Rival, name_of, trial_of, try_rival
from steadylens.models import fresh, pretrained
from steadylens.preparation import Prepared
from steadylens.report.contents import adapted_trials
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.ensembling import fit_members
from steadylens.training.finetune import adapt, fit_last_layer
from steadylens.training.mirroring import mirror
from steadylens.training.selection import Beside, Selection
from steadylens.training.state import Epoch, Fitted, Step

Left = Callable[[], float | None]


@dataclass(frozen=True)
class Told:
    """Who is told what while networks are trained.

    Attributes:
        step: of each step.
        epoch: of each measured epoch of what was chosen; the probe is epoch 0.
        beside: the same of networks from scratch beside a backbone.
        features: of the share of images that a backbone has looked at, and images a second.
        console: of all that is worth a line.
    """

    step: Callable[[Step], None] = lambda _: None
    epoch: Callable[[Epoch], None] = lambda _: None
    beside: Callable[[Epoch], None] = lambda _: None
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
        left: tells the seconds of wall time that are left for training; None where epochs alone decide.
        checkpoints: where trainings are kept, and gone on from.
        told: who is told what.
        place: where a trial got to, which the first training goes on with.

    Raises:
        ConfigError: the loss is no longer a number.
        ResourceError: a checkpoint could not be written.
        Interrupted: after a step, which is saved.
    """
    if prepared.backbone.pretrained is not None:
        return _of_backbone(prepared, selection, left, checkpoints, told)
    fitted = _from_scratch(prepared, selection, left(), checkpoints, told, on_epoch=told.epoch, place=place)
    return Learned(prepared, selection, fitted, None)


def _from_scratch(
    prepared: Prepared,
    selection: Selection | Beside,
    seconds: float | None,
    checkpoints: Checkpoints,
    told: Told,
    *,
    on_epoch: Callable[[Epoch], None],
    place: Checkpoint | None = None,
    first: Fitted | None = None,
) -> Fitted:
    """All networks of a recipe, and whether they look at mirror images too."""
    training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    fitted = fit_members(
        training, validation, selection.recipe, prepared.preprocessing,
        seconds=seconds, checkpoints=checkpoints, place=place, first=first,
        on_step=told.step, on_epoch=on_epoch, say=told.say,
    )  # fmt: skip
    return mirror(fitted, training, validation, selection.recipe, say=told.say)


def _of_backbone(prepared: Prepared, selection: Selection, left: Left, checkpoints: Checkpoints, told: Told) -> Learned:
    """Adapt a pretrained backbone; where networks from scratch are tried beside it, keep the better."""
    recipe, backbone, planned = selection.recipe, prepared.backbone, selection.beside
    training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    network = fresh(recipe)
    if backbone.pretrained is None or not isinstance(network, pretrained.Backbone):
        raise TypeError(f"{recipe.network} takes no pretrained weights")
    network.take_in(backbone.pretrained)
    probed = fit_last_layer(
        network, training, validation, recipe, prepared.preprocessing,
        seconds=left(), cache=cache_folder(), clusters=prepared.units[training.rows], checkpoints=checkpoints,
        on_features=told.features, on_epoch=told.epoch,
    )  # fmt: skip
    rival = None
    if planned is not None:
        rival = try_rival(
            prepared, planned, probed.tensors["validation"].numpy(), checkpoints,
            console=told.console, on_step=told.step, on_epoch=told.beside,
        )  # fmt: skip
    seconds = left()
    if seconds is not None and planned is not None and rival is not None and rival.first is not None:
        seconds = max(0.0, seconds - (planned.recipe.members - 1) * planned.seconds)
    adapted = adapt(
        network, training, validation, recipe, prepared.preprocessing,
        seconds=seconds, seconds_per_image=selection.seconds_per_image, cache=cache_folder(),
        clusters=prepared.units[training.rows], checkpoints=checkpoints, probed=probed,
        on_step=told.step, on_epoch=told.epoch,
    )  # fmt: skip
    told.say(str(adapted.account["decision"]))
    account = {
        **adapted.account,
        "bare_per_second": backbone.images_per_second,
        "decode_per_second": backbone.decode_per_second,
    }
    tuned = Learned(prepared, selection, adapted.fitted, account)
    return tuned if planned is None or rival is None else _better(tuned, planned, rival, left, checkpoints, told)


def _better(tuned: Learned, planned: Beside, rival: Rival, left: Left, checkpoints: Checkpoints, told: Told) -> Learned:
    """The backbone, or the networks from scratch beside it where they go on and come to a lower loss."""

    def kept(text: str, trial: dict[str, Any]) -> Learned:
        why = {**tuned.selection.why, "trials": text}
        return replace(tuned, selection=replace(tuned.selection, why=why, trials=(trial,)))

    if rival.prepared is None or rival.first is None:
        return kept(rival.text, rival.trial)
    try:
        fitted = _from_scratch(
            rival.prepared, planned, left(), checkpoints, told, on_epoch=told.beside, first=rival.first
        )  # fmt: skip
    except ConfigError as error:
        return kept(f"{rival.text} The backbone was kept: the other failed. {error}", rival.trial)
    ours, theirs = (one.kept.validation_tempered_log_loss for one in (tuned.fitted, fitted))
    from_scratch = theirs < ours
    text = (
        f"{rival.text} In the end it was {ours:.3f} with the backbone and {theirs:.3f} with {planned.recipe.members} "
        f"networks from scratch: {'the latter were' if from_scratch else 'the backbone was'} kept."
    )
    told.say(text.removeprefix(f"{rival.text} "))
    if not from_scratch:
        return kept(text, trial_of(planned.recipe, fitted))
    recipe, account = tuned.selection.recipe, tuned.account or {}
    other = f"{name_of(planned.recipe)} was better on validation images than {recipe.network}"
    why = {**planned.why, "network": f"{other}. {planned.why['network']}", "trials": text}
    trials = tuple(adapted_trials(recipe, tuned.fitted, account))
    selection = Selection(planned.recipe, why, planned.seconds_per_image, trials)
    return Learned(rival.prepared, selection, fitted, None)
