"""One run, from a folder of labelled images to a trained, honest, deployable classifier and its report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steadylens import __version__
from steadylens.config import Config, Recipe
from steadylens.console import Advance, Console
from steadylens.data.audit import unless_kept
from steadylens.data.findings import by_seriousness
from steadylens.data.sources import ImageIndex, Tally, read_index_to_measure
from steadylens.data.split import read_splits
from steadylens.data.store import cache_folder, prune
from steadylens.deployment import artifact, predictor
from steadylens.errors import DataError
from steadylens.evaluation.calibration import apply_temperature, fit_temperature
from steadylens.evaluation.evaluate import evaluate
from steadylens.evaluation.labels import doubt, outliers, suspicious_labels
from steadylens.models import build, pretrained, spec_of
from steadylens.models.distance import MOST_KNOWN, distances_to_known
from steadylens.models.inference import features_of, logits_of
from steadylens.preparation import Prepared, Stopwatch, decoded, indexed, prepare
from steadylens.report import contents, run_folder
from steadylens.report.audit_section import paths_to_draw
from steadylens.report.examples import choose_examples
from steadylens.report.loggers import Loggers, open_loggers
from steadylens.report.metrics_log import epoch_line
from steadylens.report.page import save_examples, write_page
from steadylens.report.thumbnails import draw_thumbnails, save_thumbnails
from steadylens.training.diagnosis import Diagnosis, diagnose
from steadylens.training.finetune import adapt
from steadylens.training.imbalance import balance, natural_offsets
from steadylens.training.loop import Epoch, Fitted, Step, fit
from steadylens.training.selection import DEFAULT_BUDGET_S, Selection, select

CACHE_CEILING_BYTES = 20 * 2**30
REPORT_S = 5.0  # set aside for intervals, plots, examples and the artifact on one slow core
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
    splits_of: Path | None = None,
    console: Console | None = None,
    stopwatch: Stopwatch | None = None,
) -> Run:
    """Do one whole run.

    Args:
        read: gives the index of the images (see `data.sources`), and tells how far it is.
        run: folder to make; it must not exist, or be empty.
        config: what was asked for.
        command: that reproduces the run, for the report.
        splits_of: an earlier run, or its index.parquet, whose images keep their splits.
        console: where progress goes; None is nowhere.
        stopwatch: already running, where start-up is to count towards the budget.

    Raises:
        SteadylensError: see `errors`.
    """
    console, watch = console or Console(quiet=True), stopwatch or Stopwatch()
    run_folder.require_free(run)
    with open_loggers(config.log, run, console.say) as loggers:
        return _train(read, run, config, command, splits_of, console, watch, loggers)


def _train(
    read: Callable[[Tally], ImageIndex],
    run: Path,
    config: Config,
    command: str,
    splits_of: Path | None,
    console: Console,
    watch: Stopwatch,
    loggers: Loggers,
) -> Run:
    budget = config.budget or (None if config.epochs else DEFAULT_BUDGET_S)
    earlier = None if splits_of is None else read_splits(splits_of)
    prepared = prepare(read, config, console, watch, budget, earlier)
    run_folder.claim(run)
    index, splits = prepared.store.index, prepared.splits
    training, validation = prepared.part(splits.train), prepared.part(splits.validation)
    run_folder.write_index(run, index, splits)
    _write_findings(run, prepared)

    with watch.stage("select"), console.stage("Selecting"):
        left = None if budget is None else budget - watch.elapsed() - REPORT_S
        selection = select(
            config, index.classes, training, validation, prepared.preprocessing, prepared.reasons["image_size"],
            seconds=left, backbone=prepared.backbone.pretrained, reasons=prepared.reasons,
        )  # fmt: skip
        recipe = selection.recipe
        run_folder.write_recipe(run, recipe)
        loggers.recipe(contents.recipe_block(recipe))
    console.say(f"  {recipe.network}, {recipe.imbalance}: {selection.why['network']}")

    with watch.stage("train"), console.stage("Training") as advance:
        foreign = _worth_looking_for_foreign(prepared, selection, budget)
        if budget is not None:
            predicted = _images_to_predict(prepared, recipe, foreign)
            left = budget - watch.elapsed() - REPORT_S - predicted * selection.seconds_per_image
        fitted, account = _learn(run, prepared, selection, left, console, advance, loggers)
        network = fitted.network
    with watch.stage("calibrate"), console.stage("Calibrating"):
        validation_logits = logits_of(network, validation, prepared.preprocessing)
        temperature = fit_temperature(validation_logits, validation.labels)
        scores = evaluate(validation_logits, validation.labels, index.classes, temperature, seed=recipe.seed)
        diagnosis = _diagnose(fitted, scores)
    with watch.stage("evaluate"), console.stage("Evaluating"):
        test = prepared.part(splits.test)  # here, once
        test_logits = logits_of(network, test, prepared.preprocessing)
        test_scores = evaluate(test_logits, test.labels, index.classes, temperature, seed=recipe.seed)
    with watch.stage("check labels"), console.stage("Checking labels"):
        prepared = _check_labels(run, prepared, fitted, recipe, (validation_logits, test_logits), foreign, console)
    with watch.stage("pack"), console.stage("Packing"):
        _pack(run, prepared, recipe, fitted, temperature, {"validation": scores, "test": test_scores}, console)
    with watch.stage("report"), console.stage("Reporting"):
        probabilities = apply_temperature(test_logits, temperature)
        paths = [index.paths[i] for i in splits.test]
        chosen = choose_examples(test, paths, test.labels, probabilities, index.classes, seed=recipe.seed)
        save_examples(run, chosen)
        thumbnails = draw_thumbnails(index, prepared.store.pixels, paths_to_draw(prepared.findings))
        save_thumbnails(run / "audit", thumbnails, index.root)
        report = _report(command, prepared, selection, fitted, account, diagnosis, scores, test_scores, watch)
        loggers.finished(report)
        report["environment"] |= loggers.account()
        run_folder.write_report(run, report)
        write_page(run)
    for removed in prune(cache_folder(), CACHE_CEILING_BYTES, keep=[prepared.store.folder]):
        console.say(f"  removed {removed}, the decoded images longest unused, to keep the cache within bounds")
    return Run(run, report)


def _learn(
    run: Path,
    prepared: Prepared,
    selection: Selection,
    seconds: float | None,
    console: Console,
    advance: Advance,
    loggers: Loggers,
) -> tuple[Fitted, dict[str, Any] | None]:
    """Train from scratch, or adapt a pretrained backbone; the account of the latter goes into the report."""
    recipe, backbone = selection.recipe, prepared.backbone
    training, validation = prepared.part(prepared.splits.train), prepared.part(prepared.splits.validation)
    progress = _Progress(run, console, advance, loggers)
    torch.manual_seed(recipe.seed)
    network = build(spec_of(recipe))
    if backbone.pretrained is None or not isinstance(network, pretrained.Backbone):
        fitted = fit(
            network, training, validation, recipe, prepared.preprocessing,
            seconds=seconds, on_step=progress.step, on_epoch=progress.epoch,
        )  # fmt: skip
        return fitted, None
    network.take_in(backbone.pretrained)
    adapted = adapt(
        network, training, validation, recipe, prepared.preprocessing,
        seconds=seconds, seconds_per_image=selection.seconds_per_image, cache=cache_folder(),
        on_features=lambda share, rate: advance(share, f"looking at images  {rate:,.0f} images/s"),
        on_step=progress.step, on_epoch=progress.epoch,
    )  # fmt: skip
    console.say(f"  {adapted.account['decision']}")
    return adapted.fitted, {
        **adapted.account,
        "bare_per_second": backbone.images_per_second,
        "decode_per_second": backbone.decode_per_second,
    }


def evaluate_on(model: Path, data: Path, console: Console) -> dict[str, Any]:
    """The figures of a finished model on other labelled images, as a test block of report.json with `refusals`.

    Raises:
        ArtifactError: the model cannot be used.
        DataError: the images cannot be used, or are of classes that the model does not know.
    """
    loaded = predictor.load(model).artifact
    watch = Stopwatch()
    index = indexed(lambda tally: read_index_to_measure(data, advance=tally), console, watch)
    unknown = [name for name in index.classes if name not in loaded.classes]
    if unknown:
        raise DataError(
            f"{data} has classes that the model does not know: {', '.join(unknown)}. "
            f"It knows {', '.join(loaded.classes)}."
        )
    store = decoded(index, loaded.preprocessing, console, watch)
    with console.stage("Evaluating"):
        logits = logits_of(loaded.network, store.pixels, loaded.preprocessing)
        labels = np.array([loaded.classes.index(name) for name in store.index.classes])[store.index.labels]
        scores = evaluate(logits, labels, loaded.classes, loaded.temperature, seed=0)
    for note in store.index.notes:
        console.say(f"  {note}")
    for refusal in store.index.refusals:
        console.say(f"  {refusal.path} was left out: {refusal.reason}")
    return {
        **scores,
        "refusals": [{"path": r.path, "class": r.class_name, "reason": r.reason} for r in store.index.refusals],
    }


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
    return budget is None or _looked_at_again(prepared) * selection.seconds_per_image <= FOREIGN_SHARE * budget


def _images_to_predict(prepared: Prepared, recipe: Recipe, foreign: bool) -> int:
    """How many images the network is asked about after its last step: to measure, to score, to find foreign ones."""
    splits = prepared.splits
    train, held_out = len(splits.train), len(splits.validation) + len(splits.test)
    measured = 0 if recipe.weights else min(train, max(1000, len(splits.validation)))
    return measured + held_out + (_looked_at_again(prepared) if foreign else 0)


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
        row = contents.curve_row(epoch)
        self.loggers.epoch(row)
        self.reached = f"  balanced accuracy {epoch.validation_balanced_accuracy:.1%}"
        self.console.say(epoch_line(row))


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
    doubts = doubt(np.concatenate(logits) + natural_offsets(remedy, counts), held_out.labels)
    found = suspicious_labels(doubts, held_out.labels, index.classes, paths)
    if foreign:
        known = prepared.part(splits.train).sample(MOST_KNOWN, recipe.seed)
        seen = [features_of(fitted.network, part, prepared.preprocessing) for part in (known, held_out)]
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
    fitted: Fitted,
    temperature: float,
    scores: dict[str, Any],
    console: Console,
) -> None:
    """Write the artifact, and prove on raw test files that it answers as the trained network does."""
    artifact.pack(
        run / "model",
        fitted.network,
        spec=spec_of(recipe),
        classes=recipe.classes,
        preprocessing=prepared.preprocessing,
        temperature=temperature,
        scores=scores,
        recipe=contents.recipe_block(recipe),
    )
    index, rows = prepared.store.index, prepared.splits.test
    if index.arrays is None:
        chosen = rows[np.linspace(0, len(rows) - 1, min(VERIFIED_IMAGES, len(rows))).astype(int)]
        network = fitted.network.cpu()  # where an artifact is loaded: another device rounds in another way
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
    fitted: Fitted,
    account: dict[str, Any] | None,
    diagnosis: Diagnosis,
    validation: dict[str, Any],
    test: dict[str, Any],
    watch: Stopwatch,
) -> dict[str, Any]:
    recipe, index, splits = selection.recipe, prepared.store.index, prepared.splits
    counts = np.bincount(index.labels[splits.train], minlength=len(index.classes))
    return {
        "schema": contents.SCHEMA,
        "steadylens_version": __version__,
        "command": command,
        "classes": list(index.classes),
        "seed": recipe.seed,
        "device": recipe.device,
        "data": contents.data_block(index, splits, prepared.findings, prepared.near, foreign=prepared.foreign),
        "selection": contents.selection_block(recipe, selection.why, counts, validation, fitted, account),
        "training": {**contents.training_block(fitted, recipe, watch.elapsed()), "pretrained": account},
        "diagnosis": diagnosis.as_dict(),
        "validation": validation,
        "test": test,
        "robustness": None,
        "timing": dict(watch.stages),
        "environment": contents.environment(),
    }
