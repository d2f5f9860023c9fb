"""What a person asks for is either understood or refused in one message that says all that is wrong."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from steadylens import models
from steadylens.config import AUGMENT, FROM_SCRATCH_ONLY, IMBALANCE, NETWORKS, Config, Recipe, parse, read_toml
from steadylens.data import augment
from steadylens.errors import ConfigError

NAMES = [field.name for field in fields(Config) if field.name != "given"]
Allowed = Callable[[Any], bool]


def number(low: float, high: float, *others: object) -> Allowed:
    return lambda v: v in others or (isinstance(v, float) and low <= v <= high and math.isfinite(v))


def whole(low: int, high: float, *others: object) -> Allowed:
    return lambda v: v in others or (type(v) is int and low <= v <= high)


def choice(*words: str) -> Allowed:
    return lambda v: isinstance(v, str) and v in words


ALLOWED: dict[str, Allowed] = {
    "budget": lambda v: v is None or (isinstance(v, float) and v > 0),
    "network": lambda v: v in ("auto", "keras-blog", "cnn-s", "cnn-m", "cnn-l", "cnn-xl") or v.startswith("timm:"),
    "weights": lambda v: v is None or isinstance(v, str),
    "sidecar": lambda v: v is None or isinstance(v, str),
    "transfer": choice("auto", "probe"),
    "depth": whole(1, 12, "auto"),
    "width": number(0.05, 16),
    "image_size": whole(8, 1024, "auto"),
    "image_fit": choice("auto", "squash", "pad"),
    "imbalance": choice(
        "auto", "none", "class-weights", "effective-number", "oversample", "logit-adjust", "focal", "ldam-drw"
    ),
    "minority_augment": number(0, 1, "auto"),
    "augment": choice("auto", "off", "light", "medium", "strong"),
    "flip": choice("auto", "on", "off"),
    "mirror": choice("auto", "on", "off"),
    "members": whole(1, 16, "auto"),
    "l1": number(0, math.inf),
    "l2": number(0, math.inf, "auto"),
    "dropout": number(0, 0.95, "auto"),
    "label_smoothing": number(0, 0.9, "auto"),
    "mixup": number(0, 1, "auto"),
    "early_stopping": whole(0, math.inf, "auto"),
    "stopping": choice("auto", "strict", "sure"),
    "epochs": whole(1, math.inf, None),
    "batch_size": whole(2, 65536, "auto"),
    "learning_rate": number(1e-8, 10, "auto"),
    "averaging": number(0, 0.99999),
    "precision": choice("auto", "fp32", "bf16"),
    "refit": lambda v: type(v) is bool,
    "selection": choice("auto", "off"),
    "seed": whole(0, 2**32 - 1),
    "device": choice("auto", "cpu", "cuda"),
    "log": lambda v: isinstance(v, tuple) and set(v) <= {"tensorboard", "mlflow"} and len(set(v)) == len(v),
}

numbers = st.one_of(st.integers(), st.integers(-2, 20), st.floats(allow_infinity=False), st.floats(-0.5, 2))
words = st.sampled_from(["auto", "off", "on", "none", "cnn-s", "light", "fp32", "cpu", "cuda", "", " ", "10m", "1.5h"])
values = st.one_of(
    numbers,
    numbers.map(str),
    words,
    st.text(max_size=12),
    st.none(),
    st.booleans(),
    st.binary(max_size=4),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.dates(),
    st.complex_numbers(),
)


def test_every_option_has_its_range_here() -> None:
    assert list(ALLOWED) == NAMES


@given(st.sampled_from(NAMES), values)
@settings(max_examples=600)
def test_a_value_is_in_its_documented_range_or_refused(name: str, value: object) -> None:
    refusal = ""
    try:
        parsed = getattr(parse({name: value}), name)
    except ConfigError as error:
        refusal = str(error)
    assert refusal.startswith(f"The {name} option must be") if refusal else ALLOWED[name](parsed)


@given(st.dictionaries(st.one_of(st.sampled_from(NAMES), st.text(max_size=10)), values, max_size=6))
@settings(max_examples=100)
def test_every_wrong_value_is_named_at_once(options: dict[str, Any]) -> None:
    wrong = set()
    for name, value in options.items():
        try:
            parse({name: value})
        except ConfigError as error:
            wrong.add(str(error))
    if wrong:
        with pytest.raises(ConfigError) as caught:
            parse(options)
        assert set(wrong) == {part for part in wrong if part in str(caught.value)}
        assert len(str(caught.value)) == sum(map(len, wrong)) + len(wrong) - 1
    else:
        assert isinstance(parse(options), Config)


@pytest.mark.parametrize("name", NAMES)
def test_the_default_of_every_option_is_accepted_as_it_is(name: str) -> None:
    default = getattr(Config(), name)
    assert getattr(parse({name: default}), name) == default
    assert parse({}) == Config()


@pytest.mark.parametrize(("given", "meant"), [(True, True), ("on", True), ("true", True), ("off", False)])
def test_whether_to_refit_is_said_by_a_flag_or_a_word(given: object, meant: bool) -> None:
    assert parse({"refit": given}).refit is meant


@pytest.mark.parametrize("given", ["mlflow,tensorboard", " mlflow , tensorboard,mlflow", ["mlflow", "tensorboard"]])
def test_loggers_are_named_in_a_list_or_with_commas(given: object) -> None:
    assert parse({"log": given}).log == ("mlflow", "tensorboard")


@pytest.mark.parametrize("given", ["tensorbord", "mlflow,tensorbord", ["mlflow", "tensorbord"]])
def test_an_unknown_logger_is_refused_with_the_one_that_was_meant(given: object) -> None:
    with pytest.raises(ConfigError, match=r"The log option .* \(did you mean tensorboard\?\)"):
        parse({"log": given})


BOUNDS = [
    ("depth", 1, 12, 0, 13),
    ("width", 0.05, 16, 0.04, 16.1),
    ("image_size", 8, 1024, 7, 1025),
    ("minority_augment", 0, 1, -0.01, 1.01),
    ("l1", 0, 1e9, -1e-9, math.nan),
    ("l2", 0, 1e9, -1e-9, math.nan),
    ("dropout", 0, 0.95, -0.1, 0.96),
    ("label_smoothing", 0, 0.9, -0.1, 0.91),
    ("mixup", 0, 1, -0.1, 1.1),
    ("early_stopping", 1, 10**6, 0, -1),
    ("epochs", 1, 10**6, 0, -1),
    ("batch_size", 2, 65536, 1, 65537),
    ("learning_rate", 1e-8, 10, 0, 10.1),
    ("averaging", 0, 0.99999, -0.1, 1),
    ("seed", 0, 2**32 - 1, -1, 2**32),
]


@pytest.mark.parametrize(("name", "low", "high", "below", "above"), BOUNDS)
@pytest.mark.parametrize("form", [lambda v: v, str], ids=["typed", "text"])
def test_both_ends_of_a_range_are_in_it_and_what_is_beyond_is_not(
    name: str, low: float, high: float, below: float, above: float, form: Callable[[float], object]
) -> None:
    assert getattr(parse({name: form(low)}), name) == low
    assert getattr(parse({name: form(high)}), name) == high
    for value in (below, above):
        with pytest.raises(ConfigError, match=f"The {name} option must be a (whole )?number of at least"):
            parse({name: form(value)})


@pytest.mark.parametrize("name", ["depth", "image_size", "early_stopping", "epochs", "batch_size", "seed"])
@pytest.mark.parametrize("value", [8.5, "8.5", 8.0, True])
def test_a_whole_number_is_not_a_float_nor_a_truth_value(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match="whole number"):
        parse({name: value})


@pytest.mark.parametrize("name", ["width", "l1", "dropout", "budget"])
@pytest.mark.parametrize("value", [True, False])
def test_a_truth_value_is_not_a_number(name: str, value: bool) -> None:
    with pytest.raises(ConfigError, match=name):
        parse({name: value})


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1.5h", 5400),
        ("1d", 86400),
        ("200", 200),
        (200, 200),
        (0.5, 0.5),
        (" 10 m ", 600),
        (None, None),
    ],
)
def test_a_budget_is_a_time(value: object, seconds: float | None) -> None:
    assert parse({"budget": value}).budget == seconds


@pytest.mark.parametrize(
    "value", ["", "0", "0s", "-5m", "10 minutes", "m", "1h30m", "auto", "1e3", 0, -1, [], math.nan]
)
def test_what_is_no_time_is_no_budget(value: object) -> None:
    with pytest.raises(ConfigError, match=r"a time such as 90s, 10m or 1\.5h"):
        parse({"budget": value})


def test_words_that_stand_for_numbers() -> None:
    assert parse({"minority_augment": "off"}).minority_augment == 0
    assert parse({"early_stopping": "off"}).early_stopping == 0
    assert parse({"early_stopping": "auto"}).early_stopping == "auto"
    with pytest.raises(ConfigError, match="or auto, or off"):
        parse({"early_stopping": "never"})
    with pytest.raises(ConfigError):
        parse({"l1": "auto"})


def test_all_errors_come_at_once_with_what_would_be_right() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"netwrok": "cnn-s", "network": "cnn-x", "seed": -1, "dropout": 0.5, "zzzz": 1, "flip": True})
    lines = str(caught.value).splitlines()
    assert lines == [
        "There is no option 'netwrok'. Did you mean 'network'?",
        "The network option must be one of auto, keras-blog, cnn-s, cnn-m, cnn-l, cnn-xl "
        "(did you mean cnn-xl?), "
        "or timm:NAME for a backbone of timm, such as timm:resnet50. Got 'cnn-x' instead.",
        "The seed option must be a whole number of at least 0 and at most 4.29497e+09. Got -1 instead.",
        "There is no option 'zzzz'.",
        "The flip option must be one of auto, on, off. Got True instead.",
    ]


@pytest.mark.parametrize(("typed", "meant"), [("image-size", "image_size"), ("droput", "dropout"), ("seeds", "seed")])
def test_a_name_near_an_option_is_recognised(typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"Did you mean '{meant}'"):
        parse({typed: 1})


@pytest.mark.parametrize(
    ("name", "typed", "meant"), [("imbalance", "oversampling", "oversample"), ("device", "cud", "cuda")]
)
def test_a_choice_near_a_known_one_is_recognised(name: str, typed: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean {meant}"):
        parse({name: typed})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("width", 10**400, id="width-huge"),
        pytest.param("l1", 10**400, id="l1-huge"),
        pytest.param("l1", math.inf),
        pytest.param("l2", "inf"),
        pytest.param("budget", "9" * 400, id="budget-huge"),
        ("dropout", math.inf),
        pytest.param("seed", 10**400, id="seed-huge"),
    ],
)
def test_what_no_training_can_use_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError):
        parse({name: value})


def test_choices_are_those_of_the_modules_that_know_them() -> None:
    assert tuple(models.NETWORKS) == NETWORKS
    assert tuple(models.DEFAULT_DEPTH) == NETWORKS
    assert tuple(augment.LEVELS) == AUGMENT
    assert set(FROM_SCRATCH_ONLY) < set(IMBALANCE)


def test_a_recipe_has_every_option_and_what_it_is_applied_to() -> None:
    found = {field.name for field in fields(Recipe)}
    # The arguments are in; nothing is trained by logs; which optimizer there is follows from the network; and whether
    # others were tried is no part of what was chosen.
    assert found == {*NAMES, "classes", "weights_sha256", "arguments", "optimizer"} - {"sidecar", "log", "selection"}


@pytest.mark.parametrize("name", ["timm:resnet50", "timm:vit_small_patch16_224.augreg_in21k_ft_in1k"])
def test_backbones_go_by_name(name: str) -> None:
    assert parse({"network": name}).network == name


@pytest.mark.parametrize(
    "name", ["timm:", "timm:hf-hub:a/b", "timm:local-dir:/x", "timm:../x", "resnet50", "timm:a.b.c"]
)
def test_what_is_no_name_of_a_backbone_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="or timm:NAME for a backbone"):
        parse({"network": name})


@pytest.mark.parametrize("value", ["", "  ", "a\0b", 3])
def test_weights_are_the_path_of_a_file(value: object) -> None:
    assert parse({"weights": Path("a.safetensors")}).weights == "a.safetensors"
    with pytest.raises(ConfigError, match="The weights option must be the path of a file"):
        parse({"weights": value})


def test_given_are_the_options_that_were_asked_for_whatever_their_values() -> None:
    assert Config().given == frozenset()
    assert parse({"seed": 0, "flip": "auto", "budget": "10m"}).given == {"seed", "flip", "budget"}


def test_a_toml_file_is_read_and_checked_like_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text('network = "cnn-m"\nbudget = "10m"\nepochs = 3\nl2 = 0.1\n', "utf-8")
    given = frozenset({"network", "budget", "epochs", "l2"})
    assert parse(read_toml(file)) == Config(network="cnn-m", budget=600, epochs=3, l2=0.1, given=given)


def test_a_table_or_a_date_in_a_toml_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text("seed = 2024-01-01\n[training]\nl2 = 0.1\n", "utf-8")
    assert read_toml(file)["seed"] == datetime.date(2024, 1, 1)
    with pytest.raises(ConfigError, match=r"(?s)The seed option.*no option 'training'"):
        parse(read_toml(file))


@pytest.mark.parametrize(
    "content",
    [
        b"network = ",
        b"seed = 1\nseed = 2",
        b"\xff\xfe",
        pytest.param(
            b"seed = " + b"1" * 5000,
        ),
    ],
    ids=["cut", "twice", "not-utf-8", "huge"],
)
def test_what_is_not_toml_is_refused_with_the_name_of_the_file(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "options.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"options\.toml could not be read"):
        read_toml(file)


def test_a_toml_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.toml", tmp_path):
        with pytest.raises(ConfigError, match=path.name):
            read_toml(path)
