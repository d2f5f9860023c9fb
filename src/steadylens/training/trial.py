"""One trial of the selection: the beginning of the very training that its recipe would become, judged on the way.

A trial trains by the clock and the schedule of the whole training, and pauses. What came of it is a place in that
training, from which it goes on to the next pause, or as the training itself.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steadylens import interruption
from steadylens.config import Recipe
from steadylens.data.images import Preprocessing
from steadylens.errors import ConfigError
from steadylens.metrics import balanced_accuracy, figures, softmax, worst_class_recall
from steadylens.models import fresh
from steadylens.training.challengers import Challenger
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.clock import Clock
from steadylens.training.diagnosis import diagnose
from steadylens.training.early_stopping import BestWeights
from steadylens.training.folds import Fold
from steadylens.training.gain import tempered_log_loss
from steadylens.training.loop import begin, go_on, measure, said_what_fits, save_place
from steadylens.training.memory import out_of_memory
from steadylens.training.position import elapsed_at, put_back, take, written
from steadylens.training.state import Course, Step

SEEN = 1000  # training images that a measurement looks at, as in `fit`
STILL = 0.02  # balanced accuracy on training images that is still gained where a training has not learned all it can
_LOOKS = 5  # on the way to a rung, at least, where it has as many epochs: how a training learns tells where to look
_DRAWS = 200  # for the interval of one figure


@dataclass(frozen=True)
class Standing:
    """Where a trial stands at a rung.

    Attributes:
        number: of the trial; 0 is the recipe of the rules.
        challenger: what is tried.
        rung: the share of the whole training at which it was judged.
        name: of the checkpoint of the run's own fold, which the training can go on with.
        legs: a place for each fold, with what the network there said of the held-out images.
        labels: of the held-out images of all folds.
        failed: why it could not go on; "" where it could.
        failed_s: seconds of the leg that failed.
    """

    number: int
    challenger: Challenger
    rung: float
    name: str
    legs: tuple[Checkpoint, ...]
    labels: NDArray[np.int64]
    failed: str
    failed_s: float = 0.0

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """What the networks said of the images that they had not seen, (n, classes)."""
        return np.concatenate([leg.tensors["answers"].numpy() for leg in self.legs])

    @cached_property
    def loss(self) -> float:
        """The balanced log-loss of the held-out images at its best temperature."""
        return tempered_log_loss(self.logits, self.labels)

    @property
    def seconds(self) -> float:
        """Of wall time, of all folds together."""
        return self.failed_s + sum(map(elapsed_at, self.legs))

    @property
    def train_balanced_accuracy(self) -> float:
        """On a sample of the training images, without augmentation; the mean of the folds."""
        return float(np.mean([leg.state["row"]["train_balanced_accuracy"] for leg in self.legs]))

    @property
    def validation(self) -> dict[str, float]:
        """The figures on the held-out images."""
        predicted, classes = self.logits.argmax(1), self.logits.shape[1]
        return {
            "balanced_accuracy": balanced_accuracy(self.labels, predicted, classes),
            "balanced_log_loss": self.loss,
            "worst_class_recall": worst_class_recall(self.labels, predicted, classes),
        }

    @cached_property
    def verdict(self) -> str:
        """What is diagnosed: overfitting, underfitting, or "open" where it is neither, or too early to tell.

        A training that still learns its own images better with every epoch is not underfitting but unfinished.
        """
        rows = [*self.legs[0].state["curve"], self.legs[0].state["row"]]
        figure = figures(self.labels, softmax(self.logits), draws=_DRAWS)["balanced_accuracy"]
        found = diagnose(
            rows,
            best_epoch=rows[-1]["epoch"],
            train=(self.train_balanced_accuracy, rows[-1]["train_balanced_log_loss"]),
            validation=(figure.value, rows[-1]["validation_balanced_log_loss"]),
            margin=(figure.high - figure.low) / 2,
            stopped="pause",
        ).verdict
        if found == "underfitting" and not _stands_still([row["train_balanced_accuracy"] for row in rows]):
            return "open"
        return found if found in ("overfitting", "underfitting") else "open"

    def as_dict(self) -> dict[str, Any]:
        """What was measured at the rung, for report.json."""
        return {
            "rung": self.rung,
            "validation": None if self.failed else self.validation,
            "train_balanced_accuracy": None if self.failed else self.train_balanced_accuracy,
            "verdict": None if self.failed else self.verdict,
            "seconds": self.seconds,
            "stopped_at": None if self.failed else int(self.legs[0].state["clock"]["epoch"]),
        }


@dataclass(frozen=True)
class Trials:
    """What all trials share.

    Attributes:
        folds: to learn from and to judge on; the run's own split first.
        preprocessing: how pixels become input.
        seconds: of wall time that the whole training of each is planned for.
        checkpoints: where trials are kept, and go on from.
        on_step: told after each step.
    """

    folds: Sequence[Fold]
    preprocessing: Preprocessing
    seconds: float
    checkpoints: Checkpoints
    on_step: Callable[[Step], None]

    def advance(self, number: int, challenger: Challenger, rung: float, before: Standing | None = None) -> Standing:
        """Train until a share `rung` of the training is over, and judge; each fold gets its part of the time.

        Args:
            number: of the trial; the one with 0 must not fail.
            challenger: what is tried.
            rung: the share.
            before: where the trial stood at the rung before.

        Raises:
            ConfigError: the trial with number 0 has diverged.
            ResourceError: there is too little memory for it, or a checkpoint could not be written.
            Interrupted: after a step, which is saved.
        """
        legs, failed, failed_s = list[Checkpoint](), "", 0.0
        names = [f"trial.{number}-{fold}-{0 if before is None else 1}" for fold in range(len(self.folds))]
        for fold, name in enumerate(names):
            place = None if before is None else before.legs[fold]
            leg = self.checkpoints.outcome(name)
            if leg is None:
                with interruption.deferred():
                    leg = self._leg(challenger.recipe, fold, name, rung, place, must=number == 0)
                    self.checkpoints.keep(name, leg)
            if "failed" in leg.state:
                failed, failed_s = str(leg.state["failed"]), float(leg.state["seconds"])
                break
            legs.append(leg)
        labels = np.concatenate([fold.held_out.labels for fold in self.folds])
        return Standing(number, challenger, rung, names[0], tuple(legs), labels, failed, failed_s)

    def _leg(
        self, recipe: Recipe, fold: int, name: str, rung: float, place: Checkpoint | None, *, must: bool
    ) -> Checkpoint:
        """Train on one fold until the rung; where that fails and need not succeed, the checkpoint says why."""
        started = time.perf_counter()
        try:
            return self._trained(recipe, fold, name, rung, place, must=must)
        except ConfigError as error:
            if must:
                raise
            why = str(error)
        except Exception as error:
            if must or not out_of_memory(error):
                raise
            traceback.clear_frames(error.__traceback__)  # with them live the tensors of the step that failed
            why = "There is too little memory for a step of this recipe."
        return Checkpoint({"failed": why, "seconds": time.perf_counter() - started})

    def _trained(
        self, recipe: Recipe, fold: int, name: str, rung: float, place: Checkpoint | None, *, must: bool
    ) -> Checkpoint:
        train, held_out = self.folds[fold].train, self.folds[fold].held_out
        saved = self.checkpoints.good_weights if must else str
        training = begin(fresh(recipe), train, recipe, self.preprocessing, None, self.on_step, saved)
        sample = train.sample(max(SEEN, len(held_out)), recipe.seed)
        start = self.checkpoints.position(name) or place
        clock = Clock(self.seconds - elapsed_at(start), recipe.epochs)  # going to a place adds what had gone by there
        clock.pause_s = rung * self.seconds / len(self.folds)
        clock.interval = min(clock.interval, (clock.pause_s - elapsed_at(place)) / self.seconds / _LOOKS)
        course = Course(clock, BestWeights(recipe.early_stopping, recipe.stopping), [], [])
        if start is not None:
            put_back(start, training, course)
        save = partial(save_place, self.checkpoints, name, training, course)
        with said_what_fits(training) if must else nullcontext():
            go_on(training, course, sample, held_out, save, lambda _: None)
        loss = float(np.mean(course.losses))
        with clock.measuring(), training.average.shown_by(training.network):
            row, answers = measure(training, sample, held_out, loss, clock)
        reached = take(training, course)
        tensors = {**reached.tensors, "answers": torch.from_numpy(answers)}
        return Checkpoint({**reached.state, "row": written(row)}, tensors)


def _stands_still(learned: Sequence[float | None]) -> bool:
    """Whether the last third of a curve, of at least three measurements, gained less than `STILL`."""
    known = [value for value in learned if value is not None]
    if len(known) < 3:
        return False
    start = len(known) - max(1, len(known) // 3)
    return max(known[start:]) - max(known[:start]) < STILL
