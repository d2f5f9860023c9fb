"""What was asked for is obeyed, what was left open is resolved with a reason, and "auto" is never left over."""

from __future__ import annotations

import itertools
import math
import re
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from steadylens.config import Config, Recipe, parse
from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.errors import ResourceError
from steadylens.models import FAMILY
from steadylens.models.pretrained import from_file
from steadylens.training import resolution
from steadylens.training.resolution import (
    FEWEST_EPOCHS,
    FEWEST_STEPS,
    MOST_MEMBERS,
    Resolution,
    choose_device,
    choose_image_size,
    resolve,
)

MakeWeights = Callable[..., Path]
QUICK = {"precision": "fp32", "device": "cpu"}
CLASSES = ("bolt", "nut", "washer")


def part(pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> LabelledPixels:
    return LabelledPixels(pixels, np.arange(len(labels)), labels.astype(np.int64))


def coloured(counts: tuple[int, ...] = (40, 20, 10), seed: int = 0) -> LabelledPixels:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    pixels = rng.integers(0, 160, (len(labels), 12, 12, 3))
    pixels[np.arange(len(labels)), :, :, labels] += 60
    return part(pixels.astype(np.uint8), labels)


def digits(rows: slice) -> LabelledPixels:
    """Real handwritten digits, 8 by 8, most of which mean nothing mirrored."""
    data = load_digits()
    grey = (data.images[rows] * 15).astype(np.uint8)
    return part(np.repeat(grey[..., None], 3, axis=3), data.target[rows])


def symmetric(images: LabelledPixels) -> LabelledPixels:
    halves = images.pixels[:, :, :4]
    return part(np.concatenate([halves, halves[:, :, ::-1]], axis=2), images.labels)


def selected(
    options: dict[str, Any],
    *,
    seconds: float | None = None,
    train: LabelledPixels | None = None,
    validation: LabelledPixels | None = None,
) -> Resolution:
    train, validation = train or coloured(), validation or coloured((5, 5, 5), 1)
    side = train.pixels.shape[1]
    classes = tuple(str(c) for c in range(int(train.labels.max()) + 1))
    preprocessing = Preprocessing(side, (0.4,) * 3, (0.25,) * 3)
    return resolve(parse(options), classes, train, validation, preprocessing, "its reason", seconds=seconds)


@pytest.mark.parametrize(
    ("widths", "heights", "size"),
    [
        ([32] * 5, [32] * 5, 32),
        ([640] * 5, [480] * 5, 64),
        ([100] * 5, [40] * 5, 40),
        ([4] * 5, [4] * 5, 8),
        ([28, 28, 28, 1000, 2000], [28, 28, 28, 900, 1500], 28),
        ([64] * 3, [65] * 3, 64),
    ],
)
def test_the_image_size_is_the_images_own_between_8_and_64(widths: list[int], heights: list[int], size: int) -> None:
    got, why = choose_image_size(Config(), np.array(widths, np.int32), np.array(heights, np.int32))
    assert got == size
    assert str(int(np.median(np.minimum(widths, heights)))) in why
    assert ("64 px is enough" in why) == (np.median(np.minimum(widths, heights)) > 64)


def test_a_given_image_size_is_obeyed() -> None:
    sides = np.array([20, 30], np.int32)
    assert choose_image_size(parse({"image_size": 200}), sides, sides) == (200, "given")


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ResourceError, match="no CUDA device"):
        choose_device("cuda")
    assert choose_device("auto")[0] == "cpu"
    assert choose_device("cpu") == ("cpu", "given")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto")[0] == "cuda"
    assert choose_device("cuda") == ("cuda", "given")
    assert choose_device("cpu") == ("cpu", "given")


@pytest.mark.parametrize(
    ("options", "seconds"),
    [({"epochs": 3, **QUICK}, None), ({"budget": 60, **QUICK}, 50.0), ({"epochs": 3, "budget": 60}, 50.0)],
)
def test_no_auto_is_left_and_every_field_has_its_reason(options: dict[str, Any], seconds: float | None) -> None:
    result = selected(options, seconds=seconds)
    for field in fields(Recipe):
        value = getattr(result.recipe, field.name)
        assert value != "auto", field.name
        assert not (isinstance(value, float) and math.isnan(value)), field.name
        if field.name != "classes":  # these are the data's own
            assert result.why[field.name], field.name
    assert set(result.why) <= {field.name for field in fields(Recipe)}
    assert isinstance(result.recipe.flip, bool)
    assert type(result.recipe.early_stopping) is int
    assert result.seconds_per_image > 0
    assert result.recipe.image_size == 12
    assert result.why["image_size"] == "its reason"


GIVEN = {
    "network": "cnn-m",
    "depth": 2,
    "width": 0.5,
    "imbalance": "oversample",
    "minority_augment": 0.3,
    "augment": "strong",
    "flip": "on",
    "l1": 0.01,
    "l2": 0.2,
    "dropout": 0.4,
    "label_smoothing": 0.2,
    "mixup": 0.1,
    "early_stopping": 7,
    "stopping": "sure",
    "epochs": 4,
    "budget": 99.0,
    "batch_size": 33,
    "learning_rate": 0.5,
    "averaging": 0.5,
    "precision": "bf16",
    "refit": True,
    "seed": 5,
    "device": "cpu",
    "mirror": "on",
    "members": 2,
}


def test_what_is_given_is_obeyed_and_marked_so() -> None:
    result = selected(GIVEN, seconds=50.0)
    of_weights = {"weights", "weights_sha256", "arguments", "transfer"}
    decided_before = {"classes", "image_size", "image_fit", "optimizer"}
    assert {*GIVEN, *decided_before, *of_weights} == {field.name for field in fields(Recipe)}
    for name, value in GIVEN.items():
        assert getattr(result.recipe, name) == (True if name == "flip" else value), name
        assert result.why[name] == "given", name


@pytest.mark.parametrize(
    ("options", "rule"),
    [({}, "sure"), ({"early_stopping": 7}, "strict"), ({"early_stopping": "off"}, "strict")]
    + [({"early_stopping": 7, "stopping": rule}, rule) for rule in ("strict", "sure")],
)
def test_a_patience_that_is_given_is_taken_strictly(options: dict[str, Any], rule: str) -> None:
    assert selected({"epochs": 3, **QUICK, **options}).recipe.stopping == rule


def test_what_is_switched_off_is_given_too() -> None:
    options = {"early_stopping": "off", "augment": "off", "minority_augment": "off", "flip": "off", "imbalance": "none"}
    result = selected({**options, "epochs": 3, **QUICK})
    got = {name: getattr(result.recipe, name) for name in options}
    assert got == {"early_stopping": 0, "augment": "off", "minority_augment": 0, "flip": False, "imbalance": "none"}
    assert {result.why[name] for name in options} == {"given"}


def test_what_is_not_given_is_not_marked_so() -> None:
    result = selected({"epochs": 3, **QUICK})
    assert {name for name, why in result.why.items() if why == "given"} == {"epochs", "precision", "device"}


def test_a_remedy_is_chosen_where_classes_are_imbalanced() -> None:
    assert selected({"epochs": 3, **QUICK}).recipe.imbalance == "logit-adjust"
    balanced = selected({"epochs": 3, **QUICK}, train=coloured((20, 20, 20)))
    assert balanced.recipe.imbalance == "none"
    assert "1 times" in balanced.why["imbalance"]


@pytest.mark.parametrize("epochs", [5, 70, 500])
def test_augmentation_is_light_in_few_epochs_and_in_many(epochs: int) -> None:
    assert selected({"epochs": epochs, **QUICK}).recipe.augment == "light"


def test_the_tutorials_network_is_trained_as_in_the_tutorial() -> None:
    recipe = selected({"network": "keras-blog", "epochs": 3, **QUICK}).recipe
    assert (recipe.depth, recipe.dropout, recipe.mixup, recipe.learning_rate) == (3, 0.5, 0.0, 1e-3)


@pytest.mark.parametrize(("images", "keeps"), [("digits", False), ("symmetric", True)])
def test_flips_are_used_where_mirrored_images_are_still_recognised(images: str, keeps: bool) -> None:
    train, validation = digits(slice(0, 900)), digits(slice(900, 1300))
    if images == "symmetric":
        train, validation = symmetric(train), symmetric(validation)
    result = selected({"epochs": 3, "width": 0.1, **QUICK}, train=train, validation=validation)
    assert result.recipe.flip is keeps
    assert "mirrored" in result.why["flip"]
    assert "%" in result.why["flip"]


def signs(count: int, seed: int) -> LabelledPixels:
    """Bars across or down in noise, and ones that point to the left or to the right."""
    rng = np.random.default_rng(seed)
    pixels, labels = rng.integers(0, 90, (4 * count, 12, 12, 3)), np.arange(4 * count) % 4
    pixels[:, 5:7] += 100 * (labels != 1)[:, None, None, None]
    pixels[labels == 1, :, 5:7] += 100
    pixels[labels == 2, 2:10, :3] += 100
    pixels[labels == 3, 2:10, -3:] += 100
    return part(np.minimum(pixels, 255).astype(np.uint8), labels)


def test_nothing_is_mirrored_where_one_class_becomes_another() -> None:
    """Two classes of four are symmetric, so that half of the images are still recognised."""
    found = selected({"epochs": 3, "width": 0.1, **QUICK}, train=signs(80, 0), validation=signs(20, 1))
    assert found.recipe.flip is False
    assert "take mirrored images of 2 for 3" in found.why["flip"]


@pytest.mark.parametrize("seed", [0, 2, 4, 5])
def test_photographs_that_come_in_series_are_mirrored(seed: int) -> None:
    """Neighbours in the same series give nearly all away, and mirrored ones have none; only their colour tells."""
    rng = np.random.default_rng(seed)
    objects, kinds = rng.integers(0, 160, (60, 12, 12, 3)), np.arange(60) % 3
    objects[np.arange(60), :, :, kinds] += 15
    of = rng.integers(0, 60, 600)
    images = np.clip(objects[of] + rng.integers(0, 40, (600, 12, 12, 3)), 0, 255).astype(np.uint8)
    train, validation = part(images[:450], kinds[of[:450]]), part(images[450:], kinds[of[450:]])
    found = selected({"epochs": 3, "width": 0.1, **QUICK}, train=train, validation=validation)
    assert found.recipe.flip is True, found.why["flip"]
    plain, mirrored = map(int, re.findall(r"(\d+)%", found.why["flip"]))
    assert 0.5 * plain < mirrored < 0.75 * plain


def test_nothing_is_mirrored_where_nothing_is_recognised_anyway() -> None:
    found = selected({"epochs": 3, **QUICK}, train=digits(slice(0, 10)), validation=digits(slice(13, 14)))
    assert found.recipe.flip is False
    assert "no more than guessing" in found.why["flip"]


def test_without_augmentation_nothing_is_mirrored_unless_asked_for() -> None:
    options = {"epochs": 3, "augment": "off", **QUICK}
    assert selected(options).recipe.flip is False
    assert selected({**options, "flip": "on"}).recipe.flip is True
    assert "nearest neighbours" in selected({**options, "minority_augment": 0.5}).why["flip"]


def test_two_training_images_are_enough_to_resolve() -> None:
    """Three images of each of two classes leave one of each for training, validation and test."""
    assert selected({"epochs": 3, **QUICK}, train=coloured((1, 1)), validation=coloured((1, 1), 1)).recipe.epochs == 3


def test_a_larger_network_is_taken_where_the_time_allows_it() -> None:
    plenty = selected({"width": 0.1, **QUICK}, seconds=1e7)
    assert plenty.recipe.network == FAMILY[-1]
    assert "epochs in the time" in plenty.why["network"]
    scarce = selected({"width": 0.1, **QUICK}, seconds=1e-6)
    assert scarce.recipe.network == FAMILY[0]
    enough = math.ceil(FEWEST_STEPS * 64 / 70)  # epochs over the 70 images
    for epochs, network in ((FEWEST_EPOCHS - 1, FAMILY[0]), (enough - 1, FAMILY[0]), (enough, FAMILY[-1])):
        result = selected({"width": 0.1, "epochs": epochs, **QUICK}, seconds=1e7)
        assert result.recipe.network == network, "so few passes or steps do not pay for a larger one"


def test_a_larger_network_is_taken_where_few_passes_are_many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "MANY_STEPS", 60)
    for epochs, network in ((54, FAMILY[0]), (55, FAMILY[-1])):  # 59 and 60 steps over the 70 images
        found = selected({"width": 0.1, "epochs": epochs, **QUICK}, seconds=1e7)
        assert found.recipe.network == network


def fake_time(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """A wall clock on which each look takes `factor` times as long as the one before."""
    ticks = itertools.accumulate(factor**i for i in itertools.count())
    monkeypatch.setattr(time, "perf_counter", lambda: next(ticks))


@pytest.mark.parametrize(
    "precision",
    ["fp32", "bf16"],
)
def test_with_epochs_alone_the_recipe_does_not_depend_on_the_clock(
    precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = []
    for factor in (1.0, 0.8, 1.2):
        with monkeypatch.context() as patch:
            fake_time(patch, factor)
            recipes.append(selected({"epochs": 20, "precision": precision, "device": "cpu"}).recipe)
    assert recipes[0] == recipes[1] == recipes[2]


def test_the_seed_of_the_run_is_in_the_recipe_and_the_classes_in_order() -> None:
    recipe = selected({"epochs": 3, "seed": 11, **QUICK}).recipe
    assert recipe.seed == 11
    assert recipe.classes == ("0", "1", "2")


def adapted(
    make_weights: MakeWeights, options: dict[str, Any], *, seconds: float | None = None, unseen: int = 40
) -> Resolution:
    backbone = from_file(make_weights())
    preprocessing = Preprocessing(12, backbone.mean, backbone.std, "pad")
    train, validation = coloured((40, 20, 10)), coloured((unseen - 2, 1, 1), 1)
    return resolve(
        parse({**QUICK, **options}), CLASSES, train, validation, preprocessing, "its reason", seconds=seconds,
        backbone=backbone, reasons={"network": "because", "image_fit": "measured"},
    )  # fmt: skip


def test_a_backbone_is_fine_tuned_by_rules_of_its_own(make_weights: MakeWeights) -> None:
    result = adapted(make_weights, {"epochs": 3})
    recipe = result.recipe
    assert (recipe.network, recipe.transfer, recipe.depth, recipe.width) == (
        "timm:test_efficientnet",
        "fine-tune",
        0,
        1,
    )
    assert recipe.weights.endswith("backbone.safetensors")
    assert len(recipe.weights_sha256) == 64
    assert (recipe.arguments, recipe.image_fit) == ("{}", "pad")
    assert (recipe.imbalance, recipe.minority_augment) == ("logit-adjust", 0.25)
    assert "because; " in result.why["network"]
    assert result.why["image_fit"] == "measured"
    assert {field.name for field in fields(Recipe)} <= set(result.why)


def test_what_is_given_is_obeyed_for_a_backbone_too(make_weights: MakeWeights) -> None:
    given = {name: value for name, value in GIVEN.items() if name not in ("network", "depth", "width")}
    result = adapted(make_weights, given, seconds=50.0)
    for name, value in given.items():
        assert getattr(result.recipe, name) == (True if name == "flip" else value), name
        assert result.why[name] == "given", name


@pytest.mark.parametrize(
    ("options", "others", "reason"),
    [
        ({"epochs": 3, "transfer": "probe"}, {}, "given"),
        ({"epochs": 3}, {"unseen": 10}, "10 validation images could not tell"),
        ({}, {"seconds": 1e-3}, "the time suffices for 0.0 epochs"),
    ],
)
def test_the_probe_is_enough_where_fine_tuning_is_not_worth_it(
    make_weights: MakeWeights, options: dict[str, Any], others: dict[str, Any], reason: str
) -> None:
    result = adapted(make_weights, options, **others)
    assert result.recipe.transfer == "probe"
    assert reason in result.why["transfer"]


def test_why_there_is_no_backbone_is_said() -> None:
    train, validation = coloured(), coloured((5, 5, 5), 1)
    preprocessing, reasons = Preprocessing(12, (0.4,) * 3, (0.25,) * 3), {"network": "none was at hand"}
    config = parse({"epochs": 3, **QUICK})
    result = resolve(config, CLASSES, train, validation, preprocessing, "", seconds=None, reasons=reasons)
    assert result.why["network"].startswith("none was at hand. From scratch: the smallest of the family")
    assert result.recipe.transfer == "none"


@pytest.mark.parametrize(("network", "optimizer"), [("cnn-s", "muon"), ("cnn-xl", "muon"), ("keras-blog", "adamw")])
def test_each_kind_of_network_has_its_optimizer(network: str, optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "measure_speed", lambda *_: (100.0, 0.002))  # of cnn-xl it takes seconds
    found = selected({**QUICK, "network": network, "epochs": 1})
    assert found.recipe.optimizer == optimizer
    assert found.why["optimizer"]


@pytest.mark.parametrize(
    ("asked", "mirror"),
    [
        ({"flip": "on"}, "if-better"),
        ({"flip": "off"}, "off"),
        ({"flip": "off", "mirror": "on"}, "on"),
        ({"flip": "on", "mirror": "off"}, "off"),
    ],
)
def test_mirror_images_are_tried_where_the_training_has_seen_them_or_it_is_asked_for(
    asked: dict[str, str], mirror: str
) -> None:
    found = selected({**QUICK, "network": "cnn-s", "epochs": 1, **asked})
    assert found.recipe.mirror == mirror
    assert found.why["mirror"] == ("given" if "mirror" in asked else found.why["mirror"])
    assert found.why["mirror"]


@pytest.mark.parametrize(
    ("network", "epochs", "mixup"),
    [("cnn-s", 5, 0.3), ("cnn-s", 40, 0.5), ("cnn-s", 500, 0.5), ("keras-blog", 40, 0.0)],
)
def test_more_is_mixed_in_long_trainings(network: str, epochs: int, mixup: float) -> None:
    assert selected({**QUICK, "network": network, "epochs": epochs}).recipe.mixup == mixup


@pytest.mark.parametrize(
    ("epochs", "options", "members"),
    [
        (20, {}, 1),
        (59, {}, 1),
        (65, {}, 2),
        (2000, {}, MOST_MEMBERS),
        (2000, {"refit": True}, 1),
        (2000, {"epochs": 500}, 1),
        (2000, {"network": "keras-blog"}, 1),
        (2000, {"members": 7}, 7),
        (20, {"members": 2}, 2),
    ],
)
def test_several_networks_are_trained_where_one_would_learn_little_more(
    monkeypatch: pytest.MonkeyPatch, epochs: int, options: dict[str, Any], members: int
) -> None:
    rate, images = 100.0, 70
    monkeypatch.setattr(resolution, "STEPS_A_MEMBER", 1)
    monkeypatch.setattr(resolution, "measure_speed", lambda *_: (rate, 0.002))
    found = selected({**QUICK, "network": "cnn-s", **options}, seconds=epochs * images / rate)
    assert found.recipe.members == members
    assert found.epochs == pytest.approx(min(epochs, options.get("epochs", epochs)) / members)
    assert found.seconds_per_image == pytest.approx(0.002 * members)
    assert found.why["members"]
    if found.recipe.network == "cnn-s":
        assert found.recipe.mixup == (0.3 if found.epochs < 20 else 0.5), "the epochs of one decide, not those of all"


def test_epochs_that_are_given_are_those_of_each_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolution, "measure_speed", lambda *_: (100.0, 0.002))
    for seconds, each in ((None, 40.0), (4 * 70 * 40 / 100.0, 40.0), (4 * 70 * 10 / 100.0, 10.0)):
        found = selected({**QUICK, "network": "cnn-s", "epochs": 40, "members": 4}, seconds=seconds)
        assert found.epochs == pytest.approx(each)
        assert found.recipe.early_stopping == each / 2
    assert "10 epochs" in found.why["mixup"] or "about 10" in found.why["mixup"]


@pytest.mark.parametrize(
    ("each", "epochs", "members"),
    [
        pytest.param((28, 21, 21), 500, 1, id="547 steps"),
        pytest.param((28, 21, 21), 1800, 1, id="1,969 steps"),
        pytest.param((28, 21, 21), 1900, 2, id="2,078 steps"),
        pytest.param((280, 210, 210), 290, 1, id="3,172 steps, 290 epochs"),
        pytest.param((280, 210, 210), 310, 2, id="3,391 steps, 310 epochs"),
        pytest.param((280, 210, 210), 460, 3, id="5,031 steps, 460 epochs"),
        pytest.param((800, 600, 600), 120, 1, id="3,750 steps, 120 epochs"),
        pytest.param((800, 600, 600), 130, 2, id="4,063 steps, 130 epochs"),
    ],
)
def test_no_network_of_several_has_made_too_few_steps(
    each: tuple[int, int, int], epochs: int, members: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resolution, "measure_speed", lambda *_: (100.0, 0.002))
    found = selected({**QUICK, "network": "cnn-s"}, seconds=epochs * sum(each) / 100.0, train=coloured(each))
    assert found.recipe.members == members
