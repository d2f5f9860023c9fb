"""Challengers change what they may and nothing else, and look where the verdict points."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.config import AUGMENT, Recipe
from steadylens.models import FAMILY
from steadylens.training.challengers import CHANGEABLE, challengers_of

RECIPE = Recipe(
    classes=("bolt", "nut"), network=FAMILY[1], depth=1, width=1.0, image_size=16, imbalance="none",
    minority_augment=0.0, augment="medium", flip=False, l1=0.0, l2=0.05, dropout=0.0, label_smoothing=0.0, mixup=0.7,
    early_stopping=20, epochs=None, budget=60.0, batch_size=64, learning_rate=2e-3, averaging=0.995, precision="fp32",
    seed=0, device="cpu", optimizer="muon",
)  # fmt: skip
ALL = frozenset(CHANGEABLE)


def changes(look: str, base: Recipe = RECIPE, free: frozenset[str] = ALL, *, imbalanced: bool = False) -> list[str]:
    return [one.change for one in challengers_of(base, free, look, imbalanced=imbalanced)]  # type: ignore[arg-type]


def test_against_overfitting_regularisation_then_augmentation_then_less_capacity() -> None:
    assert changes("stronger") == [
        "mixup 0.7 to 1, dropout 0 to 0.2, l2 0.05 to 0.1",
        "augment medium to strong",
        f"network {FAMILY[1]} to {FAMILY[0]}",
    ]


def test_against_underfitting_more_capacity_then_less_regularisation_then_less_augmentation() -> None:
    assert changes("weaker") == [
        f"network {FAMILY[1]} to {FAMILY[2]}",
        "mixup 0.7 to 0.3, l2 0.05 to 0.025",
        "augment medium to light",
    ]


def test_where_nothing_is_known_one_of_each_kind_and_rare_classes_where_there_are_any() -> None:
    known = ["mixup 0.7 to 1, dropout 0 to 0.2, l2 0.05 to 0.1", "mixup 0.7 to 0.3, l2 0.05 to 0.025"]
    assert changes("both") == known
    assert changes("both", imbalanced=True) == [*known, "minority augment 0 to 0.25"]
    assert changes("both", replace(RECIPE, minority_augment=0.5), imbalanced=True) == known


@pytest.mark.parametrize("look", ["stronger", "weaker", "both"])
def test_where_every_option_is_given_nothing_is_tried(look: str) -> None:
    assert changes(look, free=frozenset(), imbalanced=True) == []


def test_at_the_end_of_a_scale_there_is_nothing_further() -> None:
    strongest = replace(RECIPE, network=FAMILY[0], augment=AUGMENT[-1], mixup=1.0, dropout=0.7)
    assert changes("stronger", strongest, ALL - {"l2"}) == []
    weakest = replace(RECIPE, network=FAMILY[-1], augment="light", mixup=0.0)
    assert changes("weaker", weakest, ALL - {"l2"}) == []


@given(
    st.frozensets(st.sampled_from(CHANGEABLE)),
    st.sampled_from(["stronger", "weaker", "both"]),
    st.booleans(),
    st.sampled_from([*FAMILY, "keras-blog"]),
    st.sampled_from(AUGMENT),
    st.floats(0, 1),
    st.floats(0, 0.95),
    st.floats(0, 10),
)
def test_only_free_fields_change_and_each_challenger_is_another_recipe(
    free: frozenset[str],
    look: str,
    imbalanced: bool,
    network: str,
    augment: str,
    mixup: float,
    dropout: float,
    l2: float,
) -> None:
    base = replace(RECIPE, network=network, augment=augment, mixup=mixup, dropout=dropout, l2=l2)
    found = challengers_of(base, free, look, imbalanced=imbalanced)  # type: ignore[arg-type]
    recipes = [base, *(one.recipe for one in found)]
    assert all(recipe not in recipes[:i] for i, recipe in enumerate(recipes))
    for one in found:
        changed = {name for name, value in asdict(one.recipe).items() if value != getattr(base, name)}
        assert changed <= free | ({"depth"} if "network" in free else set())
        assert 0 <= one.recipe.mixup <= 1
        assert 0 <= one.recipe.dropout <= 0.95
        assert look in (one.direction, "both")
        assert one.change
