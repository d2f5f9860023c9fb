"""What the pages show of an audit: its findings by kind, each with a few pictures, copies side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from steadylens.data.findings import Finding, Suggestion
from steadylens.data.folders import shown
from steadylens.report.thumbnails import Thumbnail

TITLES = {
    "leakage": "The same file in two splits",
    "near-leakage": "Almost the same image in two splits",
    "conflicting-label": "One image under two labels",
    "label": "Labels that look wrong",
    "refused": "Files that cannot be used",
    "empty-class": "Classes without images",
    "similar-classes": "Classes that are spelt alike",
    "tiny-class": "Classes with few images",
    "groups": "Files that may belong together",
    "imbalance": "Classes of very different size",
    "blank": "Blank images",
    "dark": "Almost black images",
    "light": "Almost white images",
    "duplicate": "Copies",
    "near-duplicate": "Almost copies",
    "outlier": "Images unlike all others",
    "blurred": "Blurred images",
    "grey": "Grey among colour",
    "odd-size": "Unusual sizes",
    "odd-shape": "Unusual shapes",
    "animated": "Animated images",
    "dropped": "Left out by fixes",
    "stray-file": "Other files",
}
_SETS, _IN_SET, _OF_ONE = 9, 6, 24  # of one finding: sets, files of each, and pictures in all
_OF_A_KIND, _IN_ALL = 96, 400  # pictures of one kind, and on the page: some 2 MB
_OPEN_FINDINGS = 5  # of one kind; further ones are folded
_LISTED = 200  # paths of a finding that are listed; audit.json and fixes.csv have all


@dataclass(frozen=True, slots=True)
class Pictured:
    """A file of a finding: its picture where there is one, and what is suggested for it in words."""

    thumbnail: Thumbnail
    suggestion: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A finding as a page shows it; `more_sets` and `more_paths` are left out, `paths` is what the folded list has."""

    finding: Finding
    sets: tuple[tuple[Pictured, ...], ...]
    loose: tuple[Pictured, ...]
    paths: tuple[str, ...]
    more_sets: int
    more_paths: int

    @property
    def all_pictured(self) -> bool:
        """Whether every file has its picture, so that a list would say nothing new."""
        return sum(map(len, self.sets)) + len(self.loose) == len(self.finding.paths)


@dataclass(frozen=True, slots=True)
class Kind:
    """The findings of one kind, under a title; further ones are folded."""

    kind: str
    title: str
    files: int
    open: tuple[Shown, ...]
    folded: tuple[Shown, ...]


def findings_of(rows: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Findings as audit.json has them."""
    return [
        Finding(
            kind=str(row["kind"]),
            text=str(row["text"]),
            sure=row["sure"],
            advice=str(row["advice"]),
            paths=tuple(row.get("paths") or ()),
            sets=tuple(map(tuple, row.get("sets") or ())),
            suggestions=tuple(Suggestion(**one) for one in row.get("suggestions") or ()),
        )
        for row in rows
    ]


def paths_to_draw(findings: Sequence[Finding]) -> list[str]:
    """The files whose pictures a page shows, each once."""
    return list(dict.fromkeys(path for plan in _plans(findings) for one in plan for path in one))


def kinds_of(findings: Sequence[Finding], thumbnails: Sequence[Thumbnail], root: Path | None) -> list[Kind]:
    """The findings for a page, those of one kind together, in the order in which the kinds first occur.

    `root` is the folder that listed paths are relative to.
    """
    drawn = {one.path: one for one in thumbnails}
    order = {kind: place for place, kind in enumerate(dict.fromkeys(finding.kind for finding in findings))}
    ones = [_shown(finding, plan, drawn, root) for finding, plan in zip(findings, _plans(findings), strict=True)]
    ones.sort(key=lambda one: order[one.finding.kind])
    kinds = []
    for kind, group in groupby(ones, key=lambda one: one.finding.kind):
        members = tuple(group)
        files = len({path for one in members for path in one.finding.paths})
        kinds.append(Kind(kind, title_of(kind), files, members[:_OPEN_FINDINGS], members[_OPEN_FINDINGS:]))
    return kinds


def title_of(kind: str) -> str:
    """What a page calls a kind of finding."""
    return TITLES.get(kind, kind.replace("-", " ").capitalize())


def _plans(findings: Sequence[Finding]) -> Iterator[list[tuple[str, ...]]]:
    """For each finding the sets of files to picture, or its single files as a set each, within what a page can hold."""
    of_kind: dict[str, int] = {}
    in_all = 0
    for finding in findings:
        sets = [one[:_IN_SET] for one in finding.sets[:_SETS]] or [(path,) for path in finding.paths[:_OF_ONE]]
        plan: list[tuple[str, ...]] = []
        for one in sets:
            before = (sum(map(len, plan)), of_kind.get(finding.kind, 0), in_all)
            if any(n + len(one) > most for n, most in zip(before, (_OF_ONE, _OF_A_KIND, _IN_ALL), strict=True)):
                break
            plan.append(one)
            of_kind[finding.kind] = of_kind.get(finding.kind, 0) + len(one)
            in_all += len(one)
        yield plan


def _shown(finding: Finding, plan: Sequence[Sequence[str]], drawn: Mapping[str, Thumbnail], root: Path | None) -> Shown:
    suggested = {one.path: _in_words(one) for one in finding.suggestions}
    sets = [tuple(Pictured(drawn[path], suggested.get(path, "")) for path in one if path in drawn) for one in plan]
    sets = [one for one in sets if one]
    return Shown(
        finding=finding,
        sets=tuple(sets) if finding.sets else (),
        loose=() if finding.sets else tuple(picture for one in sets for picture in one),
        paths=tuple(shown(path, root) for path in finding.paths[:_LISTED]),
        more_sets=len(finding.sets) - len(sets) if finding.sets else 0,
        more_paths=max(0, len(finding.paths) - _LISTED),
    )


def _in_words(suggestion: Suggestion) -> str:
    return f"\u2192 {suggestion.new_class}" if suggestion.action == "relabel" else suggestion.action
