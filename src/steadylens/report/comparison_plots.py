"""The plots of a comparison: every strategy a line, in the order of the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from steadylens.report.drawing import INK, MUTED, TRAIN, VALIDATION, name_curves, percent_tick, plot, svg
from steadylens.report.figures import percent, points

Row = Mapping[str, Any]
_LINE, _TOP = 30, 70  # SVG units: of each strategy, and of axes and names
_DOTTED = (0, (2, 3))


def figures_plot(rows: Sequence[Row]) -> str:
    """Balanced accuracy and worst-class recall of each strategy with their intervals, and where plain's are."""
    kinds = ("balanced_accuracy", VALIDATION, "o", -0.13), ("worst_class_recall", TRAIN, "s", 0.13)
    with plot(680, _TOP + _LINE * len(rows)) as figure:
        axes = _lines(figure.subplots(), rows)
        for name, colour, marker, shift in kinds:
            low, value, high = (np.array([row["test"][name][key] for row in rows]) for key in ("low", "value", "high"))
            y = np.arange(len(rows)) + shift
            axes.hlines(y, low, high, color=colour, linewidth=4, alpha=0.35)
            axes.scatter(value, y, s=34, color=colour, marker=marker, zorder=3)
            axes.axvline(value[0], color=colour, linewidth=1, linestyle=_DOTTED)
        plain = [(rows[0]["test"][name]["value"], name.replace("_", " "), colour) for name, colour, _, _ in kinds]
        _name_marks(axes, plain)
        _as_percent(axes)
        axes.set_xlim(0, 1)
        axes.set_xlabel("on the test images; the dotted lines are plain's")
        told = "; ".join(f"{row['title']} {percent(row['test']['balanced_accuracy']['value'])}" for row in rows)
        return svg(figure, f"Balanced accuracy and worst-class recall of each strategy. Balanced accuracy: {told}")


def differences_plot(rows: Sequence[Row]) -> str:
    """How much each strategy gains over plain in balanced accuracy, with the paired intervals."""
    rows = [row for row in rows if row["difference"] is not None]
    figures = [row["difference"]["balanced_accuracy"] for row in rows]
    with plot(680, _TOP + _LINE * max(1, len(rows))) as figure:
        axes = _lines(figure.subplots(), rows)
        axes.axvline(0, color=INK, linewidth=1)
        for y, one in enumerate(figures):
            colour = VALIDATION if one["low"] > 0 else TRAIN if one["high"] < 0 else MUTED
            axes.hlines(y, 100 * one["low"], 100 * one["high"], color=colour, linewidth=4, alpha=0.35)
            axes.scatter([100 * one["value"]], [y], s=40, color=colour, zorder=3)
            end, apart, side = ("low", -7, "right") if one["value"] < 0 else ("high", 7, "left")
            axes.annotate(  # on the side away from plain's line
                points(one["value"]), (100 * one[end], y), (apart, 0),
                textcoords="offset points", va="center", ha=side, color=colour,
            )  # fmt: skip
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:+.0f}".replace("-", "\u2212") if x else "0"))
        axes.margins(x=0.22)  # room for the figures
        axes.set_xlabel("points of balanced accuracy over plain; grey where the interval holds zero")
        told = "; ".join(f"{row['title']} {points(one['value'])}" for row, one in zip(rows, figures, strict=True))
        return svg(figure, f"Gain in balanced accuracy over plain: {told or 'no other strategy was tried'}")


def gaps_plot(rows: Sequence[Row]) -> str:
    """Balanced accuracy on training and on validation images: the line between them is the gap."""
    train = np.array([row["train_balanced_accuracy"] for row in rows])
    validation = np.array([row["validation"]["balanced_accuracy"]["value"] for row in rows])
    with plot(680, _TOP + _LINE * len(rows)) as figure:
        axes, y = _lines(figure.subplots(), rows), np.arange(len(rows))
        axes.hlines(y, *np.sort([train, validation], axis=0), color=MUTED, linewidth=2, alpha=0.6)
        axes.scatter(validation, y, s=40, color=VALIDATION, zorder=3)
        axes.scatter(train, y, s=40, color=TRAIN, marker="s", zorder=3)
        _name_marks(axes, [(validation[0], "validation", VALIDATION), (train[0], "training", TRAIN)])
        for at, row in enumerate(rows):
            side = (max(train[at], validation[at]), at)
            axes.annotate(points(row["gap"]).lstrip("+"), side, (9, 0), textcoords="offset points", va="center",
                          color=MUTED)  # fmt: skip
        _as_percent(axes)
        axes.margins(x=0.14)
        axes.set_xlabel("balanced accuracy of the weights that were kept")
        told = "; ".join(f"{row['title']} {points(row['gap'])}" for row in rows)
        return svg(figure, f"Gap between training and validation: {told}")


def capacity_plot(rows: Sequence[Row]) -> str:
    """Balanced accuracy on training and validation images over the number of parameters, and plain's network."""
    sizes = sorted((row for row in rows if row["aim"] == "capacity"), key=lambda row: int(row["parameters"]))
    with plot(560, 330) as figure:
        axes = figure.subplots()
        axes.set_xscale("log")
        ends = []
        for name, colour, marker, values in (
            ("training", TRAIN, "s", [row["train_balanced_accuracy"] for row in sizes]),
            ("validation", VALIDATION, "o", [row["validation"]["balanced_accuracy"]["value"] for row in sizes]),
        ):
            x = [row["parameters"] for row in sizes]
            axes.plot(x, values, color=colour, marker=marker, linewidth=1.9)
            ends += [(x[-1], values[-1], name, colour)] if x else []
        for row in (row for row in rows if row["aim"] == "reference"):
            axes.scatter([row["parameters"]], [row["train_balanced_accuracy"]], s=36, color=TRAIN, marker="s")
            at = (row["parameters"], row["validation"]["balanced_accuracy"]["value"])
            axes.scatter(at[0], at[1], s=36, color=VALIDATION)
        shown = [row for row in rows if row["aim"] in ("capacity", "reference")]
        axes.set_xticks([row["parameters"] for row in shown], [_size(row) for row in shown])
        axes.minorticks_off()
        axes.margins(x=0.2, y=0.16)
        name_curves(axes, ends)
        axes.yaxis.set_major_formatter(FuncFormatter(percent_tick))
        axes.set(xlabel="parameters, logarithmic scale", ylabel="balanced accuracy")
        told = "; ".join(
            f"{row['title']} {percent(row['train_balanced_accuracy'])} and "
            f"{percent(row['validation']['balanced_accuracy']['value'])}" for row in sizes
        )  # fmt: skip
        return svg(figure, f"Balanced accuracy on training and validation images over capacity: {told}")


def _size(row: Row) -> str:
    return f"{str(row['title']).rpartition(' ')[2]}\n{row['parameters'] / 1e6:.2g} M"


def _name_marks(axes: Axes, marks: Sequence[tuple[float, str, str]]) -> None:
    """Write above plain's two values what they are, the lower to its left and the higher to its right."""
    low, high = sorted(marks)
    for (value, title, colour), side in ((low, "right"), (high, "left")):
        axes.annotate(title, (value, 1), (-5 if side == "right" else 5, 6), xycoords=("data", "axes fraction"),
                      textcoords="offset points", ha=side, color=colour)  # fmt: skip


def _lines(axes: Axes, rows: Sequence[Row]) -> Axes:
    """A line for each strategy, the first on top."""
    axes.set_yticks(np.arange(len(rows)), [str(row["title"]) for row in rows], parse_math=False, color=INK)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    return axes


def _as_percent(axes: Axes) -> None:
    axes.xaxis.set_major_formatter(FuncFormatter(percent_tick))
