"""Every strategy is one change to plain training, and what is asked for is checked before anything is trained."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest

from steadylens.config import IMBALANCE, Config, parse
from steadylens.errors import ConfigError
from steadylens.training.strategies import NETWORK, NOTHING, STRATEGIES, choose_strategies, config_of

SHARED = parse({"network": NETWORK, "epochs": 3, "seed": 7})
NAMES = [one.name for one in STRATEGIES]


def test_names_are_unique_and_plain_comes_first() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert NAMES[0] == "plain"
    assert STRATEGIES[0].fields == {}


def test_every_strategy_makes_another_config_of_options_that_are_checked() -> None:
    configs = [config_of(one, SHARED) for one in STRATEGIES]
    assert len(set(map(repr, configs))) == len(configs)
    for strategy in STRATEGIES:
        assert parse(dict(strategy.fields)).given == set(strategy.fields)
    for config in configs:
        assert (config.epochs, config.seed) == (3, 7)


def test_every_remedy_for_imbalance_is_compared() -> None:
    assert {one.fields.get("imbalance", "none") for one in STRATEGIES} == set(IMBALANCE)


def test_each_changes_what_it_says_and_nothing_else() -> None:
    plain = config_of(STRATEGIES[0], SHARED)
    assert {name: getattr(plain, name) for name in NOTHING} == dict(NOTHING)
    for strategy in STRATEGIES[:-1]:
        config = config_of(strategy, SHARED)
        changed = {f.name for f in fields(Config) if getattr(config, f.name) != getattr(plain, f.name)}
        assert changed == set(strategy.fields)


def test_auto_is_what_train_does_by_itself() -> None:
    config = config_of(STRATEGIES[-1], SHARED)
    assert replace(config, given=frozenset()) == replace(parse({"epochs": 3, "seed": 7}), given=frozenset())


def test_all_are_chosen_but_what_is_plain_already() -> None:
    assert [one.name for one in choose_strategies(None, NETWORK)] == NAMES
    assert [one.name for one in choose_strategies(None, "cnn-m")] == [n for n in NAMES if n != "capacity-m"]


def test_plain_is_always_among_those_chosen_and_the_order_is_kept() -> None:
    assert [one.name for one in choose_strategies(["l2", "focal"], NETWORK)] == ["plain", "focal", "l2"]
    assert [one.name for one in choose_strategies(["plain"], NETWORK)] == ["plain"]
    assert [one.name for one in choose_strategies([], NETWORK)] == ["plain"]


def test_what_is_not_known_is_refused_with_all_that_is_wrong() -> None:
    with pytest.raises(ConfigError, match=r"no strategy 'focl'. Did you mean focal\?") as refused:
        choose_strategies(["focl", "capacity-s", "xyz"], "cnn-s")
    assert "capacity-s is what plain is with --network cnn-s" in str(refused.value)
    assert "no strategy 'xyz'. Choose from plain, class-weights" in str(refused.value)


@pytest.mark.parametrize("options", [{"network": "timm:resnet18"}, {"weights": "w.safetensors"}])
def test_backbones_cannot_be_shared(options: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="compared on networks trained from scratch"):
        config_of(STRATEGIES[0], parse(options))
