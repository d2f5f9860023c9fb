"""What names give away: classes that are spelt alike, and files that a common beginning marks as one group."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import PurePath

import numpy as np

from steadylens.data.findings import Finding, Suggestion, Sure
from steadylens.data.sources import ImageIndex

# A class is small beside another with this share of its images or less. A slip of the pen happens to a few files; two
# classes that people mean to tell apart are rarely that uneven and spelt alike too.
SMALL_SHARE = 0.2
# Letters from which one letter's difference hardly ever makes another word; below, it often does: cat and car.
LONG_WORD = 6
# A class whose files have fewer different beginnings may be numbered by view, camera or year rather than by subject.
FEWEST_GROUPS = 3

# Spaces, underscores and hyphens after a letter; a hyphen before a digit may be a minus sign and stays.
_SEPARATORS = re.compile(r"(?<=[^\W\d_])(?:[\s_]|-(?!\d))+(?=\w)")
_NUMERAL = re.compile(r".{1,2}|.*\d.*|[ivxlc]+")
# A beginning, a separator, perhaps a short word such as "frame", and a counter. Ten digits and more are an identifier.
_COUNTED = re.compile(r"(.+?)[-_ .]+[a-z]{0,6}[-_ .]?\d{1,9}", re.IGNORECASE)


def similar_classes(index: ImageIndex) -> Iterator[Finding]:
    """Classes whose names look like two spellings of one.

    Names that are equal but for case and spaces are likely one class. Names that differ by a plural or by one slip (a
    letter left out, added, taken for another or swapped with its neighbour: four out of five spelling errors, Damerau
    1964) are likely one where one class is small and the name is long, and possibly one where either holds.
    """
    sizes = np.bincount(index.labels, minlength=len(index.classes)).tolist()
    for pair in _pairs(index.classes):
        small, large = sorted(pair, key=lambda label: (sizes[label], label))
        sure = _sure_of(index.classes[small], index.classes[large], sizes[small] <= SMALL_SHARE * sizes[large])
        if sure is not None:
            yield _similar(index, small, large, sizes[small], sizes[large], sure)


def groups_in_names(index: ImageIndex) -> Iterator[Finding]:
    """Files that share a beginning before a counter, such as `patient12_03.jpg`, in classes with several of them."""
    if any(index.groups) or index.arrays is not None:
        return
    beginnings = [_beginning(path) for path in index.paths]
    labels = index.labels.tolist()
    recurring: dict[int, Counter[str]] = defaultdict(Counter)
    for label, beginning in zip(labels, beginnings, strict=True):
        recurring[label][beginning] += 1
    sizes = np.bincount(index.labels, minlength=len(index.classes)).tolist()
    told = {label for label, counts in recurring.items() if _tell_groups(counts, sizes[label])}
    groups: dict[str, list[int]] = defaultdict(list)
    for row, (label, beginning) in enumerate(zip(labels, beginnings, strict=True)):
        if beginning and label in told:
            groups[beginning].append(row)
    several = {beginning: rows for beginning, rows in groups.items() if len(rows) > 1}
    if several:
        yield _groups(index, several, len(told))


def _pairs(names: tuple[str, ...]) -> list[tuple[int, int]]:
    """The pairs of classes that may be spelt alike: those that share a form; pairs of all classes are never formed."""
    by_form: dict[str, list[int]] = defaultdict(list)
    for label, name in enumerate(names):
        plain = _plain(name)
        for form in _singulars(plain).union(plain[:i] + plain[i + 1 :] for i in range(len(plain))) - {""}:
            by_form[form].append(label)
    return sorted({pair for labels in by_form.values() for pair in combinations(labels, 2)})


def _sure_of(small: str, large: str, uneven: bool) -> Sure | None:
    first, second = _plain(small), _plain(large)
    if first == second:
        return "likely"
    if _is_numbered(small, large) or min(len(first), len(second)) < 3:
        return None
    long = min(len(first), len(second)) >= LONG_WORD
    if _singulars(first) & _singulars(second):
        return "likely" if uneven else "possible"
    if _one_slip(first, second) and (long or uneven):
        return "likely" if long and uneven else "possible"
    return None


def _plain(name: str) -> str:
    """A name without case, without what separates its words, and in one of the encodings that Unicode has for it."""
    return _SEPARATORS.sub("", unicodedata.normalize("NFKC", name).casefold().strip(" \t_")) or name


def _singulars(plain: str) -> set[str]:
    """A word and what it may be the plural of."""
    forms = {plain}
    for ending, singular in (("ies", "y"), ("es", ""), ("s", "")):
        if plain.endswith(ending) and not plain.endswith("ss") and len(plain) > 3:
            forms.add(plain.removesuffix(ending) + singular)
    return forms


def _one_slip(first: str, second: str) -> bool:
    """Whether two different names are one letter left out, added, taken for another or swapped with the next apart.

    Not in the first letter, where slips are rare and prefixes that make another word are not: typical, atypical.
    """
    short, long = sorted((first, second), key=len)
    at = next((i for i, (a, b) in enumerate(zip(short, long, strict=False)) if a != b), len(short))
    if at == 0 or len(long) - len(short) > 1:
        return False
    if len(short) < len(long):
        return short[at:] == long[at + 1 :]
    swapped = long[:at] + long[at + 1] + long[at] + long[at + 2 :] if at + 1 < len(long) else ""
    return short[at + 1 :] == long[at + 1 :] or short == swapped


def _is_numbered(first: str, second: str) -> bool:
    """Whether the words in which two names differ are numbers, numerals or a letter or two: grade 2, type a, II."""
    words = [set(name.casefold().replace("_", " ").replace("-", " ").split()) for name in (first, second)]
    return any(_NUMERAL.fullmatch(word) for word in words[0] ^ words[1])


def _similar(index: ImageIndex, small: int, large: int, few: int, many: int, sure: Sure) -> Finding:
    name, other = index.classes[small], index.classes[large]
    text = f"The classes {name!r} ({few:,}) and {other!r} ({many:,}) are spelt almost alike."
    advice = f"If they are one class, move the images of {name!r} to {other!r}; if they are two, nothing."
    paths = tuple(index.paths[row] for row in np.flatnonzero(index.labels == small))
    moves = tuple(Suggestion(path, "relabel", other) for path in paths) if sure == "likely" else ()
    return Finding("similar-classes", text, sure, advice, paths, suggestions=moves)


def _beginning(path: str) -> str:
    """What stands before the counter at the end of a file's name, or "" where there is none."""
    found = _COUNTED.fullmatch(PurePath(path).stem)
    return found[1] if found else ""


def _tell_groups(counts: Counter[str], size: int) -> bool:
    """Whether a class has several beginnings that recur, and most of its files have one of them."""
    often = [count for beginning, count in counts.items() if beginning and count > 1]
    return len(often) >= FEWEST_GROUPS and 2 * sum(often) > size


def _groups(index: ImageIndex, groups: dict[str, list[int]], classes: int) -> Finding:
    files, examples = sum(map(len, groups.values())), " and ".join(map(repr, list(groups)[:2]))
    text = (
        f"{files:,} files of {classes} {'class' if classes == 1 else 'classes'} are named as {len(groups):,} groups, "
        f"such as {examples}, with a counter: perhaps the frames of one film, or the images of one subject."
    )
    across = sum(len({index.splits[row] for row in rows}) > 1 for rows in groups.values())
    if across:
        text += f" {across:,} of them lie in more than one of the given splits."
    advice = (
        "If so, give a manifest with a column named group: splits then keep each group together. Without it, figures "
        "come out too good, because test images have close relatives among those that are learnt."
    )
    sets = tuple(tuple(index.paths[row] for row in rows) for rows in groups.values())
    return Finding("groups", text, "possible", advice, tuple(path for one in sets for path in one), sets)
