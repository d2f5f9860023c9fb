"""What every plot shares: matplotlib draws it, and it leaves as SVG text that takes its colours from the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from steadylens.files import sha256
from steadylens.report.figures import plain

# Each colour is a stand-in that becomes a CSS variable, so that one SVG is legible in light and in dark.
INK, MUTED, LINE = "#010101", "#010102", "#010103"
TRAIN, VALIDATION = "#010104", "#010105"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    TRAIN: "var(--train)",
    VALIDATION: "var(--validation)",
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's own typeface
    "svg.hashsalt": "steadylens",  # the same run gives the same bytes
    "font.family": "DejaVu Sans",  # travels with matplotlib; only measures the text here
    "font.size": 12.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "none",
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.pad": 6.0,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "legend.frameon": False,
}
_LONGEST_LABEL = 22  # characters


def percent_tick(fraction: float, _position: object = None) -> str:
    """The label of an axis, such as "40 %"; with one decimal where whole ones would come twice."""
    return f"{round(100 * fraction, 1) + 0.0:g}\u202f%"  # + 0.0: no minus before a zero


def name_curves(axes: Axes, ends: list[tuple[float, float, str, str]]) -> None:
    """Write each curve's name at its end, apart from each other, instead of a legend.

    `ends` holds x, y, name and colour of each; the limits of the axes must be settled.
    """
    low, high = axes.get_ylim()
    gap = 0.075 * (high - low)  # the height of a line of text, of the axes
    heights = [y for _, y, _, _ in ends]
    if len(heights) == 2 and abs(heights[0] - heights[1]) < gap:
        middle, half = sum(heights) / 2, gap / 2 if heights[0] >= heights[1] else -gap / 2
        heights = [middle + half, middle - half]
    for (x, _, name, colour), y in zip(ends, heights, strict=True):
        axes.annotate(name, (x, y), (7, 0), textcoords="offset points", va="center", color=colour)


@contextmanager
def plot(width: int, height: int) -> Iterator[Figure]:
    """A figure of `width` x `height` SVG units in the report's style, for the length of a `with` block."""
    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        # The reader's browser brings the typeface, so a sign that matplotlib's own one lacks is no loss.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        yield Figure(figsize=(width / 72, height / 72), layout="constrained", facecolor="none")


def svg(figure: Figure, name: str) -> str:
    """The figure as an `<svg>` element for the inside of an HTML page, named for readers who do not see it."""
    content = io.StringIO()
    figure.savefig(content, format="svg", metadata={"Date": None})
    root = ElementTree.fromstring(content.getvalue())  # noqa: S314 - matplotlib's own output
    prefix = "p" + sha256(content.getvalue().encode())[:8]
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {key.rpartition("}")[2]: _fit(key, value, prefix) for key, value in element.attrib.items()}
    for parent in root.iter():
        for child in [child for child in parent if child.tag in {"metadata", "style"}]:
            parent.remove(child)
    width = float(root.attrib["viewBox"].split()[2])
    for attribute in ("width", "height", "version"):
        root.attrib.pop(attribute, None)
    root.attrib |= {"class": "plot", "role": "img", "aria-label": name, "style": f"--width: {width:.0f}"}
    return ElementTree.tostring(root, encoding="unicode")


def _fit(attribute: str, value: str, prefix: str) -> str:
    """An attribute with names unique on the page, the page's colours and the page's typeface."""
    if attribute == "id":
        return prefix + value
    if attribute.endswith("href") and value.startswith("#"):
        return "#" + prefix + value[1:]
    if attribute == "style":
        value = re.sub(r"font-family:[^;]*;?", "", value)
        return re.sub(r"#01010\d", lambda match: _VARIABLES[match[0]], value)
    return value.replace("url(#", f"url(#{prefix}")


def short(name: str) -> str:
    """A name on one line, cut where it is too long for an axis."""
    text = plain(name)
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "\u2026"
