"""Where selection looks: which recipes are tried beside the one that the rules give, and why."""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

from steadylens.config import AUGMENT, Recipe
from steadylens.models import DEFAULT_DEPTH, FAMILY

Direction = Literal["stronger", "weaker", "aside"]
Look = Literal["stronger", "weaker", "both"]

CHANGEABLE = ("network", "augment", "mixup", "dropout", "l2", "minority_augment")
# Steps that are large enough to be told apart from chance, and small enough to stay in what such networks bear.
_MIXUP_UP, _MIXUP_DOWN = 0.3, 0.4
_DROPOUT_UP, _MOST_DROPOUT = 0.2, 0.7
_DECAY_FACTOR = 2.0
_MINORITY = 0.25


@dataclass(frozen=True, slots=True)
class Challenger:
    """A recipe to try.

    Attributes:
        recipe: that of the rules, but for what is changed.
        change: what that is, in words; "" for the recipe of the rules itself.
        axis: "capacity", "strength" (of regularisation and augmentation) or "minority"; "" where nothing is changed.
        direction: "stronger" against overfitting, "weaker" against underfitting, or neither.
    """

    recipe: Recipe
    change: str
    axis: str
    direction: Direction


def challengers_of(base: Recipe, free: Set[str], look: Look, *, imbalanced: bool) -> list[Challenger]:
    """What to try beside a recipe, the most promising first.

    Against overfitting more regularisation, then more augmentation, then less capacity; against underfitting more
    capacity, then less regularisation, then less augmentation. Where neither is known, one of each kind. Stronger
    augmentation is not the first, since it was worse than the rules' or no better wherever it was measured.

    Args:
        base: the recipe of the rules.
        free: names of the fields that may be changed.
        look: where; "both" where the trial told nothing.
        imbalanced: whether minority augmentation may help.
    """
    against_overfitting = [_regularised(base, free, 1), _augmented(base, free, 1), _sized(base, free, -1)]
    against_underfitting = [_sized(base, free, 1), _regularised(base, free, -1), _augmented(base, free, -1)]
    if look == "stronger":
        return [one for one in against_overfitting if one is not None]
    if look == "weaker":
        return [one for one in against_underfitting if one is not None]
    more = next((one for one in against_overfitting[:2] if one is not None), None)
    less = next((one for one in against_underfitting[1:] if one is not None), None)
    rare = _for_minorities(base, free) if imbalanced else None
    return [one for one in (more, less, rare) if one is not None]


def _augmented(base: Recipe, free: Set[str], step: int) -> Challenger | None:
    level = AUGMENT.index(base.augment) + step
    if not AUGMENT.index("light") <= level < len(AUGMENT):
        return None
    return _changed(base, free, "strength", step, {"augment": AUGMENT[level]})


def _regularised(base: Recipe, free: Set[str], step: int) -> Challenger | None:
    if step > 0:
        values = {
            "mixup": round(min(1.0, base.mixup + _MIXUP_UP), 3),
            "dropout": max(base.dropout, round(min(_MOST_DROPOUT, base.dropout + _DROPOUT_UP), 3)),
            "l2": base.l2 * _DECAY_FACTOR,
        }
    else:
        values = {
            "mixup": round(max(0.0, base.mixup - _MIXUP_DOWN), 3),
            "dropout": base.dropout / 2,
            "l2": base.l2 / _DECAY_FACTOR,
        }
    return _changed(base, free, "strength", step, values)


def _sized(base: Recipe, free: Set[str], step: int) -> Challenger | None:
    if base.network not in FAMILY or not 0 <= FAMILY.index(base.network) + step < len(FAMILY):
        return None
    name = FAMILY[FAMILY.index(base.network) + step]
    challenger = _changed(base, free, "capacity", -step, {"network": name})
    if challenger is None or base.depth != DEFAULT_DEPTH[base.network]:
        return challenger
    return replace(challenger, recipe=replace(challenger.recipe, depth=DEFAULT_DEPTH[name]))


def _for_minorities(base: Recipe, free: Set[str]) -> Challenger | None:
    if base.minority_augment:
        return None
    return _changed(base, free, "minority", 0, {"minority_augment": _MINORITY})


def _changed(base: Recipe, free: Set[str], axis: str, sign: int, values: dict[str, Any]) -> Challenger | None:
    """The recipe with those of the values that are free and new; None where there are none."""
    new = {name: value for name, value in values.items() if name in free and value != getattr(base, name)}
    direction: Direction = "stronger" if sign > 0 else "weaker" if sign < 0 else "aside"
    return Challenger(replace(base, **new), ", ".join(_told(base, new)), axis, direction) if new else None


def _told(base: Recipe, new: dict[str, Any]) -> Iterator[str]:
    for name, value in new.items():
        old = getattr(base, name)
        shown = (old, value) if isinstance(value, str) else (f"{old:g}", f"{value:g}")
        yield f"{name.replace('_', ' ')} {shown[0]} to {shown[1]}"
