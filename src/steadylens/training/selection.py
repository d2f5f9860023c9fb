"""From what was asked for to what will be done: every "auto" resolved by a measurement or a rule, with its reason."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.neighbors import KNeighborsClassifier

from steadylens.config import Config, Recipe
from steadylens.data.batches import LabelledPixels, to_input
from steadylens.data.images import Preprocessing
from steadylens.errors import ResourceError
from steadylens.metrics import balanced_accuracy
from steadylens.models import DEFAULT_DEPTH, NetworkSpec, build

FAMILY = ("cnn-s", "cnn-m", "cnn-l")
# A larger network is taken only where the budget allows it so many passes and so many steps: below, the smaller one had
# the better validation figures in short trials on long-tailed CIFAR-10.
FEWEST_EPOCHS = 16
FEWEST_STEPS = 2500
DEFAULT_BUDGET_S = 600.0
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Selection:
    """The recipe, and for each of its fields why it is as it is.

    Attributes:
        recipe: what will be done.
        why: a sentence for each field of the recipe.
        seconds_per_image: of prediction in float32 with the chosen network.
    """

    recipe: Recipe
    why: dict[str, str]
    seconds_per_image: float


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


def select(
    config: Config,
    classes: tuple[str, ...],
    train: LabelledPixels,
    validation: LabelledPixels,
    preprocessing: Preprocessing,
    size_reason: str,
    *,
    seconds: float | None,
) -> Selection:
    """Resolve a Config for some images.

    Args:
        config: what was asked for.
        classes: in the order of the labels.
        train: images to learn from.
        validation: images to check label-preserving flips on.
        preprocessing: whose size is that of the recipe.
        size_reason: why that size.
        seconds: left of the budget for training; None where epochs alone decide.
    """
    device, device_reason = choose_device(config.device)
    values: dict[str, Any] = {"classes": classes, "image_size": preprocessing.image_size, "device": device}
    why = {"classes": "found in the data", "image_size": size_reason, "device": device_reason}
    values["precision"], why["precision"] = choose_precision(config.precision, device)
    values["network"], why["network"], epochs, per_image = _network(
        config, len(classes), train, preprocessing, device, values["precision"], seconds
    )
    values["flip"], why["flip"] = _flip(
        config.flip, config.augment, config.minority_augment not in {0.0, "auto"}, train, validation
    )
    rules = _rules(values["network"], np.bincount(train.labels, minlength=len(classes)), epochs, seconds)
    for name, (value, reason) in rules.items():
        asked = getattr(config, name)
        values[name], why[name] = (asked, "given") if asked != "auto" else (value, reason)
    for field in fields(Recipe):
        if field.name not in values:
            values[field.name] = getattr(config, field.name)
            why[field.name] = "given" if field.name in config.given else "the default"
    if config.network != "auto":
        why["network"] = "given"
    return Selection(Recipe(**values), why, per_image)


def _rules(network: str, counts: NDArray[np.int64], epochs: float, seconds: float | None) -> dict[str, tuple[Any, str]]:
    """What "auto" comes to for the fields that follow from a rule: value and reason."""
    factor = counts.max() / counts.min()
    blog = network == "keras-blog"
    many = f"about {epochs:.0f} epochs fit" if seconds is not None else f"{epochs:.0f} epochs"
    level = "light" if epochs < 30 else "medium" if epochs < 100 else "strong"
    patience = max(5, math.ceil(epochs / 2))  # the last half of a schedule, at low rates, is where most is gained
    mixed = 0.0 if blog else 0.7
    remedy = "logit-adjust" if factor >= 1.5 else "none"
    return {
        "depth": (DEFAULT_DEPTH[network], f"{network} as published"),
        "imbalance": (remedy, f"the largest class has {factor:.3g} times the images of the smallest"),
        "minority_augment": (0.0, "the remedy for imbalance is the one above; this one is added when asked for"),
        "augment": (level, many),
        "l2": (1e-4 if blog else 0.05, "usual for such networks"),
        "dropout": (0.5 if blog else 0.0, "as in the tutorial" if blog else "mixing regularises more"),
        "label_smoothing": (0.0, "mixing already softens the targets" if mixed else "the tutorial has none"),
        "mixup": (mixed, "the tutorial has none" if blog else "it gained most in short trials on long-tailed CIFAR-10"),
        "early_stopping": (patience, "half of the epochs, and at least 5"),
        "batch_size": (
            128 if blog else _BATCH,
            "twice the tutorial's" if blog else "the best of 64, 128 and 256 in short trials",
        ),
        "learning_rate": (
            1e-3 if blog else 2e-3,
            "Adam's default" if blog else "the best of a few in short trials on long-tailed CIFAR-10",
        ),
    }


def _network(
    config: Config,
    classes: int,
    train: LabelledPixels,
    preprocessing: Preprocessing,
    device: str,
    precision: str,
    seconds: float | None,
) -> tuple[str, str, float, float]:
    """The network, why, the epochs to expect of it, and its seconds an image in prediction."""
    candidates = FAMILY if config.network == "auto" else (config.network,)
    chosen, reason, expected, per_image = candidates[0], "", float(config.epochs or 0), 0.0
    for name in candidates:
        depth = DEFAULT_DEPTH[name] if config.depth == "auto" else config.depth
        spec = NetworkSpec(name, classes, preprocessing.image_size, depth, config.width, 0.0)
        rate, prediction = measure_speed(spec, train, preprocessing, device, precision)
        epochs = math.inf if seconds is None else seconds * rate / len(train)
        epochs = min(epochs, config.epochs or math.inf)
        steps = epochs * len(train) / _BATCH
        if name != candidates[0] and (epochs < FEWEST_EPOCHS or steps < FEWEST_STEPS):
            break
        chosen, expected, per_image = name, epochs, prediction
        reason = f"{rate:,.0f} images/s: about {epochs:.0f} epochs in the time there is"
        if seconds is None:
            break  # no clock to fit into, and the same command must give the same network on every machine
    if seconds is None and config.network == "auto":
        reason = "the smallest of the family, since no budget was given to fit a larger one into"
    return chosen, reason, expected, per_image


def measure_speed(
    spec: NetworkSpec, train: LabelledPixels, preprocessing: Preprocessing, device: str, precision: str
) -> tuple[float, float]:
    """Time a few steps: training images a second, and seconds an image in float32 prediction."""
    torch.manual_seed(0)
    network = build(spec).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    pixels, labels = train.take(np.arange(min(64, len(train))))
    images = to_input(pixels, preprocessing.mean, preprocessing.std).to(device)
    targets = torch.from_numpy(labels).to(device)

    def step() -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16"):
            logits = network(images)
        torch.nn.functional.cross_entropy(logits.float(), targets).backward()  # type: ignore[no-untyped-call]

    def predict() -> None:
        with torch.inference_mode():
            network.eval()(images)

    return len(images) / _time(step, device), _time(predict, device) / len(images)


def _time(
    call: Callable[[], object], device: str, most: int = 3, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds of one call, the first left out: the fastest of at most so many, of fewer where they are slow."""
    best = math.inf
    call()
    for _ in range(most):
        begin = clock()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, clock() - begin)
        if best > 0.5:
            break
    return best


def choose_precision(asked: str, device: str) -> tuple[str, str]:
    """fp32 or bf16, by timing one convolution of fixed shape in both, forward and backward.

    On a processor, time is counted of one thread while it runs, so that other programs do not change the answer.
    """
    if asked != "auto":
        return asked, "given"
    convolution = torch.nn.Conv2d(64, 64, 3, padding=1, device=device).to(memory_format=torch.channels_last)
    images = torch.ones(64, 64, 16, 16, device=device).to(memory_format=torch.channels_last)

    def step(enabled: bool) -> None:
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=enabled):
            convolution(images).sum().backward()

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    clock = time.process_time if device == "cpu" else time.perf_counter
    full, half = (_time(partial(step, enabled), device, 10, clock) for enabled in (False, True))
    torch.set_num_threads(threads)
    # 1.2 and not 1: the casts around each layer cost something, and a close race must not flip between two runs.
    chosen = "bf16" if half * 1.2 < full else "fp32"
    return chosen, f"a convolution takes {half / full:.2f} times as long in bf16 as in fp32"


def _flip(
    asked: str, augment: str, minority: bool, train: LabelledPixels, validation: LabelledPixels
) -> tuple[bool, str]:
    """Whether mirroring keeps the label: whether nearest neighbours still recognise mirrored validation images."""
    if asked != "auto":
        return asked == "on", "given"
    if augment == "off" and not minority:
        return False, "augmentation is off"
    known, queries = train.sample(2000, 0), validation.sample(500, 0)
    neighbours = KNeighborsClassifier(min(3, len(known))).fit(_thumbnails(known), known.labels)
    classes = int(max(train.labels.max(), validation.labels.max())) + 1
    plain = balanced_accuracy(queries.labels, neighbours.predict(_thumbnails(queries)), classes)
    mirrored = balanced_accuracy(queries.labels, neighbours.predict(_thumbnails(queries, mirrored=True)), classes)
    # Losing a quarter of what is recognised is far beyond the noise, and far less than digits or letters lose.
    keeps = mirrored >= 0.75 * plain
    figures = f"nearest neighbours recognise {plain:.0%} of validation images and {mirrored:.0%} of them mirrored"
    return keeps, figures


def _thumbnails(images: LabelledPixels, *, mirrored: bool = False) -> NDArray[np.float32]:
    """Means over a grid of at most 16 by 16 cells, flattened: (n, cells * cells * 3)."""
    pieces = (piece[:, :, ::-1] if mirrored else piece for piece in images.pieces())
    return np.concatenate([_cell_means(piece) for piece in pieces])


def _cell_means(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    side = pixels.shape[1]
    cells = min(16, side)
    cut = side // cells * cells
    grid = pixels[:, :cut, :cut].reshape(len(pixels), cells, cut // cells, cells, cut // cells, 3)
    means: NDArray[np.float32] = grid.mean((2, 4), dtype=np.float32).reshape(len(pixels), -1)
    return means
