"""A run's page: one offline HTML file that opens with a verdict."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from markupsafe import Markup

from steadylens import files
from steadylens.errors import DataError
from steadylens.report import figures, plots, tables
from steadylens.report.audit_section import Kind, findings_of, kinds_of
from steadylens.report.metrics_log import METRICS, read_metrics
from steadylens.report.selection_section import finished, trial_axes, trial_lines
from steadylens.report.templates import render
from steadylens.report.thumbnails import read_thumbnails
from steadylens.report.verdict import most_frequent_confusions, verdict_of

GROUPS = {  # in the order of the page
    "confident-wrong": "Wrong, and most sure of it",
    "wrong": "Wrong",
    "right": "Right",
}
_NEEDED = ("classes", "data", "selection", "training", "diagnosis", "test")
_WORST_SHOWN = 20  # rows of the per-class table that stay open where the classes are many
_ROWS_ON_A_SCREEN = 60  # a per-class table longer than this is folded
_CELLS_WITH_COUNTS = 25  # classes up to which the cells of the confusion matrix can hold their counts
_CONFUSIONS_LISTED = 15
_LONG_TAIL = 20  # imbalance from which small classes vanish on a linear scale
_PIXEL_ART = 64  # images narrower than this are shown with hard pixels, not blurred


@dataclass(frozen=True)
class Example:
    """One image of the test split that the page shows; `group` is "right", "wrong" or "confident-wrong"."""

    group: str
    png: bytes
    path: str
    true_class: str
    predicted_class: str
    probability: float


@dataclass(frozen=True)
class _Picture:
    """An example as the page shows it; `source` is a data URI, or "" where the PNG is gone."""

    source: str
    hard_pixels: bool
    place: tuple[str, ...]  # the last parts of its path: enough to find it, and no more of the disk than that
    true_class: str
    predicted_class: str
    probability: float


def write_page(run: Path, report: Mapping[str, Any] | None = None) -> Path:
    """(Re)write RUN/report.html from what is in RUN; nothing else is needed.

    Args:
        run: its folder.
        report: what report.json is going to say, where it is not written yet.

    Raises:
        DataError: report.json is missing, or a file that the page needs cannot be read.
        ResourceError: the page cannot be written.
    """
    shown = read_report(run) if report is None else json.loads(json.dumps(report))
    page = run / "report.html"
    files.write_bytes(page, render("template.html.j2", _context(run, shown)))
    return page


def save_examples(run: Path, examples: Sequence[Example]) -> None:
    """Write the examples and their list to RUN/examples, in place of those that were there.

    Raises:
        ResourceError: the folder cannot be written.
    """
    folder = run / "examples"
    files.remove(folder)
    files.make_folder(folder)
    rows = []
    for number, example in enumerate(examples):
        name = f"{number:03d}.png"
        files.write_bytes(folder / name, example.png)
        rows.append(
            {
                "file": name,
                "group": example.group,
                "path": example.path,
                "true_class": example.true_class,
                "predicted_class": example.predicted_class,
                "probability": example.probability,
            }
        )
    files.write_json(folder / "examples.json", rows)  # last: a list that exists is complete


def _context(run: Path, report: dict[str, Any]) -> dict[str, Any]:
    metrics = read_metrics(run / METRICS)
    varying, trials = tables.trial_rows(finished(report["selection"]))
    rows = tables.class_rows(report)
    folded = len(rows) > _ROWS_ON_A_SCREEN
    why = report["selection"].get("why") or {}
    return {
        "run_name": run.resolve().name,
        "report": report,
        "verdict": verdict_of(report),
        "cards": tables.cards(report),
        "curves": _curves(metrics, report["training"]),
        "epochs": metrics,
        "open_rows": rows[:_WORST_SHOWN] if folded else rows,
        "folded_rows": rows[_WORST_SHOWN:] if folded else [],
        "most_trained": max([row.train or 0 for row in rows], default=0),
        "examples": _pictures(run / "examples"),
        "groups": GROUPS,
        "findings": _findings(run),
        "selection_story": why.get("trials"),
        "trial_lines": trial_lines(report["selection"]),
        "trial_plots": _trial_plots(report["selection"]),
        "varying": varying,
        "trials": trials,
        "recipe": tables.recipe_rows(_read_json(run / "recipe.json", what="recipe") or {}, why),
        "count_plot": _count_plot(report["data"]),
        "reliability": _reliability(report),
        "calibration": report["test"].get("calibration") or report.get("calibration") or {},
        "abstention": report["test"].get("abstention") or report.get("abstention"),
        **_confusion(report),
    }


def _findings(run: Path) -> list[Kind] | None:
    """The audit's findings with their pictures, or None where the run has no audit."""
    rows = _read_json(run / "audit.json", what="audit")
    if rows is None:
        return None
    folder = run / "audit"
    saved = _read_json(folder / "thumbnails.json", what="list of thumbnails") or {"root": None, "pictures": []}
    root = Path(saved["root"]) if saved["root"] else None
    return kinds_of(findings_of(rows), read_thumbnails(folder, saved["pictures"]), root)


def _confusion(report: Mapping[str, Any]) -> dict[str, Any]:
    """The confusion matrix: cells with counts, or a picture and a list where the classes are many."""
    classes, confusion = report["classes"], report["test"].get("confusion") or []
    pairs = most_frequent_confusions(classes, confusion)
    shown: dict[str, Any] = {"cells": None, "heatmap": None, "confusions": pairs[:_CONFUSIONS_LISTED]}
    if not confusion:
        return shown
    if len(classes) <= _CELLS_WITH_COUNTS:
        return shown | {"cells": tables.confusion_cells(confusion)}
    name = f"Confusion matrix of {len(classes)} classes; the most frequent confusions are listed beside it"
    return shown | {"heatmap": Markup(plots.confusion_heatmap(tables.confusion_shares(confusion), name=name))}  # noqa: S704


def _curves(metrics: Sequence[Mapping[str, Any]], training: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """The learning curves of balanced accuracy and log-loss, each with its caption."""
    epochs = [int(line["epoch"]) for line in metrics]
    best = training.get("best_epoch")
    shown = []
    for key, name, as_percent in (
        ("balanced_accuracy", "Balanced accuracy", True),
        ("balanced_log_loss", "Balanced log-loss", False),
    ):
        series = {part: [figures.finite(line.get(f"{part}_{key}")) for line in metrics] for part in _PARTS}
        if any(value is not None for values in series.values() for value in values):
            svg = plots.learning_curves(epochs, *series.values(), best_epoch=best, name=name, as_percent=as_percent)
            shown.append((name, Markup(svg)))  # noqa: S704 - serialised by ElementTree, which escapes
    return shown


_PARTS = ("train", "validation")


def _trial_plots(selection: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Balanced accuracy of the trials along each axis, with its title."""
    return [
        (axis.title, Markup(plots.trials_plot(axis.names, axis.train, axis.validation, name=axis.title)))  # noqa: S704
        for axis in trial_axes(selection)
    ]


def _count_plot(data: Mapping[str, Any]) -> Markup | None:
    counts = data.get("per_class") or {}
    logarithmic = (figures.finite(data.get("imbalance_factor")) or 1.0) > _LONG_TAIL
    return Markup(plots.class_counts(counts, logarithmic=logarithmic)) if counts else None  # noqa: S704


def _reliability(report: Mapping[str, Any]) -> Markup | None:
    bins = report["test"].get("reliability") or report.get("reliability") or []
    if not any(one.get("count") for one in bins):
        return None
    name = "Share of answers that is right against the probability that was stated, with the images of each bin"
    return Markup(plots.reliability_diagram(bins, name=name))  # noqa: S704


def _pictures(folder: Path) -> dict[str, list[_Picture]]:
    """The examples by group; groups without any are absent."""
    shown: dict[str, list[_Picture]] = {}
    for row in _read_json(folder / "examples.json", what="list of examples") or []:
        png = _png(folder / PurePath(str(row["file"])).name)
        picture = _Picture(
            source=f"data:image/png;base64,{base64.b64encode(png).decode()}" if png else "",
            hard_pixels=_width(png) < _PIXEL_ART,
            place=PurePath(str(row["path"])).parts[-2:],
            true_class=row["true_class"],
            predicted_class=row["predicted_class"],
            probability=row["probability"],
        )
        shown.setdefault(str(row["group"]), []).append(picture)
    return shown


def _png(path: Path) -> bytes:
    """The bytes of a PNG, or none where the file is gone or is no PNG; the page then says so in its place."""
    content = path.read_bytes() if path.is_file() else b""
    return content if content.startswith(b"\x89PNG\r\n\x1a\n") else b""


def _width(png: bytes) -> int:
    """The width in pixels, which a PNG holds big-endian at byte 16 (ISO/IEC 15948, IHDR)."""
    return int(struct.unpack_from(">I", png, 16)[0]) if len(png) >= 20 else 0


def read_report(run: Path) -> dict[str, Any]:
    """What RUN/report.json says.

    Raises:
        DataError: it is missing or damaged, or lacks what every report has.
    """
    path = run / "report.json"
    report = _read_json(path, what="report")
    if report is None:
        what = f"{run} is not a finished run: it has no report.json."
        raise DataError(f"{what} Give the folder of a finished run.")
    missing = [name for name in _NEEDED if not (isinstance(report, dict) and report.get(name))]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}. Evaluate the run again to write it anew.")
    return dict(report)


def _read_json(path: Path, *, what: str) -> Any | None:  # noqa: ANN401 - any JSON value
    """The content of a JSON file, or None where it does not exist; NaN, which JSON lacks, is read as null."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError as error:
        raise DataError(f"{path}, the {what} of the run, is damaged: {error}. Run the training again.") from error
