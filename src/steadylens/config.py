"""What a person asks for (`Config`, which may say "auto") and what is done (`Recipe`, which never does)."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from steadylens.errors import ConfigError

Auto = Literal["auto"]

NETWORKS = ("keras-blog", "cnn-s", "cnn-m", "cnn-l", "cnn-xl")
IMBALANCE = ("none", "class-weights", "effective-number", "oversample", "logit-adjust", "focal", "ldam-drw")
FROM_SCRATCH_ONLY = ("focal", "ldam-drw")  # remedies that a pretrained backbone cannot have, see `training.backbones`
AUGMENT = ("off", "light", "medium", "strong")
IMAGE_FIT = ("squash", "pad")
LOGGERS = ("tensorboard", "mlflow")
TIMM = "timm:"  # how the name of a backbone from timm begins


@dataclass(frozen=True, slots=True)
class Config:
    """What was asked for. Every field may be given on the command line, in a TOML file or in Python.

    Attributes:
        budget: seconds of wall time for the whole command; None where `epochs` alone decides.
        network: name of a network, "timm:NAME" for a pretrained backbone, or "auto".
        weights: a safetensors file with the weights of a pretrained backbone; None where there is none.
        sidecar: the JSON file that says how those weights want their images; None is the one beside them.
        transfer: what is done with a pretrained backbone: "probe" trains its last layer only, "auto" all of it where
            there is time.
        depth: convolutions (see `models.NetworkSpec`), or "auto".
        width: factor for the neurons of every hidden layer.
        image_size: side of the square to which every image is resized, in pixels, or "auto".
        image_fit: how an image becomes square: "squash", "pad" or "auto".
        imbalance: remedy for class imbalance, or "auto".
        minority_augment: 0 (off) to 1: how far rare classes are drawn more often and augmented more strongly.
        augment: level of augmentation, or "auto".
        flip: whether images are mirrored in training, or "auto".
        mirror: whether the trained network answers with the mean over an image and its mirror image, or "auto".
        l1: coefficient of the L1 penalty.
        l2: coefficient of the decoupled L2 penalty (weight decay), or "auto".
        dropout: probability before the last layer, or "auto".
        label_smoothing: share of each target spread over all classes, or "auto".
        mixup: share of batches that mixup or CutMix mixes, or "auto".
        early_stopping: epochs without progress after which to stop, "off" or "auto".
        stopping: "strict" or "sure", which takes no difference within chance for progress (see
            `training.early_stopping`), or "auto".
        epochs: passes over the training images; None where the budget alone decides.
        batch_size: images a step, or "auto".
        learning_rate: peak of the schedule, or "auto".
        averaging: decay of the weight average in [0, 1), 0 is off.
        precision: arithmetic of the training, or "auto".
        refit: whether the recipe is trained again on train and validation together, for the weights to keep.
        selection: "auto" tries recipes beside that of the rules where there is time, "off" does not; it chooses the
            recipe, and is no part of it.
        seed: of everything random.
        device: "cpu", "cuda" or "auto".
        log: names of the loggers that get the figures too; they do not determine the training.
        given: names of the options that were asked for, whatever their values.
    """

    budget: float | None = None
    network: str = "auto"
    weights: str | None = None
    sidecar: str | None = None
    transfer: str = "auto"
    depth: int | Auto = "auto"
    width: float = 1.0
    image_size: int | Auto = "auto"
    image_fit: str = "auto"
    imbalance: str = "auto"
    minority_augment: float | Auto = "auto"
    augment: str = "auto"
    flip: str = "auto"
    mirror: str = "auto"
    members: int | Auto = "auto"
    l1: float = 0.0
    l2: float | Auto = "auto"
    dropout: float | Auto = "auto"
    label_smoothing: float | Auto = "auto"
    mixup: float | Auto = "auto"
    early_stopping: int | Auto = "auto"
    stopping: str = "auto"
    epochs: int | None = None
    batch_size: int | Auto = "auto"
    learning_rate: float | Auto = "auto"
    averaging: float = 0.995
    precision: str = "auto"
    refit: bool = False
    selection: str = "auto"
    seed: int = 0
    device: str = "auto"
    log: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that determines a training; a `Config` with every "auto" resolved, and what it is applied to.

    `weights` says where pretrained weights came from and is "" where there are none, `weights_sha256` is of their
    file, and `arguments`, in JSON, is what their network is built with. `transfer` is "none" without them. A backbone
    has the depth and the width that it was pretrained with: they are 0 and 1. `optimizer` is "adamw", or "muon",
    which is Muon with AdamW beside it. `mirror` is "on", "off" or "if-better", which leaves it to validation.
    `members` is how many networks are trained to answer together. `stopping` is "strict" or "sure".
    """

    classes: tuple[str, ...]
    network: str
    depth: int
    width: float
    image_size: int
    imbalance: str
    minority_augment: float
    augment: str
    flip: bool
    l1: float
    l2: float
    dropout: float
    label_smoothing: float
    mixup: float
    early_stopping: int
    epochs: int | None
    budget: float | None
    batch_size: int
    learning_rate: float
    averaging: float
    precision: str
    seed: int
    device: str
    weights: str = ""
    weights_sha256: str = ""
    arguments: str = "{}"
    transfer: str = "none"
    image_fit: str = "squash"
    optimizer: str = "adamw"
    mirror: str = "off"
    members: int = 1
    refit: bool = False
    stopping: str = "strict"


def parse(values: Mapping[str, Any]) -> Config:
    """Check values by name, as text or as the right type already, and make a Config of them.

    Raises:
        ConfigError: names every wrong one at once, with what it must be, and the nearest known name.
    """
    checked: dict[str, Any] = {}
    wrong: list[str] = []
    for name, value in values.items():
        if name not in _RULES:
            near = difflib.get_close_matches(name, _RULES, 1)
            wrong.append(f"There is no option '{name}'." + (f" Did you mean '{near[0]}'?" if near else ""))
            continue
        try:
            checked[name] = _RULES[name](value)
        except ValueError as error:
            wrong.append(f"The {name} option must be {error}. Got {_shown(value)} instead.")
    if wrong:
        raise ConfigError("\n".join(wrong))
    return Config(**checked, given=frozenset(checked))


def read_toml(path: Path) -> dict[str, Any]:
    """The options in a TOML file: one `name = value` a line, no tables.

    Raises:
        ConfigError: the file is not there or not TOML.
    """
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The configuration file {path} could not be read: {error}.") from error


def _seconds(value: Any) -> float | None:  # noqa: ANN401 - text or a number, checked here
    if value is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd]?)", _shown(value).strip("' "))
    seconds = float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]] if match else 0.0
    if not 0 < seconds <= _LONGEST_BUDGET_S:
        raise ValueError("a time such as 90s, 10m or 1.5h, of at most a year")
    return seconds


def _number(
    low: float, high: float, *, whole: bool = False, words: Mapping[str, Any] | None = None
) -> Callable[[Any], Any]:
    words = words or {}

    def rule(value: Any) -> Any:  # noqa: ANN401 - text or a number, checked here
        if isinstance(value, str) and value in words:
            return words[value]
        try:
            number = int(str(value)) if whole else float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if isinstance(value, bool) or not low <= number <= high or number == math.inf:
            top = f" and at most {high:g}" if math.isfinite(high) else ""
            named = "".join(f", or {word}" for word in words)
            raise ValueError(f"a {'whole ' if whole else ''}number of at least {low:g}{top}{named}")
        return number

    return rule


def _optional(rule: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else rule(value)


def _one_of(*choices: str) -> Callable[[Any], str]:
    def rule(value: Any) -> str:  # noqa: ANN401 - checked here
        if not isinstance(value, str) or value not in choices:
            near = difflib.get_close_matches(_shown(value), choices, 1)
            raise ValueError(f"one of {', '.join(choices)}" + (f" (did you mean {near[0]}?)" if near else ""))
        return str(value)

    return rule


def _some_of(*choices: str) -> Callable[[Any], tuple[str, ...]]:
    """A list, or a text with commas between; each of them counts once."""
    one = _one_of(*choices)

    def rule(value: Any) -> tuple[str, ...]:  # noqa: ANN401 - checked here
        given = value.split(",") if isinstance(value, str) else value
        if not isinstance(given, list | tuple):
            raise ValueError(f"{' or '.join(choices)}, or both with a comma between")
        return tuple(dict.fromkeys(one(name.strip() if isinstance(name, str) else name) for name in given))

    return rule


def _network(value: Any) -> str:  # noqa: ANN401 - checked here
    if isinstance(value, str) and re.fullmatch(rf"{TIMM}[a-z0-9_]+(\.[a-z0-9_]+)?", value):
        return value  # whether timm has it is asked where timm is imported
    try:
        return _one_of("auto", *NETWORKS)(value)
    except ValueError as error:
        raise ValueError(f"{error}, or {TIMM}NAME for a backbone of timm, such as {TIMM}resnet50") from error


def _flag(value: Any) -> bool:  # noqa: ANN401 - checked here
    """Yes or no, in Python, TOML or words."""
    words = {True: True, False: False, "on": True, "off": False, "true": True, "false": False}
    if not isinstance(value, bool | str) or value not in words:
        raise ValueError("on or off")
    return words[value]


def _path(value: Any) -> str:  # noqa: ANN401 - checked here
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError("the path of a file")
    return str(value)


def _shown(value: object) -> str:
    """A value in an error message: short, whatever it is."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of more digits than Python prints
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else text[:97] + "..."


_LONGEST_BUDGET_S = 366 * 86400
_AUTO = {"auto": "auto"}
_INFINITE = math.inf
_RULES: dict[str, Callable[[Any], Any]] = {
    "budget": _seconds,
    "network": _network,
    "weights": _optional(_path),
    "sidecar": _optional(_path),
    "transfer": _one_of("auto", "probe"),
    "depth": _number(1, 12, whole=True, words=_AUTO),
    "width": _number(0.05, 16),
    "image_size": _number(8, 1024, whole=True, words=_AUTO),
    "image_fit": _one_of("auto", *IMAGE_FIT),
    "imbalance": _one_of("auto", *IMBALANCE),
    "minority_augment": _number(0, 1, words={"auto": "auto", "off": 0.0}),
    "augment": _one_of("auto", *AUGMENT),
    "flip": _one_of("auto", "on", "off"),
    "mirror": _one_of("auto", "on", "off"),
    "members": _number(1, 16, whole=True, words=_AUTO),
    "l1": _number(0, _INFINITE),
    "l2": _number(0, _INFINITE, words=_AUTO),
    "dropout": _number(0, 0.95, words=_AUTO),
    "label_smoothing": _number(0, 0.9, words=_AUTO),
    "mixup": _number(0, 1, words=_AUTO),
    "early_stopping": _number(1, _INFINITE, whole=True, words={"auto": "auto", "off": 0}),
    "stopping": _one_of("auto", "strict", "sure"),
    "epochs": _optional(_number(1, _INFINITE, whole=True)),
    "batch_size": _number(2, 65536, whole=True, words=_AUTO),
    "learning_rate": _number(1e-8, 10, words=_AUTO),
    "averaging": _number(0, 0.99999),
    "precision": _one_of("auto", "fp32", "bf16"),
    "refit": _flag,
    "selection": _one_of("auto", "off"),
    "seed": _number(0, 2**32 - 1, whole=True),
    "device": _one_of("auto", "cpu", "cuda"),
    "log": _some_of(*LOGGERS),
}
