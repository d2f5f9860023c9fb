"""From a chosen recipe to trained weights, which the run's checkpoints keep; and what is said meanwhile."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steadylens.console import Advance, Console
from steadylens.data.store import cache_folder
from steadylens.errors import DataError
from steadylens.models import build, pretrained, spec_of
from steadylens.preparation import Prepared
from steadylens.report import run_folder
from steadylens.report.contents import curve_row
from steadylens.report.loggers import Loggers
from steadylens.report.metrics_log import epoch_line
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.finetune import adapt
from steadylens.training.loop import fit
from steadylens.training.position import fitted_from, outcome_of
from steadylens.training.selection import Selection
from steadylens.training.state import Epoch, Fitted, Step


def learn(
    run: Path,
    prepared: Prepared,
    selection: Selection,
    seconds: float | None,
    checkpoints: Checkpoints,
    console: Console,
    advance: Advance,
    loggers: Loggers,
) -> tuple[Fitted, dict[str, Any] | None]:
    """Train, or take what was trained; with a pretrained backbone there is an account of it for the report."""
    recipe, backbone = selection.recipe, prepared.backbone.pretrained
    if (backbone.sha256 if backbone else "") != recipe.weights_sha256:
        raise DataError(f"The pretrained weights are not those that {run} was begun with. Begin another with --out.")
    torch.manual_seed(recipe.seed)
    network = build(spec_of(recipe))
    network.to(torch.device(recipe.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
    outcome = checkpoints.outcome("trained")
    if outcome is not None:
        trained = Checkpoint(outcome.state["fitted"], outcome.tensors)
        return fitted_from(trained, network, prepared.preprocessing), outcome.state["account"]
    fitted, account = _train(run, network, prepared, selection, seconds, checkpoints, console, advance, loggers)
    trained = outcome_of(fitted)
    checkpoints.keep("trained", Checkpoint({"fitted": trained.state, "account": account}, trained.tensors))
    return fitted, account


def _train(
    run: Path,
    network: nn.Module,
    prepared: Prepared,
    selection: Selection,
    seconds: float | None,
    checkpoints: Checkpoints,
    console: Console,
    advance: Advance,
    loggers: Loggers,
) -> tuple[Fitted, dict[str, Any] | None]:
    """Train from scratch, or adapt a pretrained backbone; the account of the latter goes into the report."""
    recipe, backbone = selection.recipe, prepared.backbone
    training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    progress = _Progress(run, console, advance, loggers)
    if backbone.pretrained is None or not isinstance(network, pretrained.Backbone):
        fitted = fit(
            network, training, validation, recipe, prepared.preprocessing,
            seconds=seconds, checkpoints=checkpoints,
            place=checkpoints.outcome(selection.continues) if selection.continues else None,
            on_step=progress.step, on_epoch=progress.epoch,
        )  # fmt: skip
        return fitted, None
    network.take_in(backbone.pretrained)
    adapted = adapt(
        network, training, validation, recipe, prepared.preprocessing,
        seconds=seconds, seconds_per_image=selection.seconds_per_image, cache=cache_folder(), checkpoints=checkpoints,
        on_features=lambda share, rate: advance(share, f"looking at images  {rate:,.0f} images/s"),
        on_step=progress.step, on_epoch=progress.epoch,
    )  # fmt: skip
    console.say(f"  {adapted.account['decision']}")
    return adapted.fitted, {
        **adapted.account,
        "bare_per_second": backbone.images_per_second,
        "decode_per_second": backbone.decode_per_second,
    }


@dataclass
class _Progress:
    """What is shown, and written to metrics.jsonl, while a training goes on."""

    run: Path
    console: Console
    advance: Advance
    loggers: Loggers
    reached: str = ""

    def step(self, step: Step) -> None:
        """Show where the training is."""
        rate, loss = f"{step.images_per_second:,.0f} images/s", f"loss {step.loss:.3f}"
        self.advance(step.progress, f"epoch {step.epoch}  {rate}  {loss}{self.reached}")

    def epoch(self, epoch: Epoch) -> None:
        """Keep and say what was measured after an epoch."""
        run_folder.append_epoch(self.run, epoch)
        row = curve_row(epoch)
        self.loggers.epoch(row)
        self.reached = f"  balanced accuracy {epoch.validation_balanced_accuracy:.1%}"
        self.console.say(epoch_line(row))
