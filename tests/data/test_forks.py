"""Forked processes give all outcomes in order, and one that dies or hangs is told, with where it was."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from steadylens.data.forks import in_forks
from steadylens.data.reading import in_threads
from steadylens.errors import ResourceError

NAMES = [f"{i:03}.png" for i in range(100)]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forked processes here")


def run(function: Any, **how: Any) -> Iterator[Any]:  # noqa: ANN401
    return in_forks(function, NAMES, **{"doing": "decoding", "processes": 2, "piece": 8, **how})


def children() -> list[int]:
    """Processes that nobody has waited for."""
    try:
        return [os.waitpid(-1, os.WNOHANG)[0]]
    except ChildProcessError:
        return []


@pytest.mark.parametrize("piece", [1, 8, 1000])
@pytest.mark.parametrize("processes", [1, 3])
def test_outcomes_come_in_order(piece: int, processes: int) -> None:
    long = "x" * 70_000  # more than a pipe holds
    outcomes = run(lambda i: [i, long if i == 3 else ""], piece=piece, processes=processes)
    assert [outcome[0] for outcome in outcomes] == list(range(100))
    assert not children()


def test_a_process_that_is_killed_is_told_with_its_piece() -> None:
    def killed(i: int) -> int:
        if i == 50:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    got: list[int] = []
    with pytest.raises(ResourceError, match=r"SIGKILL while decoding, at one of '048\.png' to '055\.png'\. Free some"):
        got.extend(run(killed))
    assert got == list(range(48))
    assert not children()


def test_a_process_that_hangs_is_told_with_its_piece() -> None:
    def hangs(i: int) -> int:
        if i == 50:
            time.sleep(3600)
        return i

    got: list[int] = []
    begin = time.monotonic()
    with pytest.raises(
        ResourceError, match=r"done nothing for 0\.5 s while decoding, at one of '048\.png' to '055"
    ) as e:
        got.extend(run(hangs, idle_s=0.5))
    assert "Make sure that these files can be read" in str(e.value)
    assert got == list(range(48))
    assert time.monotonic() - begin < 30  # and it is not waited for
    assert not children()


def test_a_process_that_turns_in_circles_is_told() -> None:
    def turns(i: int) -> int:
        while i == 9:
            pass
        return i

    with pytest.raises(ResourceError, match=r"been busy for .* at one of '008\.png' to '015\.png'"):
        list(run(turns, busy_s=0.2, idle_s=1.0))


def test_one_that_is_slow_or_waits_for_its_turn_does_not_hang() -> None:
    def slow(i: int) -> int:
        begin = time.process_time()
        while i == 1 and time.process_time() - begin < 2.5:  # longer than a process may be idle
            pass
        return i

    got = []
    for outcome in run(slow, piece=1, idle_s=2.0):
        got.append(outcome)
        if outcome == 5:
            time.sleep(2.5)  # nobody takes what they have
    assert got == list(range(100))


def test_an_interruption_gets_out_of_a_read_that_does_not_end() -> None:
    answered = threading.Event()

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    begin = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            list(in_threads(lambda _: answered.wait(60), range(100)))
        assert time.monotonic() - begin < 30
    finally:
        answered.set()
        signal.signal(signal.SIGALRM, before)
