"""The training loop: epochs of steps (`training.steps`), measured, until the end."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from steadylens import interruption
from steadylens.config import Recipe
from steadylens.data.augment import base_strength, policy_of
from steadylens.data.batches import LabelledPixels, batches, epoch_order, to_input
from steadylens.data.images import Preprocessing
from steadylens.metrics import balanced_accuracy, balanced_log_loss, softmax, worst_class_recall
from steadylens.models.cnn import StagedCNN
from steadylens.models.inference import logits_of
from steadylens.training.checkpoint import Checkpoint, Checkpoints
from steadylens.training.clock import Clock
from steadylens.training.divergence import LossWatch, cost_of_guessing, what_to_change
from steadylens.training.early_stopping import BestWeights
from steadylens.training.gain import tempered_log_loss, tempered_losses
from steadylens.training.imbalance import as_tensor, balance, objective_of
from steadylens.training.memory import TooLittleMemoryError, advice, largest_batch_that_fits, out_of_memory
from steadylens.training.optimizers import Rates, optimizer_of, rate_at, set_rate
from steadylens.training.position import put_back, take
from steadylens.training.recorder import Recorder
from steadylens.training.regularize import WeightAverage
from steadylens.training.source import Resident, source_of
from steadylens.training.state import Course, Epoch, Fitted, Step, Training
from steadylens.training.steps import learn, next_step

_STEPS_A_LOOK = {"cpu": 1, "cuda": 16}  # a GPU would stand still while the processor waits for what it has found
WHITENED_BY = 1000  # training images whose patches the stem of the cnn family is made for: some millions of patches


def fit(
    network: nn.Module,
    train: LabelledPixels,
    validation: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    *,
    seconds: float | None = None,
    rates: Rates | None = None,
    seen: int = 1000,
    checkpoints: Checkpoints | None = None,
    stage: str = "training",
    place: Checkpoint | None = None,
    on_step: Callable[[Step], None] = lambda _: None,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
) -> Fitted:
    """Train a network by a recipe, until its epochs, the given seconds or the patience run out.

    Args:
        network: trained in place, but for what is frozen in it.
        train: images to learn from.
        validation: images to choose the weights by.
        recipe: what to do.
        preprocessing: how pixels become input.
        seconds: of wall time for everything done here; None where the recipe's epochs alone decide.
        rates: factors of the learning rate, where it is not the same for all parameters.
        seen: training images that each measurement looks at, or as many as there are validation images.
        checkpoints: where the training is kept, and goes on from; None keeps it nowhere.
        stage: tells this training from others of the same run.
        place: where a trial of the same network, images and recipe got to, which this training goes on with unless the
            checkpoints hold a later place; None begins anew.
        on_step: told after each step.
        on_epoch: told after each measured epoch, those of the trial first. Where the training goes on from a
            checkpoint, the last one before that is told again: later ones that were told before are lost.

    Raises:
        ConfigError: the loss is no longer a number.
        ResourceError: a checkpoint could not be written.
        Interrupted: after a step, which is saved.
    """
    checkpoints = checkpoints or Checkpoints(None)
    training = begin(network, train, recipe, preprocessing, rates, on_step, checkpoints.good_weights)
    sample = train.sample(max(seen, len(validation)), recipe.seed)
    best, clock = BestWeights(recipe.early_stopping, recipe.stopping), Clock(seconds, recipe.epochs)
    course = Course(clock, best, [], [])
    save = partial(save_place, checkpoints, stage, training, course)
    if (kept := checkpoints.position(stage)) is not None:
        put_back(kept, training, course)
        for row in course.curve[-1:]:
            on_epoch(row)
    elif place is not None:
        put_back(place, training, course)
        for row in course.curve:
            on_epoch(row)

    with interruption.deferred(), said_what_fits(training):
        stopped = go_on(training, course, sample, validation, save, on_epoch)

    best.restore(network)
    return Fitted(
        network=network.eval(),
        preprocessing=preprocessing,
        curve=tuple(course.curve),
        best_epoch=best.epoch,
        kept=next(row for row in course.curve if row.epoch == best.epoch),
        epochs=clock.epoch,
        stopped=stopped,
        seconds=clock.elapsed(),
        images_per_second=clock.images_per_second,
    )


def go_on(
    training: Training,
    course: Course,
    sample: LabelledPixels,
    validation: LabelledPixels,
    save: Callable[..., None],
    on_epoch: Callable[[Epoch], None],
) -> str:
    """Train until the end, or until the clock pauses: epoch by epoch, measured when it is due.

    Args:
        training: what is trained.
        course: where it is.
        sample: training images to measure it on.
        validation: images to measure it on and to choose the weights by.
        save: called after each step, and after each epoch with `epoch_ended`.
        on_epoch: told after each measured epoch.

    Returns:
        Why it ends: "budget", "epochs", "early", or "pause".
    """
    network, clock, best, stopped = training.network, course.clock, course.best, ""
    while not stopped:
        loss, stopped = train_epoch(training, clock, course.losses, after_step=save)
        if stopped == "pause":
            break
        if stopped or clock.measuring_due():
            with clock.measuring(), training.average.shown_by(network):
                row, answers = measure(training, sample, validation, loss, clock)
                losses = tempered_losses(answers, validation.labels)
                best.offer(network, clock.epoch, losses, validation.labels, at_the_end=bool(stopped))
            course.curve.append(row)
            on_epoch(row)
            if not training.remedy.in_full(clock.progress()):
                best.wait(clock.epoch)
            if not stopped and best.exhausted(clock.epoch):
                stopped = "early"
        if not stopped:
            save(epoch_ended=True)
    return stopped


def train_epoch(
    training: Training,
    clock: Clock,
    losses: list[float] | None = None,
    *,
    after_step: Callable[[], None] = lambda: None,
) -> tuple[float, str]:
    """Do one epoch, or the rest of one.

    Args:
        training: what is trained.
        clock: tells the epoch and the step.
        losses: of the steps so far, where part of the epoch is done; the others are added.
        after_step: called after each step but the last of the epoch.

    Returns:
        The mean loss of its steps, and why the training ends with it ("" where it goes on), or "pause".
    """
    network, recipe = training.network, training.recipe
    losses = [] if losses is None else losses
    if clock.epoch_is_over:
        losses.clear()
        clock.begin_epoch(_steps_of(training, clock.epoch + 1))
    network.train()
    unseen = list[Tensor]()
    for positions in _steps_of(training, clock.epoch)[clock.step :]:
        progress = clock.progress()
        set_rate(training.optimizer, recipe.learning_rate * rate_at(progress))
        unseen.append(next_step(training, positions, clock.epoch, clock.step, progress))
        training.average.update(network)
        clock.end_step(len(positions))
        if len(unseen) < _STEPS_A_LOOK[training.device.type] and not clock.epoch_is_over:
            continue
        losses += (found := torch.stack(unseen).tolist())
        unseen.clear()
        for number, loss in enumerate(found, clock.step - len(found) + 1):
            training.watch.look(clock.epoch, number, loss)
        training.on_step(Step(clock.epoch, clock.progress(), clock.images_per_second, losses[-1]))
        if clock.out_of_time():
            return float(np.mean(losses)), "budget"
        if clock.pausing():
            return float(np.mean(losses)), "pause"
        if not clock.epoch_is_over:
            after_step()
    return float(np.mean(losses)), "epochs" if clock.epoch == recipe.epochs else ""


def begin(
    network: nn.Module,
    train: LabelledPixels,
    recipe: Recipe,
    preprocessing: Preprocessing,
    rates: Rates | None,
    on_step: Callable[[Step], None],
    good_weights: Callable[[], str] = str,
) -> Training:
    """What a training by a recipe needs; the network moves to the recipe's device.

    `good_weights` says where the last good ones are, for the error where the training diverges.
    """
    device = torch.device(recipe.device)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if isinstance(network, StagedCNN):
        enough = min(WHITENED_BY, WHITENED_BY * 256**2 // recipe.image_size**2)  # what memory bears of large images
        seen = torch.from_numpy(train.sample(enough, recipe.seed)[:]).to(device)
        network.whiten(seen, partial(to_input, mean=preprocessing.mean, std=preprocessing.std))
    minority = recipe.minority_augment > 0
    strength = base_strength(recipe.augment, flip=recipe.flip, minority_only=minority)
    counts = np.bincount(train.labels, minlength=len(recipe.classes))
    remedy = balance(counts, recipe.imbalance, recipe.minority_augment, strength)
    change = what_to_change(recipe.learning_rate, recipe.l1, recipe.l2, recipe.precision)
    source = source_of(train, device)
    return Training(
        network=network,
        images=train,
        source=source,
        recipe=recipe,
        preprocessing=preprocessing,
        remedy=remedy,
        loss_of=objective_of(remedy, recipe.label_smoothing, device),
        policy=policy_of(recipe.augment, flip=recipe.flip, minority_only=minority),
        strengths=as_tensor(remedy.strengths, device),
        optimizer=optimizer_of(
            recipe.optimizer, network, recipe.learning_rate, recipe.l2, half=recipe.precision == "bf16", rates=rates
        ),
        average=WeightAverage(network, recipe.averaging),
        watch=LossWatch(cost_of_guessing(remedy), change, good_weights),
        device=device,
        recorder=Recorder(device) if isinstance(source, Resident) and isinstance(network, StagedCNN) else None,
        on_step=on_step,
    )


def save_place(
    checkpoints: Checkpoints, stage: str, training: Training, course: Course, *, epoch_ended: bool = False
) -> None:
    """Save where the training is, where it is time to; stop, with everything saved, where that is wished."""
    place = partial(take, training, course)
    checkpoints.offer(stage, place, epoch_ended=epoch_ended)
    if interruption.asked():
        checkpoints.save_now(stage, place)
        interruption.leave()


@contextmanager
def said_what_fits(training: Training) -> Iterator[None]:
    """Within the `with` block, an error for want of memory becomes one that names a batch size that fits.

    Raises:
        TooLittleMemoryError: there was too little memory.
    """
    try:
        yield
        return
    except Exception as error:
        if not out_of_memory(error):
            raise
        traceback.clear_frames(error.__traceback__)  # with them live the tensors of the step that failed
    batch_size = training.recipe.batch_size
    raise TooLittleMemoryError(advice(batch_size, largest_batch_that_fits(partial(_try_step, training), batch_size)))


def _try_step(training: Training, batch_size: int) -> None:
    """A step with so many images, in a training that has failed."""
    training.network.train()
    learn(training, torch.arange(batch_size) % len(training.images), None, 0.0)


def _steps_of(training: Training, epoch: int) -> list[NDArray[np.int64]]:
    order = epoch_order(training.images.labels, training.remedy.shares, training.recipe.seed, epoch)
    return batches(order, training.recipe.batch_size)


def measure(
    training: Training, sample: LabelledPixels, validation: LabelledPixels, loss: float, clock: Clock
) -> tuple[Epoch, NDArray[np.float32]]:
    """Measure the network as it stands, without augmentation, on a part of its training images and on validation.

    Returns:
        The figures, and the logits of the validation images, (n, classes).
    """
    seen, unseen = (
        logits_of(training.network, part, training.preprocessing, precision=training.recipe.precision)
        for part in (sample, validation)
    )
    # The last step may have diverged.
    training.watch.require_finite(clock.epoch, clock.step, float(unseen.sum()), "the sum of the validation logits")
    classes = len(training.recipe.classes)
    row = Epoch(
        epoch=clock.epoch,
        seconds=clock.elapsed(),
        learning_rate=float(training.optimizer.param_groups[0]["lr"]),
        train_loss=loss,
        train_balanced_accuracy=balanced_accuracy(sample.labels, seen.argmax(1), classes),
        validation_balanced_accuracy=balanced_accuracy(validation.labels, unseen.argmax(1), classes),
        train_balanced_log_loss=balanced_log_loss(sample.labels, softmax(seen)),
        validation_balanced_log_loss=balanced_log_loss(validation.labels, softmax(unseen)),
        validation_tempered_log_loss=tempered_log_loss(unseen, validation.labels),
        validation_worst_class_recall=worst_class_recall(validation.labels, unseen.argmax(1), classes),
        images_per_second=clock.images_per_second,
    )
    return row, unseen
