"""What the audit says: findings, each with what was found, in which files, how sure that is and what to do."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

Sure = Literal["certain", "likely", "possible"]
Action = Literal["keep", "drop", "relabel"]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """What could be done about one file; `new_class` is given where the action is "relabel", else ""."""

    path: str
    action: Action
    new_class: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that the audit says.

    Attributes:
        kind: one word for what it is, such as "duplicate" or "leakage".
        text: what was found, in a sentence.
        sure: "certain" where nothing is guessed, "likely" where few such findings are wrong, else "possible".
        advice: what to do about it, in a sentence.
        paths: the files meant, as the index names them.
        sets: where files belong together (copies of one image, frames of one film), the paths of each set.
        suggestions: for files of `paths`, what could be done about each; for all, some or none of them.
    """

    kind: str
    text: str
    sure: Sure
    advice: str
    paths: tuple[str, ...] = ()
    sets: tuple[tuple[str, ...], ...] = ()
    suggestions: tuple[Suggestion, ...] = ()

    def sentence(self) -> str:
        """What was found, how sure that is, and what to do, for a line of text."""
        return f"{self.text} {self.sure.capitalize()}. {self.advice}"


def on_sets(
    paths: Sequence[str],
    kind: str,
    text: str,
    sure: Sure,
    advice: str,
    sets: Iterable[Iterable[int]],
    suggestions: tuple[Suggestion, ...] = (),
) -> Finding:
    """A finding on sets of rows that belong together; `paths` are those of all images, by row."""
    together = tuple(tuple(paths[row] for row in rows) for rows in sets)
    return Finding(kind, text, sure, advice, tuple(chain(*together)), together, suggestions)


def surplus(sets: Sequence[Sequence[str]]) -> tuple[Suggestion, ...]:
    """The suggestion to drop all but the first file of each set."""
    return tuple(Suggestion(path, "drop") for one in sets for path in one[1:])


@dataclass(frozen=True, slots=True)
class AppliedFixes:
    """What a file of fixes came to.

    Attributes:
        file: its name.
        dropped: images that are not used because of it.
        relabelled: images that it gave another class.
        kept: (path, kind) of every finding that is not to be made again; paths are relative, as people see them.
        idle: rows on files that are not used anyway.
    """

    file: str
    dropped: int
    relabelled: int
    kept: frozenset[tuple[str, str]]
    idle: int = 0

    def sentence(self) -> str:
        """What was done, in numbers."""
        kept = len(self.kept)
        told = (
            f"{self.file}: {self.dropped:,} {'image' if self.dropped == 1 else 'images'} dropped, "
            f"{self.relabelled:,} relabelled, {kept:,} {'finding' if kept == 1 else 'findings'} kept as known."
        )
        return told + (f" {self.idle:,} of its rows are about files that are not used anyway." if self.idle else "")

    @property
    def drop_reason(self) -> str:
        """Why a dropped image is refused."""
        return f"dropped by {self.file}"


# From what makes a model or its figures wrong to what is only worth knowing; kinds that are not here come after those
# that are, and within a kind the surer finding comes first.
_MOST_SERIOUS_FIRST = (
    *("leakage", "near-leakage", "conflicting-label", "label", "refused", "empty-class", "similar-classes"),
    *("tiny-class", "groups", "imbalance", "blank", "dark", "light", "near-duplicate", "duplicate", "outlier"),
    *("blurred", "grey", "odd-size", "odd-shape", "animated"),
)
_LAST = ("dropped", "stray-file")
_SUREST_FIRST = ("certain", "likely", "possible")


def by_seriousness(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings, most serious first; equally serious ones stay in their order."""
    order = {kind: place for place, kind in enumerate(_MOST_SERIOUS_FIRST)} | dict.fromkeys(_LAST, 1000)
    return tuple(sorted(findings, key=lambda one: (order.get(one.kind, 999), _SUREST_FIRST.index(one.sure))))


def without_kept(
    findings: Iterable[Finding], kept: Container[tuple[str, str]], shown: Callable[[str], str]
) -> Iterator[Finding]:
    """The findings without the files that a person has looked at and kept; their text says how many those are.

    Args:
        findings: of any kinds.
        kept: (path as people see it, kind) of what is not to be found again.
        shown: a path as people see it.
    """
    for finding in findings:
        known = {path for path in finding.paths if (shown(path), finding.kind) in kept}
        if not known:
            yield finding
            continue
        sets = tuple(tuple(path for path in one if path not in known) for one in finding.sets)
        sets = tuple(one for one in sets if len(one) > 1)
        together = {path for one in sets for path in one}
        # A file of a set that is left alone has nothing to be compared with any more.
        left = tuple(path for path in finding.paths if (path in together if finding.sets else path not in known))
        still = set(left)
        if left:
            yield replace(
                finding,
                text=f"{finding.text} {len(known)} of these files {'is' if len(known) == 1 else 'are'} kept by fixes.",
                paths=left,
                sets=sets,
                suggestions=tuple(one for one in finding.suggestions if one.path in still),
            )
