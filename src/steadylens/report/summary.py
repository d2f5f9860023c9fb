"""What a run, an evaluation or an audit says in a terminal."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steadylens.data.findings import Finding
from steadylens.data.folders import printable, shown
from steadylens.data.images import Refusal
from steadylens.deployment.predictor import Prediction
from steadylens.report.audit_section import title_of

_HEADLINES = ("balanced_accuracy", "worst_class_recall", "accuracy", "macro_f1", "log_loss", "balanced_log_loss", "ece")
_SHOWN_CLASSES = 10
_COLUMNS, _LISTED_CLASSES, _LISTED_FINDINGS, _LISTED_FILES = 100, 20, 4, 3


def summary(run: Path, report: Mapping[str, Any]) -> str:
    """The end of a run: the figures on the test split, the verdict, and where everything is."""
    diagnosis = report["diagnosis"]
    return "\n".join(
        [
            scores_table(report["test"]),
            "",
            f"{diagnosis['verdict'].capitalize()}: {diagnosis['text']}",
            "",
            f"report   {run / 'report.html'}",
            f"model    {run / 'model'}",
            f"next     {shlex.join(['steadylens', 'predict', str(run)])} IMAGE...",
        ]
    )


def audit_summary(report: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """An audit in at most 100 columns: images of each class, the findings, most serious first, and where all is."""
    folder, data = Path(report["folder"]), Path(report["data"])
    return "\n".join(
        [
            *_class_lines(report),
            "",
            *(["What was found, the most serious first:"] if findings else ["The audit found nothing to report."]),
            *(line for kind in _by_kind(findings) for line in _kind_lines(kind, data)),
            "",
            f"page     {folder / 'audit.html'}",
            f"fixes    {folder / 'fixes.csv'}",
            f"next     edit the column action of fixes.csv, then train with --fixes {folder / 'fixes.csv'}",
        ]
    )


def _class_lines(report: Mapping[str, Any]) -> list[str]:
    counts = sorted(report["per_class"].items(), key=lambda item: (-item[1], item[0]))
    most, width = counts[0][1], min(30, max(len(_one_line(name)) for name, _ in counts))
    lines = [
        f"{report['images']:,} images in {len(counts):,} classes; {report['refused']:,} "
        f"{'image was' if report['refused'] == 1 else 'images were'} not used.",
        *(
            f"  {_shortened(name, width):<{width}} {number:>9,}  {'#' * max(1, round(40 * number / most))}"
            for name, number in counts
        ),
    ]
    if len(counts) > _LISTED_CLASSES:
        head, tail = 1 + _LISTED_CLASSES // 2, _LISTED_CLASSES // 2
        lines[head:-tail] = [f"  and {len(counts) - _LISTED_CLASSES:,} more between these"]
    return [*lines, *(line for note in report["notes"] for line in _wrapped(note, "  ", ""))]


def _by_kind(findings: Sequence[Finding]) -> list[list[Finding]]:
    kinds: dict[str, list[Finding]] = {}
    for finding in findings:
        kinds.setdefault(finding.kind, []).append(finding)
    return list(kinds.values())


def _kind_lines(findings: Sequence[Finding], root: Path) -> list[str]:
    """Findings of one kind: each with how sure it is and a few of its files, the advice once where it is the same."""
    title = title_of(findings[0].kind)
    lines = ["", f"{title} ({findings[0].kind})"]
    listed = findings[:_LISTED_FINDINGS]
    for number, finding in enumerate(listed):
        lines += _wrapped(finding.text, f"  {finding.sure + ':':<10}", " " * 12)
        lines += [f"            {_one_line(line)}" for line in _file_lines(finding, root)]
        if number + 1 == len(listed) or listed[number + 1].advice != finding.advice:
            lines += _wrapped(finding.advice, "  to do:   ", " " * 12)
    if len(findings) > len(listed):
        lines.append(f"  and {len(findings) - len(listed):,} more of this kind")
    return lines


def _file_lines(finding: Finding, root: Path) -> list[str]:
    """A few files, or sets of files that belong together, each on a line."""
    files = [_joined([shown(path, root) for path in one]) for one in finding.sets[:_LISTED_FILES]]
    files = files or [shown(path, root) for path in finding.paths[:_LISTED_FILES]]
    more = len(finding.sets or finding.paths) - len(files)
    return files + ([f"and {more:,} more"] if more > 0 else [])


def _joined(paths: Sequence[str]) -> str:
    """As many paths as fit on a line, and at least two."""
    for number in range(min(len(paths), _COLUMNS // 4), 2, -1):
        line = " = ".join(paths[:number]) + ("" if number == len(paths) else " = ...")
        if len(line) <= _COLUMNS - 12:
            return line
    return " = ".join(paths[:2]) + ("" if len(paths) <= 2 else " = ...")


def _wrapped(text: str, first: str, others: str) -> list[str]:
    return textwrap.wrap(
        _one_line(text), _COLUMNS, initial_indent=first.ljust(len(others)), subsequent_indent=others or first,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def _one_line(text: str) -> str:
    """Text without what would break a line or steer a terminal: a file name may hold anything."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _shortened(name: str, width: int) -> str:
    name = _one_line(name)
    return name if len(name) <= width else name[: width - 3] + "..."


def scores_table(scores: Mapping[str, Any]) -> str:
    """The headline figures with their 95 % intervals, and the classes that are found least."""
    lines = [f"On {scores['n']:,} test images, with 95 % intervals:"]
    for name in _HEADLINES:
        figure = scores[name]
        label = name.replace("_", " ")
        if name == "worst_class_recall":
            label += f" ({scores['worst_class']})"
        value, low, high = (_shown(name, figure[key]) for key in ("value", "low", "high"))
        lines.append(f"  {label:<32} {value}  [{low.strip()}, {high.strip()}]")
    known = [row for row in scores["per_class"] if row["recall"] is not None]
    known.sort(key=lambda row: row["recall"])
    lines.append(
        "  recall by class: " + ", ".join(f"{row['class']} {row['recall']:.0%}" for row in known[:_SHOWN_CLASSES])
    )
    if len(known) > _SHOWN_CLASSES:
        lines[-1] += f" and {len(known) - _SHOWN_CLASSES} better ones"
    return "\n".join(lines)


def _shown(name: str, value: float) -> str:
    return f"{value:7.3f}" if "log_loss" in name else f"{value:7.1%}"


def answer_row(path: str, answer: Prediction | Refusal) -> dict[str, Any]:
    """What a model says of one image, as JSON."""
    shown = printable(path)  # a file name may hold bytes that are not Unicode
    if isinstance(answer, Refusal):
        return {"path": shown, "refusal": answer.reason}
    named = {"label": answer.label, "class": answer.class_name, "probability": answer.probability}
    return {"path": shown, **named, "probabilities": answer.probabilities}


def answer_line(path: str, answer: Prediction | Refusal) -> str:
    """What a model says of one image, as a line of fields between tabs."""
    if isinstance(answer, Refusal):
        return f"{printable(path)}\trefused\t{answer.reason}"
    return f"{printable(path)}\t{answer.class_name}\t{answer.probability:.4f}"
