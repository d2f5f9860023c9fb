"""Trainings of a comparison at the same time: the same command begun again, each time for a share of them.

Each of the others finds the decoded images in the cache, and leaves each training that it has done as a file, by which
the comparison knows it. By stdin it is told its share, and by the end of stdin that nobody waits for it any more,
however the comparison ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import NoReturn, Self

import torch
from threadpoolctl import threadpool_limits

from steadylens import interruption
from steadylens.errors import ArtifactError, ConfigError, DataError, ResourceError, SteadylensError

Job = tuple[str, int]  # the name of a strategy, and the seed
_ENDING_S = 10.0  # until one that was told to end is killed


def dealt(work: Sequence[Job], jobs: int) -> list[list[Job]]:
    """As many shares as there are jobs at a time, but none that is empty, unless there is no work at all."""
    return [list(work[first::jobs]) for first in range(max(1, min(jobs, len(work))))]


@contextmanager
def threads_for(jobs: int) -> Iterator[None]:
    """Within the `with` block torch, and the products of NumPy and scikit-learn, take one share of the threads."""
    threads = torch.get_num_threads()
    share = max(1, threads // jobs)
    torch.set_num_threads(share)
    try:
        with threadpool_limits(share if jobs > 1 else None, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(threads)


class Others:
    """The same command, begun again for each of some shares; in a `with` block, at whose end none is left.

    Args:
        command: its words, `--share` among them, by which it knows that it is one of the others.
        shares: what each is to do.
    """

    def __init__(self, command: Sequence[str], shares: Sequence[Sequence[Job]]) -> None:
        self._command, self._shares = command, shares
        self._begun: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Begin them."""
        for share in self._shares:
            other = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)  # noqa: S603 - ours
            self._begun.append(other)
            assert other.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
            other.stdin.write(json.dumps(share).encode() + b"\n")
            other.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tell those that are still at work to end, and see that they do."""
        for other in self._begun:
            if other.stdin is not None:
                other.stdin.close()
        for other in self._begun:
            try:
                other.wait(_ENDING_S)
            except subprocess.TimeoutExpired:
                other.kill()
                other.wait()

    def at_work(self) -> bool:
        """Whether any of them still is.

        Raises:
            SteadylensError: one has failed, with the error that it ended with.
        """
        codes = [other.poll() for other in self._begun]
        for code in codes:
            if code:
                raise _failure(code)
        return None in codes


def _failure(code: int) -> Exception:
    """The error for one of the others that ended with this code."""
    again = "Run the same command again: what is finished is kept."
    if code < 0:
        name = signal.Signals(-code).name
        return ResourceError(
            f"One of the commands that trained at the same time was killed by {name}, as the system does where memory "
            f"is short. {again} Where it happens again, give fewer --jobs and another --out."
        )
    kinds: tuple[type[SteadylensError], ...] = (ConfigError, DataError, ArtifactError, ResourceError)
    kind = next((kind for kind in kinds if kind.exit_code == code), SteadylensError)
    return kind(f"One of the commands that trained at the same time has failed; what it said is above. {again}")


def received() -> list[Job]:
    """In one of the others: what it is to do. From now on it ends at once when stdin does, and by nothing else."""
    interruption.ignore_signals()  # Ctrl-C is sent to all in a terminal; the comparison heeds it, and stdin ends
    line = b""
    while not line.endswith(b"\n"):
        if not (piece := os.read(0, 4096)):
            _end()
        line += piece
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    return [(str(name), int(seed)) for name, seed in json.loads(line)]


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    _end()


def _end() -> NoReturn:
    """End without a word. What is half done is lost, as with a kill; files are written whole or not at all."""
    os._exit(1)
