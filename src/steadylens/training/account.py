"""What the trials of a selection came to, in words for a person and as rows for the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from steadylens.training.challengers import Challenger
from steadylens.training.folds import Fold
from steadylens.training.trial import Standing


def where(reference: Standing) -> str:
    """What the trial of the rules told."""
    said = {
        "overfitting": "it was overfitting, so that more regularisation or less capacity was tried",
        "underfitting": "it was underfitting, so that more capacity or less regularisation was tried",
    }
    accuracy = reference.validation["balanced_accuracy"]
    figures = f"{reference.train_balanced_accuracy:.1%} on training images and {accuracy:.1%} on validation images"
    verdict = said.get(reference.verdict, "neither over- nor underfitting was to be seen yet, so that both were tried")
    return f"At {reference.rung:.0%} of the training, the recipe of the rules had {figures}: {verdict}."


def what_was_tried(tried: Sequence[Challenger], folds: Sequence[Fold]) -> str:
    """Which challengers there were, and what they were judged on."""
    listed = "; ".join(one.change for one in tried) or "nothing"
    judged = ""
    if len(folds) > 1:
        images = sum(len(fold.held_out) for fold in folds)
        judged = (
            f" Since a class has few validation images, each trial was trained on {len(folds)} splits, and judged on "
            f"all {images:,} images that one of them held out."
        )
    return f"Tried beside it: {listed}.{judged}"


def none_near(best: Standing | None, reference: Standing) -> str:
    """Why no challenger went on from the first rung, not even the `best` of them."""
    if best is None:
        return "The recipe of the rules went on, since no other trial reached the first rung."
    return (
        "The recipe of the rules went on, since it was surely better than the one that would have gone on beside it: "
        f"that with {best.challenger.change} was at a balanced log-loss of {best.loss:.3f} where it had "
        f"{reference.loss:.3f}."
    )


def accounts(stood: Sequence[Sequence[Standing]], winner: Standing) -> tuple[dict[str, Any], ...]:
    """The trials for report.json: each as it stood last, and as `rungs` at every rung that it reached.

    Args:
        stood: for each trial where it stood, the first rung first.
        winner: which of them the training goes on with.
    """
    last_rung = max(standings[-1].rung for standings in stood)
    rows = []
    for standings in stood:
        last, recipe = standings[-1], standings[-1].challenger.recipe
        if last is winner:
            became = "went on as the training"
        elif last.failed:
            became = f"failed: {last.failed}"
        else:
            became = "behind at the last rung" if last.rung == last_rung > stood[0][0].rung else "dropped"
        rows.append(
            {
                "recipe": {**asdict(recipe), "classes": list(recipe.classes)},
                "change": last.challenger.change,
                "axis": last.challenger.axis,
                "direction": last.challenger.direction,
                **last.as_dict(),
                "folds": len(standings[0].legs),
                "became": became,
                "rungs": [one.as_dict() for one in standings],
            }
        )
    return tuple(rows)


def line(one: Standing) -> str:
    """One line for the console."""
    name = one.challenger.change or "the recipe of the rules"
    if one.failed:
        return f"  trial {one.number}: {name}: {one.failed}"
    figures = f"balanced log-loss {one.loss:.3f}, balanced accuracy {one.validation['balanced_accuracy']:.1%}"
    verdict = "" if one.verdict == "open" else f", {one.verdict}"
    return f"  trial {one.number} at {one.rung:.0%} of the training: {name}: {figures}{verdict}"
