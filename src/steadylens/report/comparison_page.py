"""The page of a comparison: one offline HTML file from which the tutorial's strategies can be learned."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from steadylens import files
from steadylens.report import comparison_plots, figures, plots
from steadylens.report.comparison_words import caution, headline
from steadylens.report.templates import render

AIMS = {  # in the order of the page
    "reference": ("Plain training", "The network alone. What it gets wrong is what the rest is for."),
    "imbalance": (
        "Against imbalance",
        "A network learns what lowers its loss on average, and most of the average is frequent classes. These make "
        "rare ones count: by weights, by how often they are shown, or by the shape of the loss.",
    ),
    "overfitting": (
        "Against overfitting",
        "A network far better on its training images than on others has learned the images and not the classes. "
        "These hold its weights back.",
    ),
    "capacity": (
        "Against underfitting: capacity",
        "A network that is poor even on its training images is too small, or was not trained for long enough. These "
        "are larger, and slower: in the same time they see the images less often.",
    ),
    "all": ("All of it together", "What steadylens does when it is not told what to do."),
}


def write_comparison_page(folder: Path, report: Mapping[str, Any]) -> Path:
    """Write FOLDER/compare.html from what compare.json says.

    Raises:
        ResourceError: the page cannot be written.
    """
    rows = report["strategies"]
    page = folder / "compare.html"
    context = {
        "name": folder.resolve().name,
        "report": report,
        "headline": headline(report),
        "caution": caution(report),
        "groups": [
            (title, intro, [(row, _curve(row)) for row in rows if row["aim"] == aim])
            for aim, (title, intro) in AIMS.items()
            if any(row["aim"] == aim for row in rows)
        ],
        "figures_plot": Markup(comparison_plots.figures_plot(rows)),  # noqa: S704 - serialised by ElementTree
        "differences_plot": Markup(comparison_plots.differences_plot(rows)),  # noqa: S704 - likewise
        "gaps_plot": Markup(comparison_plots.gaps_plot(rows)),  # noqa: S704 - likewise
        "capacity_plot": Markup(comparison_plots.capacity_plot(rows))  # noqa: S704 - likewise
        if any(row["aim"] == "capacity" for row in rows)
        else None,
    }
    files.write_bytes(page, render("comparison.html.j2", context))
    return page


def _curve(row: Mapping[str, Any]) -> Markup:
    """Balanced accuracy over the epochs of the first training; the best is marked where it was looked for and kept."""
    curve = row["curve"]
    series = [[figures.finite(one[f"{part}_balanced_accuracy"]) for one in curve] for part in ("train", "validation")]
    first = row["trainings"][0]
    name = f"Balanced accuracy, {row['title']}, seed {first['seed']}"
    epochs = [int(one["epoch"]) for one in curve]
    best = first["best_epoch"] if row["recipe"]["early_stopping"] else None
    drawn = plots.learning_curves(epochs, *series, best_epoch=best, name=name, as_percent=True)
    return Markup(drawn)  # noqa: S704 - serialised by ElementTree, which escapes
