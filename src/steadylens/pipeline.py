"""One run, from a folder of labelled images to a trained, honest, deployable classifier and its report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from steadylens import __version__, interruption
from steadylens.config import Config, Recipe
from steadylens.console import Console
from steadylens.continuation import Continuation, Source, require_same, require_same_images, taken_up
from steadylens.data.audit import unless_kept
from steadylens.data.batches import LabelledPixels
from steadylens.data.findings import by_seriousness
from steadylens.data.sources import ImageIndex, Tally
from steadylens.data.split import read_splits
from steadylens.deployment import artifact, predictor
from steadylens.evaluation.calibration import apply_temperature, fit_temperature
from steadylens.evaluation.evaluate import evaluate
from steadylens.evaluation.labels import doubt, outliers, suspicious_labels
from steadylens.fitting import Learned
from steadylens.from_scratch import beside, with_beside
from steadylens.learning import Onlookers, learn, learn_again
from steadylens.models import spec_answering
from steadylens.models.distance import MOST_KNOWN, distances_to_known
from steadylens.models.inference import features_of, logits_of
from steadylens.preparation import Prepared, Stopwatch, prepare, tidy_cache
from steadylens.report import contents, run_folder
from steadylens.report.audit_section import paths_to_draw
from steadylens.report.examples import choose_examples
from steadylens.report.loggers import Loggers, open_loggers
from steadylens.report.page import read_report, save_examples, write_page
from steadylens.report.runs import is_finished
from steadylens.report.thumbnails import draw_thumbnails, save_thumbnails
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.diagnosis import Diagnosis, diagnose
from steadylens.training.imbalance import balance, natural_logits
from steadylens.training.refit import share_of_first
from steadylens.training.resolution import DEFAULT_BUDGET_S
from steadylens.training.selection import Beside, Selection, select
from steadylens.training.state import Fitted

REPORT_S = 5.0  # set aside for intervals, plots, examples and the artifact on one slow core
LEAST_SHARE = 0.25  # of the budget is for training, whatever the rest takes: less would teach a network nothing
VERIFIED_IMAGES = 32
FOREIGN_SHARE = 0.05  # of the budget: looking for images like no others may take as much, or is left out, and said


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what report.json in it says."""

    folder: Path
    report: dict[str, Any]


def train(
    read: Callable[[Tally], ImageIndex],
    run: Path,
    config: Config,
    *,
    command: str,
    source: Source | None = None,
    splits_of: Path | None = None,
    resume: bool = False,
    console: Console | None = None,
    stopwatch: Stopwatch | None = None,
) -> Run:
    """Do one whole run, or what is left of one that was begun in the same folder and did not end.

    Args:
        read: gives the index of the images (see `data.sources`), and tells how far it is.
        run: folder to make; it must not exist, or be empty, or hold an unfinished run of the same images and config.
        config: what was asked for.
        command: that reproduces the run, for the report.
        source: where the images come from.
        splits_of: an earlier run, or its index.parquet, whose images keep their splits.
        resume: whether there has to be a run in the folder; one that is finished is returned as it is.
        console: where progress goes; None is nowhere.
        stopwatch: already running, where start-up is to count towards the budget.

    Raises:
        SteadylensError: see `errors`.
        Interrupted: where signals are heeded (see `interruption`); the same call goes on with the run.
    """
    console, watch = console or Console(quiet=True), stopwatch or Stopwatch()
    if resume and is_finished(run):
        require_same(run, config)
        console.say(f"{run} is finished.")
        return Run(run, read_report(run))
    earlier, source = None if splits_of is None else read_splits(splits_of), source or Source()
    continued = taken_up(run, config, command=command, source=source, resume=resume, watch=watch, console=console)
    with continued as begun, open_loggers(config.log, run, console.say) as loggers:
        report = _do(read, run, begun.pinned(config), begun, earlier, console, watch, loggers)
    return Run(run, report)


def _do(
    read: Callable[[Tally], ImageIndex],
    run: Path,
    config: Config,
    begun: Continuation,
    earlier: Mapping[str, str] | None,
    console: Console,
    watch: Stopwatch,
    loggers: Loggers,
) -> dict[str, Any]:
    """The run as a story; every stage that an earlier process has done is taken from the run's checkpoints."""
    budget = config.budget or (None if config.epochs else DEFAULT_BUDGET_S)
    config = replace(config, budget=budget)
    prepared = prepare(read, config, console, watch, budget, earlier)
    index, splits = prepared.store.index, prepared.splits
    _keep_index(run, prepared, begun)
    _write_findings(run, prepared)

    selection = begun.selection
    if selection is None:
        selection = _select(prepared, config, budget, watch, begun.checkpoints, console)
        begun.keep_selection(selection)
    run_folder.write_recipe(run, selection.recipe)
    if selection.beside is None:
        loggers.recipe(contents.recipe_block(selection.recipe))
    console.say(f"  {selection.recipe.network}, {selection.recipe.imbalance}: {selection.why['network']}")
    _say_if_budget_is_too_small(budget, watch, console)

    with watch.stage("train"), console.stage("Training") as advance, interruption.deferred():
        onlookers = Onlookers(run, console, advance, loggers)
        foreign = _worth_looking_for_foreign(prepared, selection, budget)
        left = partial(_left_to_train, prepared, foreign, budget, watch)
        first = partial(left, _first_share(prepared, config))
        learned = learn(prepared, selection, first, begun.checkpoints, onlookers)
        prepared, selection, fitted = learned.prepared, learned.selection, learned.fitted
        again = learn_again(learned, left(1.0, selection), begun.checkpoints, onlookers)
        selection, recipe = replace(selection, why=selection.why | again.why), selection.recipe
    with watch.stage("calibrate"), console.stage("Calibrating"):
        validation = prepared.part(splits.validation)
        validation_logits = _answers(begun.checkpoints, "validation", fitted.network, validation, prepared)
        temperature = fit_temperature(validation_logits, validation.labels)
        scores = evaluate(validation_logits, validation.labels, index.classes, temperature, seed=recipe.seed)
        diagnosis = _diagnose(fitted, scores)
    with watch.stage("evaluate"), console.stage("Evaluating"):
        test = prepared.part(splits.test)  # here, once
        name = "refitted-test" if again.block else "test"
        test_logits = _answers(begun.checkpoints, name, again.network, test, prepared)
        test_scores = evaluate(test_logits, test.labels, index.classes, temperature, seed=recipe.seed)
    with watch.stage("check labels"), console.stage("Checking labels"):
        prepared = _check_labels(run, prepared, fitted, recipe, (validation_logits, test_logits), foreign, console)
    with watch.stage("pack"), console.stage("Packing"):
        _pack(run, prepared, recipe, again.network, temperature, {"validation": scores, "test": test_scores}, console)
    with watch.stage("report"), console.stage("Reporting"):
        _show_images(run, prepared, test, apply_temperature(test_logits, temperature), recipe.seed)
        report = _report(begun.command, prepared, selection, learned, diagnosis, scores, test_scores, watch)
        report["training"] |= {"refit": again.block, "resumed": begun.resumed, "elsewhere": list(begun.elsewhere)}
        loggers.finished(report)
        report["environment"] |= loggers.account()
        write_page(run, report)
        run_folder.write_report(run, report)  # last: by it a finished run is known
    tidy_cache(prepared, console)
    return report


def _keep_index(run: Path, prepared: Prepared, begun: Continuation) -> None:
    """Write RUN/index.parquet, or see that the images are those that it names."""
    index, splits = prepared.store.index, prepared.splits
    if begun.resumed and (run / run_folder.INDEX).exists():
        require_same_images(run, index, splits)
    else:
        run_folder.write_index(run, index, splits)


def _select(
    prepared: Prepared,
    config: Config,
    budget: float | None,
    watch: Stopwatch,
    checkpoints: Checkpoints,
    console: Console,
) -> Selection:
    """Choose the recipe, for what is left of the budget when the report is made."""
    train, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)

    def left() -> float | None:
        if budget is None:
            return None
        return _first_share(prepared, config) * max(_least(budget, watch), budget - watch.elapsed() - REPORT_S)

    with watch.stage("select"), console.stage("Selecting") as advance:
        selection, _ = select(
            config, prepared.store.index.classes, train, validation, prepared.preprocessing,
            prepared.reasons["image_size"],
            seconds=left(), backbone=prepared.backbone.pretrained,
            reasons=prepared.reasons, units=prepared.units,
            checkpoints=checkpoints, say=console.say,
            on_step=lambda step: advance(step.progress, f"a trial: epoch {step.epoch}  loss {step.loss:.3f}"),
        )  # fmt: skip
    return with_beside(selection, *beside(config, prepared, left(), console, watch))


def _answers(
    checkpoints: Checkpoints, name: str, network: nn.Module, images: LabelledPixels, prepared: Prepared
) -> NDArray[np.float32]:
    """The logits of a split, (n, classes): asked once."""
    kept = checkpoints.outcome(name)
    if kept is None:
        logits = torch.from_numpy(logits_of(network, images, prepared.preprocessing))
        kept = Checkpoint({}, {"logits": logits})
        checkpoints.keep(name, kept)
    answers: NDArray[np.float32] = kept.tensors["logits"].numpy()
    return answers


def _show_images(
    run: Path, prepared: Prepared, test: LabelledPixels, probabilities: NDArray[np.float64], seed: int
) -> None:
    """Write the pictures of the report: examples of the test split, and what the audit found."""
    index = prepared.store.index
    paths = [index.paths[i] for i in prepared.splits.test]
    save_examples(run, choose_examples(test, paths, test.labels, probabilities, index.classes, seed=seed))
    thumbnails = draw_thumbnails(index, prepared.store.pixels, paths_to_draw(prepared.findings))
    save_thumbnails(run / "audit", thumbnails, index.root)


def _write_findings(run: Path, prepared: Prepared) -> None:
    """Write RUN/audit.json and RUN/fixes.csv."""
    run_folder.write_audit(run, prepared.findings)
    run_folder.write_fixes(run, prepared.findings, prepared.store.index)


def _looked_at_again(prepared: Prepared) -> int:
    """How many images the search for those that are like no others looks at."""
    splits = prepared.splits
    return min(len(splits.train), MOST_KNOWN) + len(splits.validation) + len(splits.test)


def _worth_looking_for_foreign(prepared: Prepared, selection: Selection, budget: float | None) -> bool:
    """Whether the time allows to look at the images once more, for those that are like no others."""
    by_one_member = selection.seconds_per_image / selection.recipe.members
    return budget is None or _looked_at_again(prepared) * by_one_member <= FOREIGN_SHARE * budget


def _left_to_train(
    prepared: Prepared, foreign: bool, budget: float | None, watch: Stopwatch, share: float, chosen: Selection | Beside
) -> float | None:
    """A share of the seconds that are left, when time to predict with what was chosen and to report is set aside."""
    if budget is None:
        return None
    predicted = _images_to_predict(prepared, chosen.recipe, foreign)
    left = budget - watch.elapsed() - REPORT_S - predicted * chosen.seconds_per_image
    return share * max(_least(budget, watch), left)


def _least(budget: float, watch: Stopwatch) -> float:
    """The seconds that training gets in any case: a share of the budget, less what earlier processes have had."""
    return max(0.0, LEAST_SHARE * budget - watch.earlier)


def _say_if_budget_is_too_small(budget: float | None, watch: Stopwatch, console: Console) -> None:
    """Say where training alone takes longer than what is left of the budget."""
    if budget is None or budget - watch.elapsed() - REPORT_S >= (least := _least(budget, watch)):
        return
    console.say(
        f"  {budget:.0f} s are too few for these images: reading and checking them took {watch.elapsed():.0f} s. "
        f"Training takes {least:.0f} s all the same, and the run ends later than was asked for."
    )


def _first_share(prepared: Prepared, config: Config) -> float:
    """The share of the time for the first training: all of it, or what leaves enough to do it again on more images."""
    trained_on, more = len(prepared.splits.train), len(prepared.splits.validation)
    return share_of_first(trained_on + more, trained_on) if config.refit else 1.0


def _images_to_predict(prepared: Prepared, recipe: Recipe, foreign: bool) -> float:
    """How many images the network is asked about after its last step: to measure, to score, to find foreign ones."""
    splits = prepared.splits
    train, held_out = len(splits.train), len(splits.validation) + len(splits.test)
    sample = min(train, max(1000, len(splits.validation)))
    mirrored = recipe.mirror != "off"
    measured = (0 if recipe.weights else sample) + (2 * (sample + len(splits.validation)) if mirrored else 0)
    measured += sample + len(splits.validation) if recipe.members > 1 else 0
    return measured + (1 + mirrored) * (held_out + (_looked_at_again(prepared) / recipe.members if foreign else 0))


def _diagnose(fitted: Fitted, scores: dict[str, Any]) -> Diagnosis:
    best, figure = fitted.kept, scores["balanced_accuracy"]
    return diagnose(
        [contents.curve_row(row) for row in fitted.curve],
        best_epoch=fitted.best_epoch,
        train=(best.train_balanced_accuracy, best.train_balanced_log_loss),
        validation=(figure["value"], best.validation_balanced_log_loss),
        margin=(figure["high"] - figure["low"]) / 2,
        stopped=fitted.stopped,
    )


def _check_labels(
    run: Path,
    prepared: Prepared,
    fitted: Fitted,
    recipe: Recipe,
    logits: tuple[NDArray[np.float32], NDArray[np.float32]],
    foreign: bool,
    console: Console,
) -> Prepared:
    """Add what the network says of the images that it was not trained on, those of validation and then of test."""
    index, splits = prepared.store.index, prepared.splits
    rows = np.concatenate([splits.validation, splits.test])
    held_out, paths = prepared.part(rows), [index.paths[row] for row in rows]
    counts = np.bincount(index.labels[splits.train], minlength=len(index.classes))
    remedy = balance(counts, recipe.imbalance, recipe.minority_augment, 0.0)
    doubts = doubt(natural_logits(np.concatenate(logits), remedy, counts), held_out.labels)
    found = suspicious_labels(doubts, held_out.labels, index.classes, paths)
    if foreign:
        known = prepared.part(splits.train).sample(MOST_KNOWN, recipe.seed)
        look = partial(features_of, fitted.network, preprocessing=prepared.preprocessing, precision=recipe.precision)
        seen = [look(part) for part in (known, held_out)]  # only compared with each other: any precision will do
        found += outliers(distances_to_known(*seen), paths)
    found = tuple(unless_kept(found, index))
    for finding in found:
        console.say(f"  {finding.sentence()}")
    prepared = replace(prepared, findings=by_seriousness((*prepared.findings, *found)), foreign=foreign)
    _write_findings(run, prepared)
    return prepared


def _pack(
    run: Path,
    prepared: Prepared,
    recipe: Recipe,
    network: nn.Module,
    temperature: float,
    scores: dict[str, Any],
    console: Console,
) -> None:
    """Write the artifact, and prove on raw test files that it answers as the trained network does."""
    artifact.pack(
        run / "model",
        network,
        spec=spec_answering(recipe, network),
        classes=recipe.classes,
        preprocessing=prepared.preprocessing,
        temperature=temperature,
        scores=scores,
        recipe=contents.recipe_block(recipe),
    )
    index, rows = prepared.store.index, prepared.splits.test
    if index.arrays is None:
        chosen = rows[np.linspace(0, len(rows) - 1, min(VERIFIED_IMAGES, len(rows))).astype(int)]
        network = network.cpu()  # where an artifact is loaded: another device rounds in another way
        logits = logits_of(network, prepared.store.pixels[chosen], prepared.preprocessing)
        files = [(index.read(index.paths[row]), logits[i]) for i, row in enumerate(chosen)]
        readable = [(content, expected) for content, expected in files if isinstance(content, bytes)]
        if not readable:
            console.say("  The model could not be checked on raw files: none of the test files can be read any more.")
            return
        predictor.verify(run / "model", readable)


def _report(
    command: str,
    prepared: Prepared,
    selection: Selection,
    learned: Learned,
    diagnosis: Diagnosis,
    validation: dict[str, Any],
    test: dict[str, Any],
    watch: Stopwatch,
) -> dict[str, Any]:
    recipe, index, splits = selection.recipe, prepared.store.index, prepared.splits
    fitted, account = learned.fitted, learned.account
    counts = np.bincount(index.labels[splits.train], minlength=len(index.classes))
    return {
        "schema": contents.SCHEMA,
        "steadylens_version": __version__,
        "command": command,
        "classes": list(index.classes),
        "seed": recipe.seed,
        "device": recipe.device,
        "data": contents.data_block(index, splits, prepared.findings, prepared.near, foreign=prepared.foreign),
        "selection": contents.selection_block(
            recipe, selection.why, counts, validation, fitted, account, selection.trials
        ),
        "training": {**contents.training_block(fitted, recipe, watch.elapsed()), "pretrained": account},
        "diagnosis": diagnosis.as_dict(),
        "validation": validation,
        "test": test,
        "robustness": None,
        "timing": dict(watch.stages),
        "environment": contents.environment(),
    }
