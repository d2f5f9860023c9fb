"""What the audit says: findings, each with what was found, in which files, how sure that is and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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


def surplus(sets: Sequence[Sequence[str]]) -> tuple[Suggestion, ...]:
    """The suggestion to drop all but the first file of each set."""
    return tuple(Suggestion(path, "drop") for one in sets for path in one[1:])
