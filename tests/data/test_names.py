"""Names of classes that are spelt alike, and of files that form groups, on both sides of where they are told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from steadylens.data.findings import Finding, Suggestion
from steadylens.data.names import FEWEST_GROUPS, groups_in_names, similar_classes
from steadylens.data.sources import ImageIndex, index_arrays


def classes(**sizes: int) -> ImageIndex:
    return of_classes(sizes)


def of_classes(sizes: dict[str, int]) -> ImageIndex:
    labels = [name for name, size in sizes.items() for _ in range(size)]
    return index_arrays(np.zeros((len(labels), 1, 1), np.uint8), labels)


def sure(first: str, many: int, second: str, few: int) -> str | None:
    findings = list(similar_classes(of_classes({first: many, second: few})))
    return findings[0].sure if findings else None


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Cat", "cat"),
        ("cat", "cat "),
        ("red apple", "red_apple"),
        ("Stra\u00dfe", "strasse"),
        ("caf\u00e9", "cafe\u0301"),
    ],
)
def test_names_equal_but_for_case_and_spaces_are_likely_one_class(first: str, second: str) -> None:
    assert sure(first, 100, second, 100) == "likely"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("cardboard", "carboard"),  # left out
        ("cardboard", "cardbooard"),  # added
        ("cardboard", "cardbpard"),  # taken for another
        ("cardboard", "cadrboard"),  # swapped
        ("bottles", "bottle"),  # plural
        ("strawberry", "strawberries"),
    ],
)
def test_a_slip_in_a_long_name_is_likely_where_one_class_is_small(first: str, second: str) -> None:
    assert sure(first, 100, second, 20) == "likely"
    assert sure(first, 100, second, 21) == "possible"


@pytest.mark.parametrize(("first", "second"), [("cat", "car"), ("shirt", "skirt"), ("ship", "shop")])
def test_short_names_that_differ_in_a_letter_are_two_words_unless_one_class_is_small(first: str, second: str) -> None:
    assert sure(first, 100, second, 100) is None
    assert sure(first, 100, second, 20) == "possible"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("grade 2", "grade 3"),
        ("class001", "class002"),
        ("grade II", "grade III"),
        ("grade VII", "grade VIII"),
        ("type a", "type b"),
        ("typical", "atypical"),
        ("male", "female"),
        ("glass", "grass"),
        ("C++", "C#"),
        ("-1", "1"),
        ("age 1-5", "age 15"),
        ("metal", "plastic"),
        ("a", "b"),
    ],
)
def test_names_that_people_mean_to_differ(first: str, second: str) -> None:
    assert sure(first, 100, second, 100) is None
    if first != "glass":
        assert sure(first, 100, second, 5) is None


def test_a_likely_slip_suggests_to_move_the_small_class() -> None:
    (finding,) = similar_classes(classes(cardboard=50, carboard=2, paper=50))
    assert finding.paths == ("array[50]", "array[51]")
    assert finding.suggestions == tuple(Suggestion(path, "relabel", "cardboard") for path in finding.paths)
    assert "'carboard' (2) and 'cardboard' (50)" in finding.text
    (doubtful,) = similar_classes(classes(cat=50, car=5))
    assert doubtful.suggestions == ()


def test_many_classes_are_compared_without_all_pairs() -> None:
    names = {f"{3 * a}{3 * b}ranium": 1 for a in "abcdefghijklmnopqrst" for b in "abcdefghijklmnopqrst"}
    index = of_classes(names | {"geraniums": 1, "geranium": 30})
    (likely,) = [one for one in similar_classes(index) if one.sure == "likely"]
    assert "'geraniums'" in likely.text


def files(names: list[str], labels: list[str] | None = None, splits: list[str] | None = None) -> list[Finding]:
    labels = labels or ["a"] * len(names)
    index = index_arrays(np.zeros((len(names) + 1, 1, 1), np.uint8), [*labels, "z"])
    paths = tuple(f"/data/{label}/{name}" for name, label in zip([*names, "z.jpg"], [*labels, "z"], strict=True))
    return list(groups_in_names(replace(index, paths=paths, arrays=None, splits=(*(splits or [""] * len(names)), ""))))


@pytest.mark.parametrize("pattern", ["patient{}_{:02d}.jpg", "video{}-frame{:04d}.png", "{}-{}.jpg", "scene {} ({:d}"])
def test_files_with_a_beginning_and_a_counter_form_groups(pattern: str) -> None:
    names = [pattern.format(group, number) for group in range(10, 14) for number in range(5)]
    if "(" in pattern:
        assert files(names) == []  # numbers in brackets are how copies of a file are named
        return
    (finding,) = files(names)
    assert (finding.sure, len(finding.sets), {len(one) for one in finding.sets}) == ("possible", 4, {5})
    assert finding.paths == tuple(path for one in finding.sets for path in one)
    assert "20 files of 1 class" in finding.text
    assert "a column named group" in finding.advice


@pytest.mark.parametrize(
    "names",
    [
        [f"paper{i}.jpg" for i in range(30)],  # a counter alone
        [f"paper_{i}.jpg" for i in range(30)],  # one beginning
        [f"{side}_{i}.jpg" for side in ("left", "right") for i in range(15)],  # fewer beginnings than groups would have
        [f"f76c45fe-f4ec-4887-bb73-{i:05d}c922501.jpg" for i in range(30)],  # identifiers
        [f"n0144_{i}_{i * 7}.jpg" for i in range(30)],  # every beginning once
    ],
)
def test_names_that_form_no_groups(names: list[str]) -> None:
    assert files(names) == []


def test_groups_need_several_beginnings_and_most_files() -> None:
    def named(groups: int, others: int) -> list[str]:
        return [f"p{g}_{i}.jpg" for g in range(groups) for i in range(4)] + [f"x{i}.jpg" for i in range(others)]

    assert files(named(FEWEST_GROUPS - 1, 0)) == []
    assert len(files(named(FEWEST_GROUPS, 11))) == 1
    assert files(named(FEWEST_GROUPS, 12)) == []


def test_groups_across_given_splits_are_said_and_given_groups_are_not_offered_again() -> None:
    names = [f"p{g}_{i}.jpg" for g in range(4) for i in range(4)]
    splits = ["train", "train", "train", "test"] * 2 + ["train"] * 8
    (finding,) = files(names, splits=splits)
    assert "2 of them lie in more than one of the given splits" in finding.text
    (finding,) = files(names)
    assert "splits." not in finding.text
    index = index_arrays(np.zeros((16, 1, 1), np.uint8), ["a", "b"] * 8)
    paths = tuple(f"/data/a/{name}" for name in names)
    assert list(groups_in_names(replace(index, paths=paths, arrays=None, groups=("g",) * 16))) == []
