"""From what was asked for to what will be done: every "auto" resolved by a measurement or a rule, with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from steadylens.config import TIMM, Config, Recipe
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.errors import ResourceError
from steadylens.models import DEFAULT_DEPTH, FAMILY, NetworkSpec
from steadylens.models.pretrained import Pretrained
from steadylens.training.finetune import FEWEST_TO_JUDGE
from steadylens.training.flips import choose_flip
from steadylens.training.optimizers import usual_optimizer
from steadylens.training.speed import BATCH_TUNED, BATCHES, choose_precision, measure_speed

# A larger network is taken only where the budget allows it so many passes and so many steps: below, the smaller ones
# that there is time for are better together than it is alone. Where there are so many images that few passes are many
# steps, there is no time for several, and the larger one learns more from each image (docs/benchmarks.md).
FEWEST_EPOCHS = 60
FEWEST_STEPS = 2500
MANY_STEPS = 6000
FEW_EPOCHS = 20  # in fewer, much mixing costs more than it gains; at 24 there was no difference
# A network that has made so many steps in so many epochs gains little from more, and several networks together gain
# much (docs/benchmarks.md). Few images are known after fewer steps: then so many epochs suffice. Each network costs as
# much again in use.
EPOCHS_A_MEMBER, STEPS_A_MEMBER = 30, 2000
EPOCHS_OF_FEW, STEPS_OF_FEW = 150, 1000
MOST_MEMBERS = 4
FEWEST_EPOCHS_TUNED = 0.75  # of fine-tuning: in less, the schedule is over before anything has moved
DEFAULT_BUDGET_S = 600.0
_AS_WEIGHTS = {True: "belongs to the pretrained weights", False: "trained from scratch"}


@dataclass(frozen=True, slots=True)
class Resolution:
    """The recipe, and for each of its fields why it is as it is.

    Attributes:
        recipe: what will be done.
        why: a sentence for each field of the recipe.
        seconds_per_image: of prediction in float32 with the chosen network, all its members together.
        epochs: of each member to expect in the time there is, and no more than were asked for.
    """

    recipe: Recipe
    why: dict[str, str]
    seconds_per_image: float
    epochs: float


def choose_image_size(config: Config, widths: NDArray[np.int32], heights: NDArray[np.int32]) -> tuple[int, str]:
    """The side to which every image is resized, and why: the images' own, up to 64 px for a network from scratch."""
    if config.image_size != "auto":
        return config.image_size, "given"
    side = int(np.median(np.minimum(widths, heights)))
    size = int(np.clip(side, 8, 64))
    note = "64 px is enough for a small network from scratch" if side > 64 else "the images' own size"
    return size, f"the shorter side's median is {side} px; {note}"


def choose_device(asked: str) -> tuple[str, str]:
    """The device to train on, and why.

    Raises:
        ResourceError: CUDA was asked for and is not there.
    """
    if asked == "cuda" and not torch.cuda.is_available():
        raise ResourceError("--device cuda was asked for, but torch finds no CUDA device. Run `steadylens doctor`.")
    if asked != "auto":
        return asked, "given"
    return ("cuda", "a CUDA device is there") if torch.cuda.is_available() else ("cpu", "no CUDA device was found")


def resolve(
    config: Config,
    classes: tuple[str, ...],
    train: LabelledPixels,
    validation: LabelledPixels,
    preprocessing: Preprocessing,
    size_reason: str,
    *,
    seconds: float | None,
    backbone: Pretrained | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Resolution:
    """Resolve a Config for some images.

    Args:
        config: what was asked for.
        classes: in the order of the labels.
        train: images to learn from.
        validation: images to check label-preserving flips on.
        preprocessing: whose size is that of the recipe.
        size_reason: why that size.
        seconds: left of the budget for training; None where epochs alone decide.
        backbone: pretrained weights, where there are any; the size and the normalisation of `preprocessing` are theirs.
        reasons: why there are or are not, as "network", and for "image_fit".
    """
    device, device_reason = choose_device(config.device)
    values: dict[str, Any] = {"classes": classes, "image_size": preprocessing.image_size, "device": device}
    why = {"classes": "found in the data", "image_size": size_reason, "device": device_reason}
    values |= {"image_fit": preprocessing.fit, **_about_weights(backbone)}
    why |= dict.fromkeys(("weights", "weights_sha256", "arguments", "transfer"), _AS_WEIGHTS[backbone is not None])
    reasons = {"network": "", "image_fit": "as the images were decoded", **(reasons or {})}
    why["image_fit"] = reasons["image_fit"]
    values["precision"], why["precision"] = choose_precision(config.precision, device)
    speed = _network(config, backbone, len(classes), train, preprocessing, device, values["precision"], seconds)
    values["network"], why["network"] = speed.network, speed.reason
    values["flip"], why["flip"] = choose_flip(
        config.flip, config.augment, config.minority_augment not in {0.0, "auto"}, train, validation, classes
    )
    values["mirror"], why["mirror"] = _mirror(config.mirror, speed.network, flip=values["flip"])
    values["members"], why["members"] = _members(config, speed, len(train), device, seconds)
    counts = np.bincount(train.labels, minlength=len(classes))
    fit = _epochs_that_fit(seconds, speed.rate, len(train))
    epochs = min(fit / values["members"], config.epochs or math.inf)  # of each of the members
    if backbone is not None:
        values["transfer"], why["transfer"], epochs = _transfer(config, speed, counts, len(validation), seconds)
    values["optimizer"], why["optimizer"] = _optimizer(speed.network)
    values["stopping"], why["stopping"] = _stopping(config)
    rules = _rules(speed.network, counts, epochs, device, seconds)
    for name, (value, reason) in rules.items():
        asked = getattr(config, name)
        values[name], why[name] = (asked, "given") if asked != "auto" else (value, reason)
    for field in fields(Recipe):
        if field.name not in values:
            values[field.name] = getattr(config, field.name)
            why[field.name] = "given" if field.name in config.given else "the default"
    if backbone is not None:
        why["network"] = f"{reasons['network']}; {speed.rate:,.0f} images/s in training"
    elif config.network != "auto":
        why["network"] = "given"
    elif reasons["network"]:
        why["network"] = f"{reasons['network']}. From scratch: {speed.reason}"
    return Resolution(Recipe(**values), why, speed.seconds_per_image * values["members"], epochs)


def _epochs_that_fit(seconds: float | None, rate: float, images: int) -> float:
    return math.inf if seconds is None else seconds * rate / images


def _optimizer(network: str) -> tuple[str, str]:
    """Which optimizer trains a network, and why."""
    if usual_optimizer(network) == "muon":
        return "muon", "better than AdamW by 2.7 points, and than SGD by 7, in a trial on long-tailed CIFAR-10"
    return "adamw", "usual for fine-tuning" if network.startswith(TIMM) else "the tutorial's, with decoupled decay"


def _stopping(config: Config) -> tuple[str, str]:
    """What counts as progress, and why."""
    if config.stopping != "auto":
        return config.stopping, "given"
    if config.early_stopping != "auto":
        return "strict", "the patience is given"
    return "sure", "among many epochs, the best on few validation images is the best by chance too"


def _mirror(asked: str, network: str, *, flip: bool) -> tuple[str, str]:
    """Whether the trained network looks at mirror images too, and why."""
    if asked != "auto":
        return asked, "given"
    if network.startswith(TIMM) or not flip:
        return "off", "it takes twice the time" if flip else "nor does the training mirror images"
    return "if-better", "where the validation images show that it is better"


def _members(config: Config, speed: _Speed, images: int, device: str, seconds: float | None) -> tuple[int, str]:
    """How many networks answer together, and why."""
    if config.members != "auto":
        return config.members, "given"
    if speed.network not in FAMILY:
        return 1, "several are trained of the cnn family alone, unless asked for"
    if seconds is None or config.epochs is not None:
        return 1, "the number of epochs is given"
    if config.refit:
        return 1, "the network is to be trained again on more images"
    steps = speed.epochs * images / BATCHES[device]
    of_many = min(speed.epochs / EPOCHS_A_MEMBER, steps / STEPS_A_MEMBER)
    of_few = min(speed.epochs / EPOCHS_OF_FEW, steps / STEPS_OF_FEW)
    members = int(min(MOST_MEMBERS, max(1.0, of_many, of_few)))
    if members == 1:
        return 1, f"there is time for {speed.epochs:.0f} epochs, and one network makes the most of them"
    return members, f"there is time for {speed.epochs:.0f} epochs, of which one network would learn little more"


def _about_weights(backbone: Pretrained | None) -> dict[str, Any]:
    """The fields of a recipe that say which pretrained weights there are."""
    if backbone is None:
        return {"weights": "", "weights_sha256": "", "arguments": "{}", "transfer": "none"}
    arguments = json.dumps(backbone.arguments, sort_keys=True)
    return {"weights": backbone.source, "weights_sha256": backbone.sha256, "arguments": arguments}


def _transfer(
    config: Config, speed: _Speed, counts: NDArray[np.int64], unseen: int, seconds: float | None
) -> tuple[str, str, float]:
    """Whether to fine-tune, why, and how many epochs of it to expect."""
    images = int(counts.sum())
    epochs = float(config.epochs or math.inf)
    if seconds is not None:
        looking = (images + 3 * unseen) * speed.seconds_per_image
        epochs = min(epochs, max(0.0, seconds - looking) * speed.rate / images)
    if config.transfer == "probe":
        return "probe", "given", epochs
    if unseen < FEWEST_TO_JUDGE:
        return "probe", f"{unseen} validation images could not tell whether fine-tuning gains anything", epochs
    if epochs < FEWEST_EPOCHS_TUNED:
        return "probe", f"the time suffices for {epochs:.1f} epochs of fine-tuning, which is too little", epochs
    return "fine-tune", f"about {epochs:.0f} epochs; kept only where validation shows that it is better", epochs


def _rules(
    network: str, counts: NDArray[np.int64], epochs: float, device: str, seconds: float | None
) -> dict[str, tuple[Any, str]]:
    """What "auto" comes to for the fields that follow from a rule: value and reason."""
    if network.startswith(TIMM):
        return _rules_for_backbones(counts, epochs)
    factor, blog = counts.max() / counts.min(), network == "keras-blog"
    many = f"about {epochs:.0f} epochs fit" if seconds is not None else f"{epochs:.0f} epochs"
    patience = max(5, math.ceil(epochs / 2))  # the last half of a schedule, at low rates, is where most is gained
    mixed = 0.0 if blog else 0.3 if epochs < FEW_EPOCHS else 0.5
    remedy = "logit-adjust" if factor >= 1.5 else "none"
    return {
        "depth": (DEFAULT_DEPTH[network], f"{network} as published"),
        "imbalance": (remedy, f"the largest class has {factor:.3g} times the images of the smallest"),
        "minority_augment": (0.0, "the remedy for imbalance is the one above; this one is added when asked for"),
        "augment": ("light", "the best in short trials, in few epochs and in many, of few images and of many"),
        "l2": (
            1e-4 if blog else 1.0,
            "usual for such networks" if blog else "the best in short trials: it keeps the steps of the weights large",
        ),
        "dropout": (0.5 if blog else 0.0, "as in the tutorial" if blog else "mixing regularises more"),
        "label_smoothing": (0.0, "mixing already softens the targets" if mixed else "the tutorial has none"),
        "mixup": (mixed, "the tutorial has none" if blog else f"the best in short trials, where {many}"),
        "early_stopping": (patience, "half of the epochs, and at least 5"),
        "batch_size": (
            128 if blog else BATCHES[device],
            "twice the tutorial's" if blog else "as good as any in short trials, and fast on this device",
        ),
        "learning_rate": (
            1e-3 if blog else 2e-3,
            "Adam's default" if blog else "the best of a few in short trials on long-tailed CIFAR-10",
        ),
    }


def _rules_for_backbones(counts: NDArray[np.int64], epochs: float) -> dict[str, tuple[Any, str]]:
    """The same, for fine-tuning a pretrained backbone."""
    factor = counts.max() / counts.min()
    imbalanced = factor >= 1.5
    figures = f"the largest class has {factor:.3g} times the images of the smallest"
    usual = "usual for fine-tuning"
    patience = max(5, math.ceil(epochs / 2)) if math.isfinite(epochs) else 5
    return {
        "depth": (0, "as pretrained"),
        "imbalance": ("logit-adjust" if imbalanced else "none", figures),
        "minority_augment": (0.25 if imbalanced else 0.0, figures),
        "augment": ("medium", "pretrained features bear changes of place, size and colour"),
        "l2": (0.05, usual),
        "dropout": (0.2, usual),
        "label_smoothing": (0.0, "the probabilities are calibrated afterwards"),
        "mixup": (0.0, "in few epochs it costs more than it gains"),
        "early_stopping": (patience, "half of the epochs, and at least 5"),
        "batch_size": (BATCH_TUNED, usual),
        "learning_rate": (5e-4, f"{usual}; lower for each stage below the last layer"),
    }


@dataclass(frozen=True, slots=True)
class _Speed:
    """A network, why it, the epochs to expect of it, images a second in training, seconds an image in prediction."""

    network: str
    reason: str
    epochs: float
    rate: float
    seconds_per_image: float


def _network(
    config: Config,
    backbone: Pretrained | None,
    classes: int,
    train: LabelledPixels,
    preprocessing: Preprocessing,
    device: str,
    precision: str,
    seconds: float | None,
) -> _Speed:
    """The network, and how fast it is."""
    candidates = FAMILY if config.network == "auto" else (config.network,)
    if backbone is not None:
        candidates = (backbone.network,)
    chosen = _Speed(candidates[0], "", float(config.epochs or 0), 0.0, 0.0)
    for name in candidates:
        depth = DEFAULT_DEPTH.get(name, 0) if config.depth == "auto" else config.depth
        arguments = {} if backbone is None else backbone.arguments
        spec = NetworkSpec(name, classes, preprocessing.image_size, depth, config.width, 0.0, arguments)
        rate, prediction = measure_speed(spec, train, preprocessing, device, precision)
        epochs = min(_epochs_that_fit(seconds, rate, len(train)), config.epochs or math.inf)
        steps = epochs * len(train) / BATCHES[device]
        if name != candidates[0] and steps < (FEWEST_STEPS if epochs >= FEWEST_EPOCHS else MANY_STEPS):
            break
        reason = f"{rate:,.0f} images/s: about {epochs:.0f} epochs in the time there is"
        chosen = _Speed(name, reason, epochs, rate, prediction)
        if seconds is None:
            break  # no clock to fit into, and the same command must give the same network on every machine
    if seconds is None and config.network == "auto":
        reason = "the smallest of the family, since no budget was given to fit a larger one into"
        chosen = replace(chosen, reason=reason)
    return chosen
