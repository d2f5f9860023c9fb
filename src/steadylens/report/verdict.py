"""The verdict that opens the page: what a run is good for, what it is not yet, and what to do next, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from steadylens.report.figures import Interval, count, interval_of, percent, percent_range, plain

_FOUND_WELL = 0.8  # "four times out of five", for the list of classes that can be relied on most
_FACE_VALUE = 0.05  # a calibration error up to here leaves a stated 90 % meaning 85 to 95 %
_FEW_IMAGES = 30  # the usual rule of thumb for the smallest sample that a share can be read from
_NAMES_IN_A_SENTENCE = 6


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a person reads first; `tone` is "good", "care" or "bad"."""

    tone: str
    label: str
    headline: str
    interval: str
    diagnosis: str
    good_for: tuple[str, ...]
    not_yet: tuple[str, ...]
    next_steps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the sentences rest on, read from report.json once."""

    classes: Sequence[str]
    test: Mapping[str, Any]
    balanced: Interval
    worst: Interval
    worst_class: str
    chance: float  # the balanced accuracy of any guess that ignores the image
    per_class: Sequence[Mapping[str, Any]]
    train_counts: Mapping[str, int]
    leakage: float
    diagnosis: Mapping[str, Any]


def verdict_of(report: Mapping[str, Any]) -> Verdict:
    """Judge a run by its figures on the test split.

    "Not ready" where the interval of balanced accuracy reaches a guess's, or where a class is missed more often than
    it is found; "Usable with care" where the interval of the worst class still allows that, or where the training
    did not end well or images leak; "Steady" otherwise.
    """
    facts = _facts(report)
    tone = _tone(facts)
    return Verdict(
        tone=tone,
        label={"good": "Steady", "care": "Usable with care", "bad": "Not ready"}[tone],
        headline=_headline(facts),
        interval=_interval(facts),
        diagnosis=str(facts.diagnosis.get("text") or ""),
        good_for=tuple(_good_for(facts)),
        not_yet=tuple(_not_yet(facts, report)),
        next_steps=tuple(_next_steps(facts)),
    )


def _facts(report: Mapping[str, Any]) -> _Facts:
    test = report["test"]
    return _Facts(
        classes=report["classes"],
        test=test,
        balanced=interval_of(test.get("balanced_accuracy")),
        worst=interval_of(test.get("worst_class_recall")),
        worst_class=str(test.get("worst_class") or ""),
        chance=chance_of(report),
        per_class=test.get("per_class") or [],
        train_counts=(report["data"].get("splits") or {}).get("train") or {},
        leakage=interval_of(report["data"].get("leakage")).value or 0.0,
        diagnosis=report["diagnosis"],
    )


def chance_of(report: Mapping[str, Any]) -> float:
    """The balanced accuracy of any guess that ignores the image: one over the number of classes that were tested."""
    tested = sum(1 for row in report["test"].get("per_class") or [] if row.get("support"))
    return 1 / max(tested or len(report["classes"]), 1)


def _tone(facts: _Facts) -> str:
    balanced, worst = facts.balanced, facts.worst
    if balanced.value is None or worst.value is None or _is_a_guess(facts) or worst.value < 0.5:
        return "bad"
    unsure = (worst.low is not None and worst.low < 0.5) or bool(_untested(facts))
    return "care" if unsure or facts.leakage > 0 or facts.diagnosis.get("verdict") != "good" else "good"


def _is_a_guess(facts: _Facts) -> bool:
    low = facts.balanced.value if facts.balanced.low is None else facts.balanced.low
    return low is not None and low <= facts.chance


def _headline(facts: _Facts) -> str:
    balanced, worst = facts.balanced, facts.worst
    if balanced.value is None or worst.value is None:
        return "Not measured: the test split holds no images that could tell."
    right = f"right on {percent(balanced.value)} of images when all classes count the same"
    if _is_a_guess(facts):
        return f"Not told apart from guessing: {right}, where a guess is right on {percent(facts.chance)}."
    never = [plain(row["class"]) for row in facts.per_class if row.get("recall") == 0]
    if len(never) > 1:
        return f"Never finds {count(len(never))} of {count(len(facts.per_class))} classes; {right}."
    if never or worst.value == 0:
        return f"Never finds {_quoted(never or [facts.worst_class])}; {right}."
    every = "every class that the test split holds" if _untested(facts) else "every class"
    return f"Finds {every} at least {percent(worst.value)} of the time; {right}."


def _interval(facts: _Facts) -> str:
    parts = []
    if facts.balanced.low is not None:
        parts.append(f"{percent_range(facts.balanced)} for all classes alike")
    if facts.worst.low is not None:
        parts.append(f"{percent_range(facts.worst)} for the worst class, {_quoted([facts.worst_class])}")
    apart = "" if facts.leakage > 0 else " that neither trained nor chose the model"
    measured = f"Measured on {count(facts.test.get('n'))} test images{apart}."
    return f"95\u202f% intervals: {'; '.join(parts)}. {measured}" if parts else measured


def _good_for(facts: _Facts) -> Iterator[str]:
    if facts.balanced.value is None or _is_a_guess(facts):
        yield "Nothing yet: an answer says no more than a guess does."
        return
    well = [plain(row["class"]) for row in facts.per_class if (row.get("recall") or 0.0) >= _FOUND_WELL]
    if well and len(well) == len(facts.per_class):
        yield f"Sorting images like the test split's: each class is found at least {percent(_FOUND_WELL)} of the time."
    elif well:
        yield f"Finding {_quoted(well)}: at least {percent(_FOUND_WELL)} of their images are found."
    else:
        yield "Suggestions that a person checks, one by one."
    error = interval_of(facts.test.get("ece")).value
    if error is not None and error <= _FACE_VALUE:
        yield f"Telling sure answers from unsure ones: its probabilities are off by {percent(error)} on average."


def _not_yet(facts: _Facts, report: Mapping[str, Any]) -> Iterator[str]:
    if _untested(facts):
        yield f"Deciding about {_quoted(_untested(facts))}: no test image was one, so that nothing about it is known."
    if facts.worst.value is not None and facts.worst.value < 1 and facts.worst_class:
        missed = Interval(1 - facts.worst.value, _complement(facts.worst.high), _complement(facts.worst.low))
        between = "" if missed.low is None else f" ({percent_range(missed)})"
        yield f"Deciding alone on {_quoted([facts.worst_class])}: it misses {percent(missed.value)} of them{between}."
    precise = [row for row in facts.per_class if row.get("support") and row.get("precision") is not None]
    if precise:
        least = min(precise, key=lambda row: float(row["precision"]))
        said = _quoted([plain(least["class"])])
        if least["precision"] < 1:
            yield f"Taking the answer {said} on trust: {percent(least['precision'])} of such answers are right."
    error = interval_of(facts.test.get("ece")).value
    if error is not None and error > _FACE_VALUE:
        yield f"Taking its probabilities at face value: they are off by {percent(error)} on average."
    if facts.leakage > 0:
        yield (
            f"Quoting these figures: {count(facts.leakage)} images are in another split too, or almost the same, which "
            "flatters them."
        )
    unmeasured = "" if report.get("robustness") else ", and noise, blur or other light"
    yield f"Images of another kind: another camera, place or subject{unmeasured} were not measured."


def _next_steps(facts: _Facts) -> Iterator[str]:
    if facts.worst_class and facts.worst.value != 1:
        yield _help_for_worst(facts)
    few = [plain(row["class"]) for row in facts.per_class if 0 < (row.get("support") or 0) < _FEW_IMAGES]
    if _untested(facts):
        yield f"Put images of {_quoted(_untested(facts))} into the test split: nothing about them was measured."
    if few:
        yield f"Add test images of {_quoted(few)}: fewer than {_FEW_IMAGES} each leave wide intervals."
    yield from (facts.diagnosis.get("advice") or [])[:1]


def _help_for_worst(facts: _Facts) -> str:
    name, taken = _quoted([facts.worst_class]), ""
    confused = most_frequent_confusions(facts.classes, facts.test.get("confusion") or [], only=facts.worst_class)
    if confused:
        taken = f" Most often it is taken for {_quoted([confused[0][1]])}: look at those images first, below."
    mine = facts.train_counts.get(facts.worst_class)
    if mine is not None and mine < median(facts.train_counts.values()):
        most = count(max(facts.train_counts.values()))
        return f"Collect more images of {name}: {count(mine)} train it, where the largest class has {most}.{taken}"
    return f"Check the labels of {name}, the worst class, and the images that it gets wrong.{taken}"


def most_frequent_confusions(
    classes: Sequence[str], confusion: Sequence[Sequence[int]], *, only: str | None = None
) -> list[tuple[str, str, int, float]]:
    """Pairs of (true class, predicted class, images, share of the true class's images), most images first.

    Args:
        classes: names in the order of the rows.
        confusion: counts, rows are true classes.
        only: this true class alone, or all when None.
    """
    pairs = [
        (true, predicted, number, number / total)
        for true, row, total in zip(classes, confusion, map(sum, confusion), strict=False)
        for predicted, number in zip(classes, row, strict=False)
        if number > 0 and true != predicted and only in {None, true}
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3], pair[0], pair[1]))


def _untested(facts: _Facts) -> list[str]:
    return [plain(row["class"]) for row in facts.per_class if not row.get("support")]


def _complement(share: float | None) -> float | None:
    return None if share is None else 1 - share


def _quoted(names: Sequence[str]) -> str:
    """Names in quotation marks, as a list in a sentence; the last ones are counted where they are many."""
    shown = [f"\u201c{plain(name)}\u201d" for name in names]
    if len(shown) > _NAMES_IN_A_SENTENCE:
        kept = _NAMES_IN_A_SENTENCE - 1
        shown = [*shown[:kept], f"{count(len(names) - kept)} other classes"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
