"""How a figure is written: percentages with one decimal, and a dash, never a zero, where nothing was measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MISSING = "\u2013"
_UNIT_SPACE = "\u202f"  # narrow and unbreakable, as ISO 80000-1 has it between a number and its unit


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with the ends of its 95 % interval; None where it could not be measured."""

    value: float | None
    low: float | None
    high: float | None


def interval_of(raw: object) -> Interval:
    """Read a figure of report.json: `{"value", "low", "high"}`, a plain number, or null."""
    if isinstance(raw, Mapping):
        return Interval(finite(raw.get("value")), finite(raw.get("low")), finite(raw.get("high")))
    return Interval(finite(raw), None, None)


def finite(raw: Any) -> float | None:  # noqa: ANN401 - any JSON value
    """The number, or None for null, NaN, infinity and whatever is not a number."""
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
        return None
    return float(raw)


def percent(raw: object) -> str:
    """A fraction as a percentage; only exactly 0 and exactly 1 are written as 0.0 % and 100.0 %."""
    value = finite(raw)
    if value is None:
        return MISSING
    hundredths = 100 * value
    if 0 < value < 1:  # 0.9998 is not "always", and 0.0002 is not "never"
        hundredths = min(max(hundredths, 0.1), 99.9)
    return f"{hundredths:.1f}{_UNIT_SPACE}%"


def points(raw: object) -> str:
    """A difference of two fractions, in percentage points with a sign."""
    value = finite(raw)
    return MISSING if value is None else f"{100 * value:+.1f}{_UNIT_SPACE}points".replace("-", "\u2212")


def decimal(raw: object) -> str:
    """A number with three decimals."""
    value = finite(raw)
    return MISSING if value is None else f"{value:.3f}"


def count(raw: object) -> str:
    """A whole number with its thousands apart; one decimal where it is not whole."""
    value = finite(raw)
    if value is None:
        return MISSING
    return f"{value:,.0f}" if value == int(value) else f"{value:,.1f}"


def percent_range(figure: Interval) -> str:
    """The interval of a fraction, such as "77.9 to 80.6 %", or a dash."""
    if figure.low is None or figure.high is None:
        return MISSING
    return f"{percent(figure.low).removesuffix(_UNIT_SPACE + '%')} to {percent(figure.high)}"


def decimal_range(figure: Interval) -> str:
    """The interval of a number, such as "0.612 to 0.655", or a dash."""
    return MISSING if figure.low is None or figure.high is None else f"{figure.low:.3f} to {figure.high:.3f}"


def duration(raw: object) -> str:
    """Seconds as people say them: "0.8 s", "42 s", "2 min 31 s", "1 h 02 min"."""
    seconds = finite(raw)
    if seconds is None:
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f}{_UNIT_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_UNIT_SPACE}s"
    large, small, names = (whole // 60, whole % 60, ("min", "s")) if whole < 3600 else _hours(whole)
    rest = f" {small:02d}{_UNIT_SPACE}{names[1]}" if small else ""
    return f"{large}{_UNIT_SPACE}{names[0]}{rest}"


def _hours(seconds: int) -> tuple[int, int, tuple[str, str]]:
    return seconds // 3600, seconds % 3600 // 60, ("h", "min")


def plain(raw: object) -> str:
    """A name on one line: line breaks become a visible sign, other unprintable characters a replacement sign."""
    text = str(raw).replace("\r\n", "\n").replace("\n", "\u23ce").replace("\r", "\u23ce")
    return "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text) or "(no name)"


def field(raw: object) -> str:
    """The value of a recipe field in words: null is "not set", a flag is "yes" or "no"."""
    if raw is None or (isinstance(raw, float) and not math.isfinite(raw)):
        return "not set"
    if isinstance(raw, bool):
        return "yes" if raw else "no"
    if isinstance(raw, float):
        return f"{raw:.6g}"
    if isinstance(raw, list | tuple):
        return ", ".join(field(one) for one in raw) or "none"
    if isinstance(raw, Mapping):
        return ", ".join(f"{plain(name)}: {field(one)}" for name, one in raw.items()) or "none"
    return plain(raw)
