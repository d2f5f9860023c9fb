"""The plots of the report: matplotlib draws them, and they leave as SVG text that takes its colours from the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from steadylens.report.drawing import INK, MUTED, TRAIN, VALIDATION, name_curves, percent_tick, plot, short, svg
from steadylens.report.figures import count, decimal, finite, percent

_HEAT_RGB = (0.18, 0.50, 0.78)  # a mid blue that stands out from white and from near-black: the one fixed colour
_LABELLED_CLASSES = 40  # with more, names of a bar chart no longer fit on a screen; a curve over ranks does


def learning_curves(
    epochs: Sequence[int],
    train: Sequence[float | None],
    validation: Sequence[float | None],
    *,
    best_epoch: int | None,
    name: str,
    as_percent: bool,
) -> str:
    """Training and validation over the epochs, the one whose weights are kept marked; None leaves a gap.

    Returns:
        An `<svg>` element as text; its label says the last value of both curves.
    """
    write = percent if as_percent else decimal
    with plot(420, 290) as figure:
        axes = figure.subplots()
        ends = [
            _curve(axes, epochs, train, name="training", colour=TRAIN, dash=(0, (5, 2))),
            _curve(axes, epochs, validation, name="validation", colour=VALIDATION, dash="-"),
        ]
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        if as_percent:
            axes.yaxis.set_major_formatter(FuncFormatter(percent_tick))
        name_curves(axes, [end for end in ends if end is not None])
        if best_epoch is not None:
            _mark_best(axes, epochs, validation, best_epoch)
        lasts = ", ".join(f"{end[2]} {write(end[1])}" for end in ends if end is not None)
        best = "" if best_epoch is None else f"; kept: epoch {best_epoch}"
        return svg(figure, f"{name} by epoch, last values: {lasts or 'none measured'}{best}")


def trials_plot(names: Sequence[str], train: Sequence[float], validation: Sequence[float], *, name: str) -> str:
    """Balanced accuracy on training and validation images of trials side by side.

    Args:
        names: of the trials, from left to right.
        train: balanced accuracy on training images.
        validation: on images that were held out.
        name: what the trials differ in.
    """
    with plot(max(420, 190 * len(names)), 290) as figure:
        axes, x = figure.subplots(), list(range(len(names)))
        axes.vlines(x, validation, train, color=MUTED, linewidth=2, alpha=0.6)
        ends = [
            _curve(axes, x, train, name="training", colour=TRAIN, dash=(0, (5, 2))),
            _curve(axes, x, validation, name="validation", colour=VALIDATION, dash="-"),
        ]
        axes.scatter(x, train, s=36, color=TRAIN, marker="s", zorder=3)
        axes.scatter(x, validation, s=36, color=VALIDATION, zorder=3)
        axes.set_xticks(x, [one.replace(", ", "\n") for one in names], parse_math=False)
        axes.margins(x=0.25)
        axes.set_ylim(min(*train, *validation) - 0.05, max(*train, *validation) + 0.05)  # ten points or more
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(FuncFormatter(percent_tick))
        name_curves(axes, [end for end in ends if end is not None])
        told = "; ".join(
            f"{one} {percent(known)} and {percent(unseen)}"
            for one, known, unseen in zip(names, train, validation, strict=True)
        )
        return svg(figure, f"{name}: balanced accuracy on training and on validation images: {told}")


def reliability_diagram(bins: Sequence[Mapping[str, Any]], *, name: str) -> str:
    """Accuracy against stated probability, bin by bin, above a histogram of the images in each bin.

    Args:
        bins: `confidence`, `accuracy` and `count` of each bin; bins without images are left out.
        name: what the picture shows, for readers who do not see it.

    Source: the diagram of Guo et al. 2017, "On Calibration of Modern Neural Networks", figure 4.
    """
    known = [(finite(b["confidence"]), finite(b["accuracy"]), finite(b["count"]) or 0.0) for b in bins]
    rows = [(c, a, n) for c, a, n in known if c is not None and a is not None and n > 0]
    confidence, accuracy, counts = (np.array([row[i] for row in rows], dtype=float) for i in range(3))
    share = counts / max(counts.sum(), 1.0)
    with plot(420, 400) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        above.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        above.annotate("as sure as right", (0.1, 0.1), (9, -6), textcoords="offset points", va="top", color=MUTED)
        above.vlines(confidence, confidence, accuracy, color=TRAIN, linewidth=3, alpha=0.45)
        above.plot(confidence, accuracy, color=VALIDATION, linewidth=1.6)
        above.scatter(confidence, accuracy, s=16 + 260 * share, color=VALIDATION, zorder=3)
        above.set(xlim=(0, 1.02), ylim=(0, 1.04), ylabel="share that is right")
        below.bar(confidence, share, width=0.045, color=VALIDATION)
        below.set(xlabel="probability that it states", ylabel="images")
        below.yaxis.set_major_locator(MaxNLocator(nbins=2))
        for axis in (above.yaxis, below.yaxis, below.xaxis):
            axis.set_major_formatter(FuncFormatter(percent_tick))
        return svg(figure, name)


def class_counts(counts: Mapping[str, int], *, logarithmic: bool) -> str:
    """Images of each class, most first: bars with names, or a curve over ranks where the classes are many."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    numbers = np.array([n for _, n in ordered], dtype=float)
    extremes = f"from {count(numbers.max())} to {count(numbers.min())}" if ordered else "none"
    name = f"Images of each of {len(ordered)} classes, {extremes}{', on a logarithmic scale' if logarithmic else ''}"
    if len(ordered) > _LABELLED_CLASSES:
        return _count_curve(numbers, logarithmic=logarithmic, name=name)
    with plot(520, 50 + 24 * len(ordered)) as figure:
        axes = figure.subplots()
        rows = np.arange(len(ordered))
        if logarithmic:  # a bar's length means nothing on a logarithmic scale; the place of a dot does
            axes.set_xscale("log")
            axes.set_xlim(0.8, max(numbers.max(initial=1.0), 1.0) * 2.5)
            axes.hlines(rows, 0.8, np.maximum(numbers, 0.8), color=VALIDATION, linewidth=1.5, alpha=0.5)
            axes.scatter(np.maximum(numbers, 0.8), rows, s=42, color=VALIDATION, zorder=3)
        else:
            axes.barh(rows, numbers, height=0.62, color=VALIDATION)
            axes.set_xlim(0, max(numbers.max(initial=1.0), 1.0) * 1.14)
        for row, number in enumerate(numbers):
            beside = (max(number, 0.8 if logarithmic else 0.0), row)
            axes.annotate(count(number), beside, (8, 0), textcoords="offset points", va="center")
        axes.set_yticks(rows, [short(name) for name, _ in ordered], parse_math=False, color=INK)
        axes.set_ylim(len(ordered) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.minorticks_off()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: count(x)))
        axes.set_xlabel("images, logarithmic scale" if logarithmic else "images")
        return svg(figure, name)


def confusion_heatmap(shares: NDArray[np.float64], *, name: str) -> str:
    """The row-normalised confusion matrix of many classes as one picture without cell labels.

    Args:
        shares: (classes, classes), rows are true classes; rows without images hold NaN.
        name: what the picture shows, for readers who do not see it.
    """
    # The square root lifts the small shares, which are the confusions, above what the eye can tell from nothing.
    opacity = np.sqrt(np.nan_to_num(shares, nan=0.0))
    pixels = np.concatenate([np.broadcast_to(_HEAT_RGB, (*shares.shape, 3)), opacity[..., None]], axis=-1)
    with plot(460, 460) as figure:
        axes = figure.subplots()
        axes.imshow(pixels, interpolation="nearest", extent=(0.5, len(shares) + 0.5, len(shares) + 0.5, 0.5))
        axes.grid(visible=False)
        axes.set(xlabel="predicted class, by its number below", ylabel="true class, by its number below")
        axes.locator_params(integer=True, nbins=8)
        return svg(figure, name)


def _curve(
    axes: Axes,
    epochs: Sequence[int],
    values: Sequence[float | None],
    *,
    name: str,
    colour: str,
    dash: str | tuple[int, tuple[int, int]],
) -> tuple[float, float, str, str] | None:
    """Draw one curve; returns the place of its end, its name and its colour, or None without any value."""
    known = [(float(epoch), value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
    heights = np.array([np.nan if value is None else value for value in values], dtype=float)
    axes.plot(epochs, heights, color=colour, linestyle=dash, linewidth=1.9, marker="o" if len(known) == 1 else "")
    return (*known[-1], name, colour) if known else None


def _mark_best(axes: Axes, epochs: Sequence[int], validation: Sequence[float | None], best_epoch: int) -> None:
    axes.axvline(best_epoch, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
    late = len(epochs) > 0 and best_epoch > (min(epochs) + max(epochs)) / 2
    axes.annotate(
        f"kept: epoch {best_epoch}",
        (best_epoch, 1),
        (-5 if late else 5, 3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        ha="right" if late else "left",
        color=MUTED,
    )
    at_best = [v for e, v in zip(epochs, validation, strict=True) if e == best_epoch and v is not None]
    axes.scatter([best_epoch] * len(at_best), at_best, s=44, color=VALIDATION, zorder=4)


def _count_curve(numbers: NDArray[np.float64], *, logarithmic: bool, name: str) -> str:
    with plot(520, 280) as figure:
        axes = figure.subplots()
        ranks = np.arange(1, len(numbers) + 1)
        floor = 0.8 if logarithmic else 0.0
        axes.fill_between(ranks, floor, np.maximum(numbers, floor), step="mid", color=VALIDATION, alpha=0.25, lw=0)
        axes.step(ranks, np.maximum(numbers, floor), where="mid", color=VALIDATION, linewidth=1.6)
        if logarithmic:
            axes.set_yscale("log")
        axes.set(ylim=(floor, None), xlim=(0.5, len(numbers) + 0.5), xlabel="classes, most images first")
        axes.set_ylabel("images, logarithmic scale" if logarithmic else "images")
        axes.minorticks_off()
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: count(y)))
        return svg(figure, name)
