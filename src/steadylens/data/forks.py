"""Work in forked processes, for what holds the interpreter lock too long to gain anything from threads.

A forked process has all that its parent had, at no cost, and shares what is mapped into memory; all
that has to travel back is a line of JSON for every few items. Where Python cannot fork safely, on
macOS and Windows, threads have to do.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import IO, Any, NoReturn

from steadylens.errors import ResourceError


def processors() -> int:
    """How many processes can work at once; 1 where processes cannot be forked safely."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def in_forks(
    function: Callable[[int], Any], names: Sequence[str], *, doing: str, processes: int, piece: int = 32
) -> Iterator[Any]:
    """Yield `function` of 0, 1, ... for as many as there are names, in order, computed in so many processes.

    What it returns travels as JSON, a `piece` of items at a time; a process that is far ahead waits. What it
    writes into shared memory before is there when its outcome is. `doing` and the names are for the error.

    Raises:
        ResourceError: a process was killed, as the system does where memory is short.
        RuntimeError: `function` raised an exception, whose traceback is on stderr.
    """
    workers: list[tuple[int, IO[bytes]]] = []
    shares = [range(first * piece, len(names), processes * piece) for first in range(processes)]
    try:
        workers.extend(_start(function, share, piece, len(names)) for share in shares)
        for number, start in enumerate(range(0, len(names), piece)):
            process, lines = workers[number % processes]
            line = lines.readline()
            if not line.endswith(b"\n"):
                raise _lost(process, doing, names[start : start + piece])
            yield from json.loads(line)
    finally:
        for process, lines in workers:
            lines.close()
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)  # it has nothing left to do, or nobody left to do it for
            os.waitpid(process, 0)


def _start(function: Callable[[int], Any], starts: range, piece: int, n: int) -> tuple[int, IO[bytes]]:
    parent = os.getpid()
    receiving, sending = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 warns of locks that other threads hold. The child only decodes, with no lock but those of
        # the interpreter, which sees to its own, and of `images`, which does the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        process = os.fork()
    if process == 0:
        os.close(receiving)
        _work(function, starts, piece, n, sending, parent)
    os.close(sending)
    return process, os.fdopen(receiving, "rb")


def _work(function: Callable[[int], Any], starts: range, piece: int, n: int, sending: int, parent: int) -> NoReturn:
    """The life of a forked process: it leaves without a trace of what its parent would do on leaving."""
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent is told, and stops its processes
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for start in starts:
            if os.getppid() != parent:
                break
            outcomes = [function(item) for item in range(start, min(start + piece, n))]
            line = json.dumps(outcomes).encode() + b"\n"
            while line:
                line = line[os.write(sending, line) :]
        code = 0
    except BrokenPipeError:
        pass  # the parent is gone, or wants no more
    except BaseException:  # nothing may get out of here into the parent's own code
        traceback.print_exc()
    finally:
        os._exit(code)


def _lost(process: int, doing: str, names: Sequence[str]) -> Exception:
    """The error for a process that ended before its work was done; it is left to be waited for."""
    ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    if ended is None or ended.si_code == os.CLD_EXITED:
        return RuntimeError(f"A process failed while {doing}; its traceback is above.")
    return ResourceError(
        f"A process was killed by {signal.Signals(ended.si_status).name} while {doing}, at one of "
        f"{names[0]!r} to {names[-1]!r}. Free some memory and run the same command again; if it happens again at the "
        "same images, take them out."
    )
