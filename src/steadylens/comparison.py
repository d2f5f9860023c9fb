"""The tutorial as an experiment: each strategy beside the others, on the same images, splits, seeds and time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from steadylens import __version__, files
from steadylens.comparison_folder import RESULTS, agreed, named, path_of, read_json, require_own, settings_of
from steadylens.config import Config
from steadylens.console import Console
from steadylens.data.sources import ImageIndex, Tally
from steadylens.errors import DataError
from steadylens.evaluation.calibration import apply_temperature, fit_temperature
from steadylens.evaluation.evaluate import evaluate
from steadylens.fitting import Told, fit_network
from steadylens.from_scratch import beside, with_beside
from steadylens.interruption import Interrupted
from steadylens.models.inference import logits_of
from steadylens.preparation import Prepared, Stopwatch, prepare
from steadylens.report import contents
from steadylens.report.comparison_contents import comparison_block
from steadylens.report.comparison_page import write_comparison_page
from steadylens.report.comparison_table import Board
from steadylens.shares import Job, Others, dealt, threads_for
from steadylens.training.backbones import choose_backbone
from steadylens.training.checkpoint import Checkpoints
from steadylens.training.diagnosis import diagnose
from steadylens.training.selection import Beside, Selection, select
from steadylens.training.state import Fitted, Step
from steadylens.training.strategies import AUTO, NETWORK, Strategy, choose_strategies, config_of

DEFAULT_BUDGET_S = 1800.0
EVALUATE_S = 3.0  # of each training's share, set aside for the intervals of its figures
_LOOK_S = 0.5  # between two looks at what others have finished
SCHEMA = 1


@dataclass(frozen=True)
class Comparison:
    """A finished comparison: its folder, and what compare.json in it says."""

    folder: Path
    report: dict[str, Any]


def compare(
    read: Callable[[Tally], ImageIndex],
    folder: Path,
    shared: Config,
    *,
    strategies: Sequence[str] | None = None,
    seeds: int = 1,
    jobs: int = 1,
    share: Sequence[Job] | None = None,
    command: str,
    again: Sequence[str] = (),
    console: Console | None = None,
    stopwatch: Stopwatch | None = None,
) -> Comparison:
    """Train by every strategy and with every seed, and write compare.json and compare.html.

    Each finished training is a file in FOLDER/results. Where the folder holds some already, of the same images and the
    same settings, only those that are missing are done.

    Args:
        read: gives the index of the images (see `data.sources`).
        folder: to make, or that of a comparison that was interrupted.
        shared: what all trainings share; its budget is that of the whole comparison, of which each gets an equal share,
            and its network, where it is "auto", the tutorial's.
        strategies: names of `training.strategies`; None is all of them. Plain is always among them.
        seeds: how many trainings of each strategy, with the seeds from `shared.seed` on. The splits are those of the
            first.
        jobs: so many trainings go on at the same time, each with its share of the threads. Where epochs end the
            trainings, what comes of them depends on how many threads each has, and on nothing else of it.
        share: the trainings of one of the others that work for a comparison; None in the comparison itself.
        command: that makes the comparison, for the page.
        again: the words with which the others are begun; needed for more than one job.
        console: where progress goes; None is nowhere.
        stopwatch: already running, where start-up is to count towards the budget.

    Raises:
        ConfigError: there is something else in the folder, or a comparison of other images or settings.
        ResourceError: another process is at work in the folder.
        SteadylensError: see `errors`; and where one of the others has failed, that with which it did.
    """
    console, watch = console or Console(quiet=True), stopwatch or Stopwatch()
    shared = replace(shared, network=NETWORK) if shared.network == "auto" else shared
    chosen = choose_strategies(strategies, shared.network)
    budget = shared.budget or (None if shared.epochs else DEFAULT_BUDGET_S)
    trainings = [(strategy, shared.seed + k) for k in range(seeds) for strategy in chosen]
    plain = config_of(chosen[0], shared)
    require_own(folder)
    files.make_folder(folder / RESULTS)
    with files.locked(folder) if share is None else nullcontext(), _to_go_on(command):
        prepared = prepare(read, plain, console, watch, budget)
        asked = settings_of(prepared, shared, [one.name for one in chosen], seeds, budget, jobs)
        settings = agreed(folder, asked, len(trainings), watch)
        shared = replace(shared, budget=None, precision=settings["precision"], device=settings["device"])
        experiment = _Experiment(read, prepared, shared, settings["seconds_each"])
        results = _Results(folder, trainings, console)
        with console.live(results.board.table) as results.drawn:
            results.take_in()
            mine, *theirs = [share] if share is not None else dealt(results.missing(), jobs)
            with threads_for(jobs), Others(again, theirs) as results.others:
                _do(experiment, mine, results, folder)
        if share is not None:
            return Comparison(folder, {})
        with console.stage("Comparing"):
            report = {
                "schema": SCHEMA,
                "steadylens_version": __version__,
                "command": command,
                "settings": settings,
                "data": _data(prepared),
                **_compared(prepared, chosen, results.in_order(), shared.seed),
                "environment": contents.environment(),
            }
            files.write_json(folder / "compare.json", report)
            write_comparison_page(folder, report)
    return Comparison(folder, report)


@dataclass(frozen=True)
class _Experiment:
    """What all trainings share; `seconds` is the share of each, None where epochs alone decide."""

    read: Callable[[Tally], ImageIndex]
    prepared: Prepared
    shared: Config
    seconds: float | None


def _data(prepared: Prepared) -> dict[str, Any]:
    """What images there were; unlike a run, a comparison does not check their labels."""
    index, splits = prepared.store.index, prepared.splits
    block = contents.data_block(index, splits, prepared.findings, prepared.near, foreign=False)
    return {**block, "label_issues": None, "notes": [*index.notes, *splits.notes]}


def _compared(
    prepared: Prepared, strategies: Sequence[Strategy], results: Sequence[dict[str, Any]], seed: int
) -> dict[str, Any]:
    index, rows = prepared.store.index, prepared.splits.test
    return comparison_block(strategies, results, index.labels[rows], index.classes, seed=seed)


class _Results:
    """The results of all trainings, whoever makes them: taken in as their files appear, and shown.

    Attributes:
        board: the table of them.
        drawn: whether it is on a terminal; else a line is said for each.
        others: that are at work too.

    Args:
        folder: of the comparison.
        trainings: all of them, as strategy and seed.
        console: for the lines.
    """

    def __init__(self, folder: Path, trainings: Sequence[tuple[Strategy, int]], console: Console) -> None:
        self.board, self.drawn, self.others = Board(trainings), False, Others((), ())
        self.strategies = {strategy.name: strategy for strategy, _ in trainings}
        self._paths = {(strategy.name, seed): path_of(folder, strategy.name, seed) for strategy, seed in trainings}
        self._found: dict[Job, dict[str, Any]] = {}
        self._console = console
        self._looked = -math.inf

    def take_in(self) -> None:
        """Look for what is new, and show it."""
        self._looked = time.monotonic()
        for job in self.missing():
            if (found := read_json(self._paths[job])) is not None:
                self._found[job] = found
                self.board.done(found)
                if not self.drawn:
                    self._console.say(self.board.line(found))

    def missing(self) -> list[Job]:
        """What had not been found when it was looked for last."""
        return [job for job in self._paths if job not in self._found]

    def working(self, job: Job, text: str) -> None:
        """Note where a training is, and look now and then how the others are doing."""
        if time.monotonic() > self._looked + _LOOK_S:
            self.take_in()
            self.others.at_work()
        self.board.working(*job, text)

    def in_order(self) -> list[dict[str, Any]]:
        """All of them, in the order of the trainings."""
        return [self._found[job] for job in self._paths]


def _do(experiment: _Experiment, share: Sequence[Job], results: _Results, folder: Path) -> None:
    """Do a share of the trainings, and wait until the others have done theirs."""
    for name, seed in share:
        results.working((name, seed), "begins")
        result = _train(experiment, results.strategies[name], seed, partial(results.working, (name, seed)))
        files.write_json(path_of(folder, name, seed), result)
        results.take_in()
    while results.others.at_work():
        time.sleep(_LOOK_S)
        results.take_in()
    results.take_in()


def _train(experiment: _Experiment, strategy: Strategy, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """One training by one strategy, and all its figures."""
    begin = time.perf_counter()

    def left(kept_free: float = 0.0) -> float | None:
        spent = time.perf_counter() - begin
        return None if experiment.seconds is None else experiment.seconds - spent - kept_free

    config = replace(config_of(strategy, experiment.shared), seed=seed)
    prepared = experiment.prepared
    if strategy.name == AUTO:
        prepared = _prepared_for_auto(experiment, config)
    splits, classes = prepared.splits, prepared.store.index.classes
    training, validation = prepared.part(splits.train), prepared.part(splits.validation)
    selection, place = select(
        config, classes, training, validation, prepared.preprocessing, prepared.reasons["image_size"],
        seconds=left(EVALUATE_S), backbone=prepared.backbone.pretrained, reasons=prepared.reasons,
        units=prepared.units,
        on_step=partial(_tell_step, tell, "tries recipes, "),
    )  # fmt: skip
    also = beside(config, prepared, left(EVALUATE_S), Console(quiet=True), Stopwatch())
    selection = with_beside(selection, *also)

    def left_with(chosen: Selection | Beside) -> float | None:
        looked_at = (len(validation) + len(splits.test)) * (1 if chosen.recipe.mirror == "off" else 3)
        return left(EVALUATE_S + looked_at * chosen.seconds_per_image)

    on_step = partial(_tell_step, tell, "")
    told = Told(step=on_step, beside_step=on_step)
    learned = fit_network(prepared, selection, left_with, Checkpoints(None), told, place)
    prepared, selection, fitted = learned.prepared, learned.selection, learned.fitted
    tell("evaluating")
    validation, test = prepared.part(splits.validation), prepared.part(splits.test)
    unseen, untouched = (logits_of(fitted.network, part, prepared.preprocessing) for part in (validation, test))
    temperature = fit_temperature(unseen, validation.labels)
    scores, test_scores = (
        evaluate(logits, part.labels, classes, temperature, seed=seed)
        for logits, part in ((unseen, validation), (untouched, test))
    )
    probabilities = apply_temperature(untouched, temperature)
    of_true_class = probabilities[np.arange(len(test)), test.labels]
    return {
        "schema": SCHEMA,
        "strategy": strategy.name,
        "seed": seed,
        "recipe": contents.recipe_block(selection.recipe),
        "why": selection.why,
        "trials": list(selection.trials),
        "parameters": sum(p.numel() for p in fitted.network.parameters()),
        "training": {**contents.training_block(fitted, selection.recipe, time.perf_counter() - begin)},
        "curve": [contents.curve_row(row) for row in fitted.curve],
        "diagnosis": _diagnosis(fitted, scores),
        "validation": scores,
        "test": test_scores,
        "answers": {
            "predicted": probabilities.argmax(1).tolist(),
            "losses": np.round(-np.log(np.maximum(of_true_class, 1e-12)), 5).tolist(),
        },
    }


def _tell_step(tell: Callable[[str], None], what: str, step: Step) -> None:
    tell(f"{what}{min(1.0, step.progress):.0%}, epoch {step.epoch}, {step.images_per_second:,.0f} images/s")


def _prepared_for_auto(experiment: _Experiment, config: Config) -> Prepared:
    """The same images in the same splits, but prepared anew where `auto` takes a pretrained backbone."""
    prepared, seconds = experiment.prepared, experiment.seconds
    index = prepared.store.index
    if choose_backbone(config, index, config.device, seconds=seconds).pretrained is None:
        return prepared
    earlier = {index.sha256[row]: name for name, rows in named(prepared.splits) for row in rows}
    other = prepare(experiment.read, config, Console(quiet=True), Stopwatch(), seconds, earlier)
    for (name, ours), (_, theirs) in zip(named(prepared.splits), named(other.splits), strict=True):
        if [index.paths[row] for row in ours] != [other.store.index.paths[row] for row in theirs]:
            raise DataError(
                f"The images of {name} are others than before: some of them changed, or can no longer be read. "
                "Run the same command again, and give another --out."
            )
    return other


def _diagnosis(fitted: Fitted, scores: dict[str, Any]) -> dict[str, Any]:
    best, figure = fitted.kept, scores["balanced_accuracy"]
    return diagnose(
        [contents.curve_row(row) for row in fitted.curve],
        best_epoch=fitted.best_epoch,
        train=(best.train_balanced_accuracy, best.train_balanced_log_loss),
        validation=(figure["value"], best.validation_balanced_log_loss),
        margin=(figure["high"] - figure["low"]) / 2,
        stopped=fitted.stopped,
    ).as_dict()


@contextmanager
def _to_go_on(command: str) -> Iterator[None]:
    """Within the `with` block, an interruption names the command that goes on: the same."""
    try:
        yield
    except Interrupted as interrupted:
        interrupted.go_on = command
        raise
