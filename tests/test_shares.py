"""Others do their share and no more, and none outlives what it works for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadylens.errors import DataError, ResourceError, SteadylensError
from steadylens.shares import Job, Others, dealt, threads_for

SHARES: list[list[Job]] = [[("l1", 0), ("l2", 0)], [("focal", 1)]]


def python(code: str) -> list[str]:
    """A command that runs `code`, which finds its share in `share`, as steadylens does."""
    return [sys.executable, "-c", f"import os, pathlib, sys, time\nfrom steadylens.shares import *\n{code}"]


def leaving(folder: Path) -> list[str]:
    """A command that leaves a file for each piece of its share, in its own time."""
    path = str(folder)
    return python(
        f"for name, seed in received(): time.sleep(0.2); (pathlib.Path({path!r}) / f'{{name}}-{{seed}}').touch()"
    )


@given(st.integers(0, 40), st.integers(1, 12))
def test_all_shares_together_are_the_work_and_nothing_is_done_twice(pieces: int, jobs: int) -> None:
    work = [("plain", seed) for seed in range(pieces)]
    shares = dealt(work, jobs)
    assert sorted(piece for share in shares for piece in share) == work
    assert len(shares) == max(1, min(jobs, pieces))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("jobs", "share"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_jobs_share_the_threads(jobs: int, share: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with threads_for(jobs):
            assert torch.get_num_threads() == share
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_each_is_told_its_share_and_waited_for(tmp_path: Path) -> None:
    with Others(leaving(tmp_path), SHARES) as others:
        assert others.at_work()
        wait_until(lambda: not others.at_work())
    assert {path.name for path in tmp_path.iterdir()} == {"l1-0", "l2-0", "focal-1"}


def test_without_shares_there_are_no_others() -> None:
    with Others(python("received()"), []) as others:
        assert not others.at_work()


@pytest.mark.parametrize(
    ("ending", "kind", "complaint"),
    [
        ("sys.exit(3)", DataError, "has failed; what it said is above"),
        ("sys.exit(1)", SteadylensError, "has failed; what it said is above"),
        ("os.kill(os.getpid(), 9)", ResourceError, "was killed by SIGKILL"),
    ],
    ids=["data", "bug", "killed"],
)
def test_a_failure_is_an_error_at_once(ending: str, kind: type[Exception], complaint: str) -> None:
    one_fails = python(f"share = received()\nif len(share) == 1: {ending}\ntime.sleep(60)")
    begin = time.monotonic()
    with pytest.raises(SteadylensError, match=complaint) as failed, Others(one_fails, SHARES) as others:
        wait_until(lambda: not others.at_work())
    assert type(failed.value) is kind
    assert time.monotonic() - begin < 50


def test_none_outlives_an_error(tmp_path: Path) -> None:
    slow = python(f"received(); time.sleep(60); (pathlib.Path({str(tmp_path)!r}) / 'late').touch()")
    begin = time.monotonic()
    with pytest.raises(ZeroDivisionError), Others(slow, SHARES):
        raise ZeroDivisionError
    assert time.monotonic() - begin < 50
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="asks the system which commands are running")
def test_none_outlives_a_kill(tmp_path: Path) -> None:
    other = python(f"(pathlib.Path({str(tmp_path)!r}) / str(os.getpid())).touch(); received(); time.sleep(600)")
    code = f"with Others({other!r}, {SHARES!r}) as others:\n    while True: time.sleep(1)"
    with subprocess.Popen(python(code)) as whole:  # noqa: S603
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        os.kill(whole.pid, signal.SIGKILL)
    others = [Path("/proc") / path.name for path in tmp_path.iterdir()]
    wait_until(lambda: not any(path.exists() for path in others))


def test_what_is_asked_of_the_terminal_does_not_reach_them(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    command = python(f"received(); pathlib.Path({str(ready)!r}).touch(); time.sleep(1)")
    with Others(command, SHARES[:1]) as others:
        wait_until(ready.exists)
        (one,) = others._begun
        one.send_signal(signal.SIGINT)
        one.send_signal(signal.SIGTERM)
        wait_until(lambda: not others.at_work())


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)
