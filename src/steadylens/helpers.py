"""Trainings of a comparison at the same time: helpers, which are processes of the same command, each with its part.

A helper prepares the images as the comparison did, from the cache, and leaves each training that it has done as a file,
by which the comparison knows it. Nothing else travels between them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from steadylens.errors import ResourceError

_Work = TypeVar("_Work")


@dataclass(frozen=True)
class Part:
    """Which part of the work a process has: the `number`-th of `of`; 0 is the comparison itself, the rest helpers."""

    number: int = 0
    of: int = 1

    @property
    def is_helper(self) -> bool:
        """Whether the work is somebody else's."""
        return self.number > 0

    def of_all(self, work: Sequence[_Work]) -> Sequence[_Work]:
        """Its part of the work: every `of`-th piece, the same whoever asks and whatever is done already."""
        return work[self.number :: self.of]


@contextmanager
def share_of_threads(part: Part) -> Iterator[None]:
    """Within the `with` block torch computes with this process's share of its threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // part.of))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def helped(again: Sequence[str], part: Part) -> Iterator[Callable[[], bool]]:
    """Within the `with` block helpers are at work, and at its end they are waited for; none outlives it.

    It gives what tells whether any of them still is.

    Args:
        again: the command of this process, which each helper is started with.
        part: of this process; a helper has no helpers.

    Raises:
        ResourceError: a helper has failed.
    """
    helpers: list[subprocess.Popen[bytes]] = []
    try:
        for number in range(1, 1 if part.is_helper else part.of):
            words = [*again, "--helper", str(number), "--quiet"]
            helpers.append(subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))  # noqa: S603 - our own command
        yield lambda: any(helper.poll() is None for helper in helpers)
        for helper in helpers:
            if code := helper.wait():
                raise ResourceError(
                    f"One of the processes that trained at the same time ended with exit code {code}; what it said is "
                    "above. Run the same command again: what is finished is kept."
                )
    finally:
        for helper in helpers:
            helper.terminate()  # does nothing to one that has ended
        for helper in helpers:
            helper.wait()
