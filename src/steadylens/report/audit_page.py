"""The page of an audit: one offline HTML file that opens with what to look at first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from steadylens import files
from steadylens.data.findings import Finding
from steadylens.report import plots
from steadylens.report.audit_section import kinds_of, title_of
from steadylens.report.templates import render
from steadylens.report.thumbnails import Thumbnail

# What makes a model learn something wrong, or its figures come out wrong, where it is more than possible.
_SPOILING = {"leakage", "near-leakage", "conflicting-label", "label", "empty-class", "similar-classes"}
# What needs no decision about the images.
_ONLY_TOLD = {"stray-file", "dropped", "imbalance", "animated"}
_LONG_TAIL = 20.0  # imbalance from which small classes vanish on a linear scale, as in a run's report


@dataclass(frozen=True, slots=True)
class Opening:
    """How the page opens: "good", "care" or "bad", a word for it, and a sentence."""

    tone: str
    label: str
    headline: str


def write_audit_page(
    folder: Path,
    document: Mapping[str, Any],
    findings: Sequence[Finding],
    thumbnails: Sequence[Thumbnail],
    next_command: str,
) -> Path:
    """Write FOLDER/audit.html.

    Args:
        folder: of the audit.
        document: what audit.json says.
        findings: most serious first.
        thumbnails: of the files that findings name.
        next_command: that trains on the data with the fixes.

    Raises:
        ResourceError: the page cannot be written.
    """
    page = folder / "audit.html"
    counts = document["per_class"]
    factor = max(counts.values()) / max(1, min(counts.values()))
    context = {
        "name": Path(str(document["data"])).name or str(document["data"]),
        "document": document,
        "opening": opening_of(findings),
        "kinds": kinds_of(findings, thumbnails, Path(str(document["data"]))),
        "next_command": next_command,
        "factor": factor,
        "count_plot": Markup(plots.class_counts(counts, logarithmic=factor > _LONG_TAIL)),  # noqa: S704
    }
    files.write_bytes(page, render("audit.html.j2", context))
    return page


def opening_of(findings: Sequence[Finding]) -> Opening:
    """What the findings come to, in one sentence."""
    sure = [one.kind for one in findings if one.sure != "possible"]
    spoiling = list(dict.fromkeys(kind for kind in sure if kind in _SPOILING))
    to_look_at = list(dict.fromkeys(one.kind for one in findings if one.kind not in _ONLY_TOLD))
    if spoiling:
        named = " and ".join(title_of(kind)[0].lower() + title_of(kind)[1:] for kind in spoiling[:2])
        return Opening("bad", "Put this right first", f"Before you train or trust a figure: {named}.")
    if to_look_at:
        first = title_of(to_look_at[0])
        named = first[0].lower() + first[1:]
        others = len(to_look_at) - 1
        also = f", and {others} more {'kind' if others == 1 else 'kinds'} of findings" if others else ""
        return Opening("care", "Worth a look", f"Nothing that spoils a training for certain. Look at: {named}{also}.")
    return Opening("good", "Ready to train", "The audit found nothing that stands in the way of training.")
