"""The audit alone: images are read, decoded and looked at, and nothing is trained that stays."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from steadylens import files
from steadylens.config import TIMM, Config
from steadylens.console import Console
from steadylens.data.audit import unless_kept
from steadylens.data.batches import LabelledPixels
from steadylens.data.duplicates import NearDuplicates
from steadylens.data.findings import Finding, by_seriousness
from steadylens.data.images import Preprocessing
from steadylens.data.sources import ImageIndex, Tally
from steadylens.data.split import units_of
from steadylens.data.store import Store
from steadylens.errors import ConfigError
from steadylens.evaluation.labels import check_all
from steadylens.preparation import Stopwatch, audited, decoded, indexed
from steadylens.report import contents, run_folder
from steadylens.report.audit_page import write_audit_page
from steadylens.report.audit_section import paths_to_draw
from steadylens.report.thumbnails import draw_thumbnails
from steadylens.training.resolution import choose_image_size

LABELS_BUDGET_S = 360.0  # of the whole audit, where labels are checked and no budget is given
PAGE_S = 5.0  # set aside for the pictures and the page


@dataclass(frozen=True)
class Audit:
    """A finished audit: its folder, what audit.json in it says, and the findings, the most serious first."""

    folder: Path
    report: dict[str, Any]
    findings: tuple[Finding, ...]


def inspect(
    read: Callable[[Tally], ImageIndex],
    folder: Path,
    config: Config,
    *,
    labels: bool,
    train_command: str,
    console: Console | None = None,
    stopwatch: Stopwatch | None = None,
) -> Audit:
    """Read, decode and audit images, and write what was found: audit.html, audit.json and fixes.csv.

    Args:
        read: gives the index of the images (see `data.sources`).
        folder: to make; it must not exist, or be empty.
        config: of which the image size is used; where labels are checked, all of it.
        labels: whether to look for wrong labels, which takes the config's budget: networks are trained for it.
        train_command: that trains on the same images, for the page; the fixes are added to it.
        console: where progress goes; None is nowhere.
        stopwatch: already running, where start-up is to count towards the budget.

    Raises:
        SteadylensError: see `errors`.
    """
    unused = config.given - {"image_size"}
    if unused and not labels:
        raise ConfigError(f"Networks are trained only to check labels: without --labels there is no {min(unused)}.")
    if config.network.startswith(TIMM) or config.weights is not None:
        raise ConfigError("Labels are checked with networks trained from scratch: leave network and weights out.")
    if config.refit:
        raise ConfigError("An audit keeps no network that could be trained again: leave refit out.")
    console, watch = console or Console(quiet=True), stopwatch or Stopwatch()
    run_folder.require_free(folder)
    index = indexed(read, console, watch)
    rows = index.but_test()
    size, _ = choose_image_size(config, index.widths[rows], index.heights[rows])
    store = decoded(index, Preprocessing(size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)), console, watch)
    index = store.index
    near, findings = audited(store, console, watch)
    if labels:
        findings = _with_labels(store, near, findings, config, console, watch)
    with console.stage("Writing the page"):
        run_folder.claim(folder)
        report = contents.audit_block(index, findings, folder)
        thumbnails = draw_thumbnails(index, store.pixels, paths_to_draw(findings))
        command = f"{train_command} --fixes {shlex.quote(str(folder / 'fixes.csv'))}"
        run_folder.write_fixes(folder, findings, index)
        files.write_json(folder / "audit.json", report)
        write_audit_page(folder, report, findings, thumbnails, command)
    return Audit(folder, report, findings)


def _with_labels(
    store: Store,
    near: NearDuplicates,
    findings: tuple[Finding, ...],
    config: Config,
    console: Console,
    watch: Stopwatch,
) -> tuple[Finding, ...]:
    """Add what networks say of the labels of images that they were not trained on."""
    index, rows = store.index, np.arange(len(store.index))
    budget = config.budget or (None if config.epochs else LABELS_BUDGET_S)
    with console.stage("Checking labels") as advance:
        found = check_all(
            LabelledPixels(store.pixels, rows, index.labels),
            units_of(index, rows, near.clusters),
            index.classes,
            index.paths,
            config,
            seconds=None if budget is None else max(0.0, budget - watch.elapsed() - PAGE_S),
            on_progress=lambda share: advance(share, "training networks on parts of the images"),
        )
    return by_seriousness((*findings, *unless_kept(found, index)))
