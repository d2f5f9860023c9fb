"""A network from scratch beside a pretrained backbone that nobody asked for by name, where the time suffices for both.

Most photographs are told apart best by a backbone that has seen a million others, and some are not. So of the several
small networks that would answer together, the first is trained, to its end, in an eighth or a sixth of the time. Where
it is not better than the probe by more than chance, all other time goes to the backbone. Where it is, each gets half of
the time, and the one with the lower balanced log-loss on validation images is kept (`fitting`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from steadylens.config import Config, Recipe
from steadylens.console import Console
from steadylens.data.batches import LabelledPixels, preprocessing_of
from steadylens.errors import DataError, ResourceError
from steadylens.models import FAMILY
from steadylens.models.inference import logits_of
from steadylens.preparation import Prepared, Stopwatch, decoded
from steadylens.report.contents import recipe_block
from steadylens.training.backbones import BackboneChoice
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.divergence import DivergedError
from steadylens.training.ensembling import fit_first
from steadylens.training.finetune import FEWEST_TO_JUDGE
from steadylens.training.framing import choose_fit
from steadylens.training.gain import gain_of
from steadylens.training.memory import TooLittleMemoryError
from steadylens.training.resolution import Resolution, choose_image_size, resolve
from steadylens.training.selection import Beside, Selection
from steadylens.training.state import Epoch, Fitted, Step, validation_figures

SHARE = 0.5  # of the time for training, for all networks from scratch
FEWEST_NETWORKS = 3  # so that the first, which may come to nothing, takes a sixth of the time at most
DECODING_SHARE = 0.05  # of the time: images are decoded once more, at another size
FAILURES = (DivergedError, TooLittleMemoryError)  # of a training that is no reason to end the run
_STAGE = "beside"


@dataclass(frozen=True)
class Rival:
    """How the first network from scratch did beside the probe.

    Attributes:
        text: that, in a sentence.
        trial: a row for report.json.
        prepared: the images as it wants them, and
        first: its training; both None where nothing more is spent on it.
    """

    text: str
    trial: dict[str, Any]
    prepared: Prepared | None = None
    first: Fitted | None = None


def beside(
    config: Config, prepared: Prepared, seconds: float | None, console: Console, watch: Stopwatch
) -> tuple[Beside | None, str]:
    """The recipe of networks from scratch to be trained beside the backbone; None where there are to be none, and why.

    Args:
        config: what was asked for.
        prepared: the images as the backbone wants them.
        seconds: left of the budget for training; None where epochs alone decide.
        console: shows how far decoding is.
        watch: by which it is timed.

    Returns:
        The recipe, and a sentence for the report where there is none although nothing that was asked for forbids it.
    """
    if seconds is None or not _is_open(config, prepared):
        return None, ""
    if len(prepared.splits.validation) < FEWEST_TO_JUDGE:
        return None, _untried(f"{len(prepared.splits.validation)} validation images could not tell which is better")
    decoding = len(prepared.store.index) / prepared.backbone.decode_per_second
    if decoding > DECODING_SHARE * seconds:
        return None, _untried(
            f"decoding the images once more would take {decoding:.0f} s, too much of the time there is"
        )
    begun = watch.elapsed()
    other = prepared_from_scratch(prepared, config, console, watch)
    if isinstance(other, str):
        return None, _untried(other)
    with watch.stage("select"):
        for network in ("auto", FAMILY[0]):  # several small ones where there is no time for several that are larger
            left = SHARE * (seconds - (watch.elapsed() - begun))
            resolved = _resolved(replace(config, network=network), other, left)
            if resolved.recipe.members >= FEWEST_NETWORKS:
                each = left / resolved.recipe.members
                return Beside(resolved.recipe, resolved.why, resolved.seconds_per_image, each), ""
    return None, _untried(f"half of the time does not suffice for {FEWEST_NETWORKS} of them")


def with_beside(selection: Selection, planned: Beside | None, untried: str) -> Selection:
    """What was chosen, with what `beside` says."""
    story = " ".join(filter(None, (selection.why.get("trials"), untried)))
    return replace(selection, beside=planned, why={**selection.why, "trials": story})


def _untried(why: str) -> str:
    return f"No network from scratch was tried beside the backbone: {why}."


def _is_open(config: Config, prepared: Prepared) -> bool:
    """Whether a backbone was found, and neither it nor anything that only one of the two has was asked for."""
    found = prepared.backbone.pretrained is not None and config.network == "auto" and config.weights is None
    free = config.selection != "off" and config.members == "auto" and "transfer" not in config.given
    once = config.epochs is None and not config.refit
    return found and free and once


def _resolved(config: Config, prepared: Prepared, seconds: float) -> Resolution:
    train, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    reasons = {"image_fit": prepared.reasons["image_fit"]}
    resolved = resolve(
        config, prepared.store.index.classes, train, validation, prepared.preprocessing, prepared.reasons["image_size"],
        seconds=seconds, reasons=reasons,
    )  # fmt: skip
    if config.network == "auto":
        return resolved
    small = "the smallest of the family, of which there is time for several"
    return replace(resolved, why={**resolved.why, "network": small})


def prepared_from_scratch(prepared: Prepared, config: Config, console: Console, watch: Stopwatch) -> Prepared | str:
    """The same images in the same splits, as a network from scratch wants them; or why they cannot be had."""
    index, splits = prepared.store.index, prepared.splits
    rows = index.but_test()
    nothing = BackboneChoice(None, None, math.inf, math.inf, {})
    size, size_reason = choose_image_size(config, index.widths[rows], index.heights[rows])
    frame = nothing.frame(config.image_fit, size)
    try:
        store = decoded(index, frame, console, watch)
    except (DataError, ResourceError) as error:  # nobody asked for these images: the backbone's are there
        return f"the images could not be decoded for it ({str(error).rstrip('.')})"
    if store.index.paths != index.paths:
        return "some of the images can no longer be read"
    train = LabelledPixels(store.pixels, splits.train, store.index.labels[splits.train])
    _, fit_reason = choose_fit(config, nothing, index, train, frame, seconds=None)
    own = preprocessing_of(train)
    return replace(
        prepared,
        store=store,
        preprocessing=replace(frame, mean=own.mean, std=own.std),
        backbone=nothing,
        reasons={"image_size": size_reason, "image_fit": fit_reason},
    )


def prepared_as_before(prepared: Prepared, recipe: Recipe) -> Prepared | str:
    """The same for a recipe that was resolved for them: they are in the cache, unless somebody removed them."""
    asked = Config(image_size=recipe.image_size, image_fit=recipe.image_fit)
    return prepared_from_scratch(prepared, asked, Console(quiet=True), Stopwatch())


def try_rival(
    prepared: Prepared,
    planned: Beside,
    probe_logits: NDArray[np.float32],
    checkpoints: Checkpoints,
    *,
    console: Console,
    on_step: Callable[[Step], None],
    on_epoch: Callable[[Epoch], None],
) -> Rival:
    """Train the first network from scratch, or take what was trained, and see whether it is better than the probe.

    Args:
        prepared: the images as the backbone wants them.
        planned: what to train.
        probe_logits: (n, classes), of the probe on the validation images.
        checkpoints: where the training and what came of it are kept.
        console: told what came of it.
        on_step: told after each step.
        on_epoch: told after each measured epoch.

    Raises:
        ResourceError: a checkpoint could not be written.
        Interrupted: after a step, which is saved.
    """
    kept = checkpoints.outcome(_STAGE)
    if kept is not None and not kept.state["goes_on"]:
        return Rival(kept.state["text"], kept.state["trial"])
    recipe = planned.recipe
    other = prepared_as_before(prepared, recipe)
    if isinstance(other, str):
        return _dropped(other, planned, checkpoints, console)
    train, validation = other.part(other.splits.train), other.part(other.splits.validation)
    try:
        first = fit_first(
            train, validation, recipe, other.preprocessing,
            seconds=planned.seconds, checkpoints=checkpoints, on_step=on_step, on_epoch=on_epoch,
        )  # fmt: skip
    except FAILURES as error:
        return _dropped(said(error), planned, checkpoints, console)
    if kept is not None:
        return Rival(kept.state["text"], kept.state["trial"], other, first)
    logits = logits_of(first.network, validation, other.preprocessing, precision=recipe.precision)
    gain = gain_of(logits, probe_logits, validation.labels)
    goes_on = gain.is_sure
    text = (
        f"Beside the backbone, {name_of(recipe)} was trained for {first.seconds:.0f} s: its balanced log-loss on "
        f"validation images was {gain.loss:.3f}, the probe's {gain.loss - gain.difference:.3f}, and a lead of more "
        f"than {gain.margin:.3f} would be more than chance. So "
        f"{'networks from scratch got half of the time' if goes_on else 'nothing more was spent on it'}."
    )
    trial = trial_of(replace(recipe, members=1), first)
    checkpoints.keep(_STAGE, Checkpoint({"goes_on": goes_on, "text": text, "trial": trial}))
    console.say(f"  {text}")
    return Rival(text, trial, other, first) if goes_on else Rival(text, trial)


def _dropped(why: str, planned: Beside, checkpoints: Checkpoints, console: Console) -> Rival:
    text = f"Beside the backbone, {name_of(planned.recipe)} was to be trained, and could not be: {why.rstrip('.')}."
    trial = {"recipe": recipe_block(planned.recipe), "seconds": 0.0, "validation": None, "stopped_at": None}
    checkpoints.keep(_STAGE, Checkpoint({"goes_on": False, "text": text, "trial": trial}))
    console.say(f"  {text}")
    return Rival(text, trial)


def said(error: Exception) -> str:
    """Why a network failed that nobody asked for, without advice on what to do about it."""
    return error.what if isinstance(error, DivergedError) else "there was too little memory for a step"


def name_of(recipe: Recipe) -> str:
    """What is trained from scratch, in words."""
    return f"a network from scratch ({recipe.network} at {recipe.image_size} px)"


def trial_of(recipe: Recipe, fitted: Fitted) -> dict[str, Any]:
    """A training from scratch as a trial of report.json; its figures are not calibrated."""
    return {
        "recipe": recipe_block(recipe),
        "seconds": fitted.seconds,
        "validation": validation_figures(fitted.kept),
        "stopped_at": fitted.epochs,
    }
