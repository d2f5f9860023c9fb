"""fixes.csv: what the audit suggests, one row a file and finding, to be edited in a spreadsheet and fed back."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ParamSpec

import numpy as np

from steadylens.data.findings import AppliedFixes, Finding
from steadylens.data.folders import shown
from steadylens.data.sources import ImageIndex, drop_refused
from steadylens.errors import ConfigError, DataError

_Given = ParamSpec("_Given")
COLUMNS = ("path", "class", "finding", "sure", "action", "new_class")
ACTIONS = ("drop", "relabel", "keep")
# Findings on whole classes, and on files that are not used anyway: there is nothing to decide about single files.
_NOT_ABOUT_FILES = {"refused", "dropped", "empty-class", "tiny-class", "imbalance", "groups", "stray-file"}
_MOST_ERRORS = 20
# Spreadsheets take a cell that begins with one of these for a formula (OWASP, CSV injection). An apostrophe before it
# makes it text; one that is there already gets another, so that reading gives back what was written.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
_GUARDED = re.compile(r"'+[=+\-@\t\r\n]")


@dataclass(frozen=True, slots=True)
class Fix:
    """One row: what a person decided about one file and one finding; `action` is "" where nothing was decided."""

    line: int
    path: str
    finding: str
    action: str
    new_class: str


def fixes_csv(findings: Iterable[Finding], index: ImageIndex) -> str:
    """The findings as rows of a CSV with `COLUMNS`, most serious first, with what is suggested as the action.

    A file gets one action, from its most serious finding, and no suggestions together drop a whole set of copies.
    """
    about = [finding for finding in findings if finding.kind not in _NOT_ABOUT_FILES]
    class_of = {path: index.classes[label] for path, label in zip(index.paths, index.labels.tolist(), strict=True)}
    actions = _compatible(about)
    content = io.StringIO(newline="")
    content.write("\ufeff")  # without it, Excel reads names that are not ASCII wrongly
    writer = csv.writer(content)
    writer.writerow(COLUMNS)
    for finding in about:
        for path in dict.fromkeys(finding.paths):
            action, new_class = actions.get((path, finding.kind), ("", ""))
            row = (shown(path, index.root), class_of.get(path, ""), finding.kind, finding.sure, action, new_class)
            writer.writerow(map(_guard, row))
    return content.getvalue()


def read_fixes(file: Path) -> list[Fix]:
    """The rows of a CSV of fixes, as a spreadsheet may have saved it: with a byte order mark, semicolons or tabs.

    The columns `path` and `action` are needed, `new_class` to relabel and `finding` to keep; others are passed over.

    Raises:
        ConfigError: it cannot be read, or a column is missing.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            text = opened.read()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not in UTF-8. Save it again as CSV with that encoding.") from error
    except OSError as error:
        raise ConfigError(f"The fixes {file} could not be read: {error.strerror or error}.") from error
    header = text.splitlines()[0] if text.strip() else ""
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [name.strip().casefold() for name in next(rows, [])]
        missing = [name for name in ("path", "action") if name not in columns]
        if missing:
            raise ConfigError(f"{file} lacks the columns {', '.join(missing)}: its first line must name them.")
        cells = [(rows.line_num, dict(zip(columns, map(_unguard, row), strict=False))) for row in rows if any(row)]
    except csv.Error as error:
        raise ConfigError(f"{file} is damaged in line {rows.line_num}: {error}. Save it again as CSV.") from error
    return [
        Fix(
            line,
            cell.get("path", ""),
            cell.get("finding", "").strip(),
            cell.get("action", "").strip().casefold(),
            cell.get("new_class", ""),
        )
        for line, cell in cells
    ]


def apply_fixes(index: ImageIndex, file: Path) -> ImageIndex:
    """Do to an index what a file of fixes says, before anything is decoded.

    "drop" makes an image a refusal, "relabel" gives it another of the classes there are, "keep" has the finding of
    that row not be made again for this file, and a row without an action changes nothing. The index tells what was
    done in `fixes` and in its notes.

    Raises:
        ConfigError: names every row that cannot be followed, with its line.
        DataError: fewer than two classes are left.
    """
    fixes = read_fixes(file)
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, path in enumerate(index.paths):
        rows_of[shown(path, index.root)].append(row)
    known = {*rows_of, *(refusal.path for refusal in index.refusals), *index.stray_files}
    wrong = sorted({*_wrong_rows(fixes, index.classes, known), *_contradictions(fixes)})
    if wrong:
        listed = "\n".join(f"  line {line}: {what}" for line, what in wrong[:_MOST_ERRORS])
        more = f"\n  and {len(wrong) - _MOST_ERRORS} more" if len(wrong) > _MOST_ERRORS else ""
        raise ConfigError(f"{file} cannot be followed; correct these rows, or take them out:\n{listed}{more}")
    moves = {row: fix.new_class for fix in fixes if fix.action == "relabel" for row in rows_of.get(fix.path, ())}
    drops = sorted({row for fix in fixes if fix.action == "drop" for row in rows_of.get(fix.path, ())})
    moved = {row: name for row, name in moves.items() if index.classes[index.labels[row]] != name}
    kept = frozenset((fix.path, fix.finding) for fix in fixes if fix.action == "keep")
    idle = sum(fix.action in ("drop", "relabel") and fix.path not in rows_of for fix in fixes)
    applied = AppliedFixes(file.name, len(drops), len(moved), kept, idle)
    index = _relabelled(index, moved, file.name)
    index = drop_refused(index, dict.fromkeys(drops, applied.drop_reason))
    return replace(index, fixes=applied, notes=(*index.notes, applied.sentence()))


def with_fixes(read: Callable[_Given, ImageIndex], file: Path | str | None) -> Callable[_Given, ImageIndex]:
    """What reads an index, followed by the fixes of a file; without a file, as it is.

    Raises:
        ConfigError: the file cannot be read: told at once, before any image is read.
    """
    if file is None:
        return read
    read_fixes(Path(file))
    return lambda *given, **named: apply_fixes(read(*given, **named), Path(file))


def _compatible(findings: Sequence[Finding]) -> dict[tuple[str, str], tuple[str, str]]:
    """The suggestions by (path, kind), as (action, new class), without those that contradict more serious ones."""
    sets = [one for finding in findings for one in finding.sets]
    left = [len(one) for one in sets]  # files of each set that are not dropped
    sets_of: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(sets):
        for path in one:
            sets_of[path].append(number)
    chosen: dict[str, tuple[str, str]] = {}
    actions: dict[tuple[str, str], tuple[str, str]] = {}
    for finding in findings:
        for suggestion in finding.suggestions:
            path, what = suggestion.path, (suggestion.action, suggestion.new_class)
            if path not in chosen and suggestion.action == "drop":
                if any(left[number] < 2 for number in sets_of[path]):
                    continue
                for number in sets_of[path]:
                    left[number] -= 1
            if chosen.setdefault(path, what) == what:
                actions[path, finding.kind] = what
    return actions


def _wrong_rows(fixes: Sequence[Fix], classes: Sequence[str], known: set[str]) -> Iterator[tuple[int, str]]:
    for fix in fixes:
        if fix.path not in known:
            yield fix.line, f"there is no image {fix.path!r} in the data"
        if fix.action and fix.action not in ACTIONS:
            near = difflib.get_close_matches(fix.action, ACTIONS, 1)
            meant = f" (did you mean {near[0]}?)" if near else ""
            yield fix.line, f"the action must be {', '.join(ACTIONS)} or empty. Got {fix.action!r} instead{meant}"
        if fix.action == "relabel" and fix.new_class not in classes:
            near = difflib.get_close_matches(fix.new_class, classes, 1, cutoff=0.5)
            meant = f" (did you mean {near[0]!r}?)" if near else ""
            asked = f"Got {fix.new_class!r} instead" if fix.new_class else "It is empty"
            yield fix.line, f"new_class must be one of the classes there are. {asked}{meant}"
        if fix.action == "keep" and not fix.finding:
            yield fix.line, "keep needs the finding that is not to be made again, such as duplicate"


def _contradictions(fixes: Sequence[Fix]) -> Iterator[tuple[int, str]]:
    """Rows on one file that cannot all be followed: only keep and relabel go together, for different findings."""
    by_path: dict[str, list[Fix]] = defaultdict(list)
    for fix in fixes:
        if fix.action:
            by_path[fix.path].append(fix)
    for path, rows in by_path.items():
        for later in rows[1:]:
            earlier = next((fix for fix in rows if fix.line < later.line and _contradict(fix, later)), None)
            if earlier is not None:
                yield later.line, f"{_said(later)} {path!r}, but line {earlier.line} says {_said(earlier)}"


def _contradict(one: Fix, other: Fix) -> bool:
    if one.action == other.action:
        return one.action == "relabel" and one.new_class != other.new_class
    return "drop" in (one.action, other.action) or one.finding == other.finding


def _said(fix: Fix) -> str:
    return f"relabel as {fix.new_class!r}" if fix.action == "relabel" else fix.action


def _relabelled(index: ImageIndex, moved: Mapping[int, str], file: str) -> ImageIndex:
    """Give rows another class; a class that loses all its images that way is no class any more, and a note says so."""
    if not moved:
        return index
    labels = index.labels.copy()
    for row, name in moved.items():
        labels[row] = index.classes.index(name)
    sizes = np.bincount(labels, minlength=len(index.classes))
    left = np.flatnonzero(sizes)
    emptied = [f"All images of the class {index.classes[i]!r} were relabelled by {file}: it is no class any more."
               for i in np.flatnonzero(sizes == 0)]  # fmt: skip
    if len(left) < index.fewest_classes:
        raise DataError(f"With {file} all images are in one class, {index.classes[left[0]]!r}: two are needed.")
    return replace(
        index,
        classes=tuple(index.classes[label] for label in left),
        labels=np.searchsorted(left, labels),
        notes=(*index.notes, *emptied),
    )


def _guard(cell: str) -> str:
    return f"'{cell}" if _FORMULA.match(cell) else cell


def _unguard(cell: str) -> str:
    return cell[1:] if _GUARDED.match(cell) else cell
