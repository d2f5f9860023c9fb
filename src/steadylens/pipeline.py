"""One run, from a folder of labelled images to a trained, honest, deployable classifier and its report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steadylens import __version__
from steadylens.config import Config, Recipe
from steadylens.console import Advance, Console
from steadylens.data.audit import audit
from steadylens.data.batches import LabelledPixels
from steadylens.data.findings import Finding
from steadylens.data.images import Preprocessing
from steadylens.data.reading import read_content
from steadylens.data.sources import ImageIndex, read_index_to_measure
from steadylens.data.split import Splits, split
from steadylens.data.store import Store, cache_folder, decode, prune
from steadylens.deployment import artifact, predictor
from steadylens.errors import DataError
from steadylens.evaluation.calibration import apply_temperature, fit_temperature
from steadylens.evaluation.evaluate import evaluate
from steadylens.models import NetworkSpec, build, pretrained
from steadylens.models.inference import logits_of
from steadylens.report import contents, run_folder
from steadylens.report.examples import choose_examples
from steadylens.report.page import save_examples, write_page
from steadylens.training.backbones import BackboneChoice, choose_backbone
from steadylens.training.diagnosis import Diagnosis, diagnose
from steadylens.training.finetune import adapt
from steadylens.training.framing import choose_fit
from steadylens.training.loop import Epoch, Fitted, Step, fit
from steadylens.training.selection import DEFAULT_BUDGET_S, Selection, choose_device, choose_image_size, select

CACHE_CEILING_BYTES = 20 * 2**30
REPORT_S = 5.0  # set aside for intervals, plots, examples and the artifact on one slow core
VERIFIED_IMAGES = 32


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and what report.json in it says."""

    folder: Path
    report: dict[str, Any]


@dataclass
class Stopwatch:
    """Seconds since the start of a run, and of each of its stages."""

    started: float = field(default_factory=time.perf_counter)
    stages: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        begin = time.perf_counter()
        yield
        self.stages[name] = self.stages.get(name, 0.0) + time.perf_counter() - begin

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self.started


@dataclass(frozen=True)
class Prepared:
    """Images ready to learn from."""

    store: Store
    findings: tuple[Finding, ...]
    splits: Splits
    preprocessing: Preprocessing
    backbone: BackboneChoice
    reasons: dict[str, str]

    def part(self, rows: NDArray[np.int64]) -> LabelledPixels:
        """The images of one split."""
        return LabelledPixels(self.store.pixels, rows, self.store.index.labels[rows])


def train(
    read: Callable[[], ImageIndex],
    run: Path,
    config: Config,
    *,
    command: str,
    console: Console | None = None,
    stopwatch: Stopwatch | None = None,
) -> Run:
    """Do one whole run.

    Args:
        read: gives the index of the images (see `data.sources`).
        run: folder to make; it must not exist, or be empty.
        config: what was asked for.
        command: that reproduces the run, for the report.
        console: where progress goes; None is nowhere.
        stopwatch: already running, where start-up is to count towards the budget.

    Raises:
        SteadylensError: see `errors`.
    """
    console, watch = console or Console(quiet=True), stopwatch or Stopwatch()
    budget = config.budget or (None if config.epochs else DEFAULT_BUDGET_S)
    run_folder.require_free(run)

    prepared = prepare(read, config, console, watch, budget)
    run_folder.claim(run)
    index, splits = prepared.store.index, prepared.splits
    training, validation = prepared.part(splits.train), prepared.part(splits.validation)
    run_folder.write_index(run, index, splits)
    run_folder.write_audit(run, prepared.findings)

    with watch.stage("select"), console.stage("Selecting"):
        left = None if budget is None else budget - watch.elapsed() - REPORT_S
        selection = select(
            config, index.classes, training, validation, prepared.preprocessing, prepared.reasons["image_size"],
            seconds=left, backbone=prepared.backbone.pretrained, reasons=prepared.reasons,
        )  # fmt: skip
        recipe = selection.recipe
        run_folder.write_recipe(run, recipe)
    console.say(f"  {recipe.network}, {recipe.imbalance}: {selection.why['network']}")

    with watch.stage("train"), console.stage("Training") as advance:
        if budget is not None:
            again = 0 if recipe.weights else min(len(training), max(1000, len(validation)))
            predicted = len(splits.validation) + len(splits.test) + again
            left = budget - watch.elapsed() - REPORT_S - predicted * selection.seconds_per_image
        fitted, account = _learn(run, prepared, selection, training, validation, left, console, advance)
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
    with watch.stage("pack"), console.stage("Packing"):
        _pack(run, prepared, recipe, fitted, temperature, {"validation": scores, "test": test_scores}, console)
    with watch.stage("report"), console.stage("Reporting"):
        probabilities = apply_temperature(test_logits, temperature)
        paths = [index.paths[i] for i in splits.test]
        chosen = choose_examples(test, paths, test.labels, probabilities, index.classes, seed=recipe.seed)
        save_examples(run, chosen)
        report = _report(command, prepared, selection, fitted, account, diagnosis, scores, test_scores, watch)
        run_folder.write_report(run, report)
        write_page(run)
    for removed in prune(cache_folder(), CACHE_CEILING_BYTES, keep=[prepared.store.folder]):
        console.say(f"  removed {removed}, the decoded images longest unused, to keep the cache within bounds")
    return Run(run, report)


def _learn(
    run: Path,
    prepared: Prepared,
    selection: Selection,
    training: LabelledPixels,
    validation: LabelledPixels,
    seconds: float | None,
    console: Console,
    advance: Advance,
) -> tuple[Fitted, dict[str, Any] | None]:
    """Train from scratch, or adapt a pretrained backbone; the account of the latter goes into the report."""
    recipe, backbone = selection.recipe, prepared.backbone

    def on_step(step: Step) -> None:
        advance(step.progress, _step_text(step))

    def on_epoch(epoch: Epoch) -> None:
        _epoch_done(run, epoch, console)

    torch.manual_seed(recipe.seed)
    network = build(_spec(recipe))
    if backbone.pretrained is None or not isinstance(network, pretrained.Backbone):
        fitted = fit(
            network, training, validation, recipe, prepared.preprocessing,
            seconds=seconds, on_step=on_step, on_epoch=on_epoch,
        )  # fmt: skip
        return fitted, None
    network.take_in(backbone.pretrained)
    adapted = adapt(
        network, training, validation, recipe, prepared.preprocessing,
        seconds=seconds, seconds_per_image=selection.seconds_per_image, cache=cache_folder(),
        on_features=lambda share, rate: advance(share, f"looking at images  {rate:,.0f} images/s"),
        on_step=on_step, on_epoch=on_epoch,
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
    index = read_index_to_measure(data)
    unknown = [name for name in index.classes if name not in loaded.classes]
    if unknown:
        raise DataError(
            f"{data} has classes that the model does not know: {', '.join(unknown)}. "
            f"It knows {', '.join(loaded.classes)}."
        )
    with console.stage("Decoding") as advance:
        store = _decode(index, loaded.preprocessing, advance)
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


def prepare(
    read: Callable[[], ImageIndex], config: Config, console: Console, watch: Stopwatch, budget: float | None
) -> Prepared:
    """Read, decode, audit and split the images, and say what was found."""
    with watch.stage("read"), console.stage("Reading"):
        index = read()
    with watch.stage("choose"), console.stage("Choosing"):
        left = None if budget is None else budget - watch.elapsed() - REPORT_S
        backbone = choose_backbone(config, index, choose_device(config.device)[0], seconds=left)
        size, size_reason = choose_image_size(config, index.widths, index.heights)
        reasons = {"image_size": size_reason, **backbone.why}
    frame = backbone.frame(config.image_fit, size)
    with watch.stage("decode"), console.stage("Decoding") as advance:
        store = _decode(index, frame, advance)
    with watch.stage("audit"), console.stage("Auditing"):
        findings = audit(store.index)  # after decoding, which alone tells which images can be used
        splits = split(store.index, config.seed)
    for text in (*(f.sentence() for f in findings), *splits.notes):
        console.say(f"  {text}")
    train = LabelledPixels(store.pixels, splits.train, store.index.labels[splits.train])
    if backbone.pretrained is None:
        mean, std = _colours(train)
        frame = replace(frame, mean=mean, std=std)
    with watch.stage("choose"):
        left = None if budget is None else budget - watch.elapsed() - REPORT_S
        fit, reasons["image_fit"] = choose_fit(config, backbone, store.index, train, frame, seconds=left)
    if fit != frame.fit:
        frame = replace(frame, fit=fit)
        with watch.stage("decode"), console.stage("Decoding") as advance:
            store = _decode(index, frame, advance)
            splits = split(store.index, config.seed)  # the same images, or those that can still be read
    return Prepared(store, findings, splits, frame, backbone, reasons)


def _decode(index: ImageIndex, frame: Preprocessing, advance: Advance) -> Store:
    return decode(
        index, frame.image_size, cache=cache_folder(), fit=frame.fit, interpolation=frame.interpolation,
        advance=lambda i, n: advance(i / n, f"{i:,} of {n:,}"),
    )  # fmt: skip


def _colours(train: LabelledPixels) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """The mean and the standard deviation of each colour, of pixels / 255, over some training images."""
    few = max(100, min(5000, 5000 * 64**2 // train.pixels.shape[1] ** 2))  # of large images too many for the memory
    sample = train.sample(few, 0)[:] / 255.0
    return _three(sample.mean((0, 1, 2))), _three(sample.std((0, 1, 2)).clip(min=1e-3))


def _three(values: NDArray[np.float64]) -> tuple[float, float, float]:
    red, green, blue = (round(float(v), 6) for v in values)
    return red, green, blue


def _spec(recipe: Recipe) -> NetworkSpec:
    return NetworkSpec(
        recipe.network,
        len(recipe.classes),
        recipe.image_size,
        recipe.depth,
        recipe.width,
        recipe.dropout,
        json.loads(recipe.arguments),
    )


def _step_text(step: Step) -> str:
    return f"epoch {step.epoch}  {step.images_per_second:,.0f} images/s  loss {step.loss:.3f}"


def _epoch_done(run: Path, epoch: Epoch, console: Console) -> None:
    run_folder.append_epoch(run, epoch)
    console.say(
        f"  epoch {epoch.epoch:3d}  {epoch.seconds:6.1f} s  {epoch.images_per_second:7,.0f} images/s  "
        f"loss {epoch.train_loss:.3f}  balanced accuracy: train {epoch.train_balanced_accuracy:.1%}, "
        f"validation {epoch.validation_balanced_accuracy:.1%}"
    )


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
        spec=_spec(recipe),
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
        files = [(read_content(index.paths[row]), logits[i]) for i, row in enumerate(chosen)]
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
        "data": contents.data_block(index, splits, prepared.findings),
        "selection": contents.selection_block(recipe, selection.why, counts, validation, fitted, account),
        "training": {**contents.training_block(fitted, recipe, watch.elapsed()), "pretrained": account},
        "diagnosis": diagnosis.as_dict(),
        "validation": validation,
        "test": test,
        "robustness": None,
        "timing": dict(watch.stages),
        "environment": contents.environment(),
    }
