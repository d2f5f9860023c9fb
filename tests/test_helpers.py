"""Helpers do their part and no more, and none outlives what it works for."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadylens.errors import ResourceError
from steadylens.helpers import Part, helped, share_of_threads


def python(code: str) -> list[str]:
    """A command that takes the words which are added to it, and gives its number to `code`."""
    return [sys.executable, "-c", f"import sys, time, pathlib; number = sys.argv[2]; {code}"]


@given(st.integers(0, 40), st.integers(1, 12))
def test_all_parts_together_are_the_whole_and_nothing_is_done_twice(pieces: int, of: int) -> None:
    work = list(range(pieces))
    parts = [list(Part(number, of).of_all(work)) for number in range(of)]
    assert sorted(piece for part in parts for piece in part) == work
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert [Part(number, of).is_helper for number in range(of)] == [False] + [True] * (of - 1)


@pytest.mark.parametrize(("of", "share"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_processes_share_the_threads(of: int, share: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with share_of_threads(Part(0, of)):
            assert torch.get_num_threads() == share
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_helpers_are_numbered_and_waited_for(tmp_path: Path) -> None:
    slow = python(f"time.sleep(0.2); pathlib.Path({str(tmp_path)!r}, number).touch()")
    with helped(slow, Part(0, 3)) as at_work:
        assert at_work()
    assert {path.name for path in tmp_path.iterdir()} == {"1", "2"}
    assert not at_work()


def test_neither_a_helper_nor_one_alone_has_any(tmp_path: Path) -> None:
    for part in (Part(), Part(1, 2)):
        with helped(python(f"pathlib.Path({str(tmp_path)!r}, number).touch()"), part) as at_work:
            assert not at_work()
    assert not list(tmp_path.iterdir())


def test_a_helper_that_fails_is_an_error() -> None:
    with pytest.raises(ResourceError, match="ended with exit code 3"), helped(python("sys.exit(3)"), Part(0, 2)):
        pass


def test_no_helper_outlives_a_failure(tmp_path: Path) -> None:
    late = python(f"time.sleep(60); pathlib.Path({str(tmp_path)!r}, number).touch()")
    begin = time.monotonic()
    with pytest.raises(ZeroDivisionError), helped(late, Part(0, 3)) as at_work:
        raise ZeroDivisionError
    assert time.monotonic() - begin < 30
    assert not at_work()
    assert not list(tmp_path.iterdir())
