"""RUN/: the folder that holds everything one run made."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from steadylens import files
from steadylens.config import Recipe
from steadylens.data.findings import Finding
from steadylens.data.fixes import fixes_csv
from steadylens.data.sources import ImageIndex
from steadylens.data.split import Splits
from steadylens.errors import ConfigError
from steadylens.report.contents import curve_row, recipe_block
from steadylens.report.metrics_log import METRICS
from steadylens.training.state import Epoch

CHECKPOINTS, INDEX = files.BEGUN.parent.name, "index.parquet"


def claim(run: Path) -> None:
    """Make the folder of a new run.

    Raises:
        ConfigError: there is something in it already.
    """
    require_free(run)
    files.make_folder(run)


def require_free(run: Path) -> None:
    """Raise a ConfigError where there is something in the folder already."""
    if not is_free(run):
        raise ConfigError(f"{run} exists already. Choose another folder with --out, or remove this one.")


def is_free(run: Path) -> bool:
    """Whether a run can begin in the folder: it is not there, or empty but for what a start leaves that was killed."""
    if not run.exists():
        return True
    return run.is_dir() and all(_is_trace_of_a_start(path) for path in run.iterdir())


def _is_trace_of_a_start(path: Path) -> bool:
    return path.name == files.LOCK or (path.name == CHECKPOINTS and path.is_dir() and not any(path.glob("[!.]*")))


def free_name(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist yet."""
    name, number = wanted, 1
    while name.exists():
        number += 1
        name = wanted.with_name(f"{wanted.name}-{number}")
    return name


def write_index(run: Path, index: ImageIndex, splits: Splits) -> None:
    """Write RUN/index.parquet: one row an image with its full path, those that were refused included."""
    buffer = io.BytesIO()
    pq.write_table(index_table(index, splits), buffer)
    files.write_bytes(run / INDEX, buffer.getvalue())


def index_table(index: ImageIndex, splits: Splits) -> pa.Table:
    """What RUN/index.parquet holds."""
    names = [""] * len(index)
    for name, rows in (("train", splits.train), ("validation", splits.validation), ("test", splits.test)):
        for row in rows:
            names[row] = name
    refused, root = index.refusals, index.root or Path()
    blank, unknown = [""] * len(refused), [None] * len(refused)
    return pa.table(
        {
            "path": pa.array([*index.paths, *(str(root / r.path) for r in refused)], pa.string()),
            "label": pa.array(
                [*(index.classes[i] for i in index.labels), *(r.class_name for r in refused)], pa.string()
            ),
            "split": pa.array([*names, *blank], pa.string()),
            "group": pa.array([*index.groups, *blank], pa.string()),
            "sha256": pa.array([*index.sha256, *blank], pa.string()),
            "width": pa.array([*index.widths.tolist(), *unknown], pa.int32()),
            "height": pa.array([*index.heights.tolist(), *unknown], pa.int32()),
            "refusal": pa.array([*([None] * len(index)), *(r.reason for r in refused)], pa.string()),
        }
    )


def write_audit(run: Path, findings: Sequence[Finding]) -> None:
    """Write RUN/audit.json: a list of findings."""
    files.write_json(run / "audit.json", [asdict(f) for f in findings])


def write_fixes(run: Path, findings: Sequence[Finding], index: ImageIndex) -> None:
    """Write RUN/fixes.csv: what could be done about each file, to be edited and given back with --fixes."""
    files.write_text(run / "fixes.csv", fixes_csv(findings, index))


def write_recipe(run: Path, recipe: Recipe) -> None:
    """Write RUN/recipe.json."""
    files.write_json(run / "recipe.json", recipe_block(recipe))


def append_epoch(run: Path, epoch: Epoch) -> None:
    """Append one line to RUN/metrics.jsonl."""
    files.append_line(run / METRICS, json.dumps(curve_row(epoch), allow_nan=False))


def write_metrics(run: Path, curve: Sequence[Mapping[str, Any]]) -> None:
    """Write RUN/metrics.jsonl anew."""
    files.write_text(run / METRICS, "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in curve))


def write_report(run: Path, report: Mapping[str, Any]) -> None:
    """Write RUN/report.json."""
    files.write_json(run / "report.json", report)
