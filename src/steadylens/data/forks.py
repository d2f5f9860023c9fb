"""Work in forked processes, for what holds the interpreter lock too long to gain anything from threads.

A forked process has all that its parent had, at no cost, and shares what is mapped into memory; all
that has to travel back is a line of JSON for every few items. Where Python cannot fork safely, on
macOS and Windows, threads have to do.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from steadylens.errors import ResourceError

# A process hangs that uses no processor time for so long: a file server that restarts answers again within a few
# minutes. What is slow uses some, and while the machine sleeps nobody counts.
IDLE_S = 600.0
# Or that uses so much for one piece: the largest images that are decoded take some ten seconds each.
BUSY_S = 3600.0
_LOOKS = 20  # at a process, until it counts as idle
_KILLED_S = 5.0  # until a killed process is given up: on a disk that does not answer, it may not be able to end


@dataclass(slots=True)
class _Worker:
    """A forked process, and what of its next line has been received."""

    process: int
    receiving: int
    pending: bytearray = field(default_factory=bytearray)


def processors() -> int:
    """How many processes can work at once; 1 where processes cannot be forked safely."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def in_forks(
    function: Callable[[int], Any],
    names: Sequence[str],
    *,
    doing: str,
    processes: int,
    piece: int = 32,
    idle_s: float = IDLE_S,
    busy_s: float = BUSY_S,
) -> Iterator[Any]:
    """Yield `function` of 0, 1, ... for as many as there are names, in order, computed in so many processes.

    What it returns travels as JSON, a `piece` of items at a time; a process that is far ahead waits. What it
    writes into shared memory before is there when its outcome is. `doing` and the names are for the error.

    Raises:
        ResourceError: a process was killed, as the system does where memory is short, or it hangs: it has used no
            processor time for `idle_s`, or `busy_s` for one piece.
        RuntimeError: `function` raised an exception, whose traceback is on stderr.
    """
    workers: list[_Worker] = []
    shares = [range(first * piece, len(names), processes * piece) for first in range(processes)]
    try:
        workers.extend(_start(function, share, piece, len(names)) for share in shares)
        for number, start in enumerate(range(0, len(names), piece)):
            worker, asked = workers[number % processes], names[start : start + piece]
            where = f"while {doing}, at one of {asked[0]!r} to {asked[-1]!r}"
            line = _next_line(worker, idle_s, busy_s, where)
            if line is None:
                raise _lost(worker.process, doing, where)
            yield from json.loads(line)
    finally:
        for worker in workers:
            _end(worker)


def _start(function: Callable[[int], Any], starts: range, piece: int, n: int) -> _Worker:
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
    return _Worker(process, receiving)


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


def _next_line(worker: _Worker, idle_s: float, busy_s: float, where: str) -> bytes | None:
    """The next line of a process, without its end; None where the process ended before."""
    while (end := worker.pending.find(b"\n")) < 0:
        _wait(worker, idle_s, busy_s, where)
        received = os.read(worker.receiving, 2**16)
        if not received:
            return None
        worker.pending += received
    line = bytes(worker.pending[:end])
    del worker.pending[: end + 1]
    return line


def _wait(worker: _Worker, idle_s: float, busy_s: float, where: str) -> None:
    """Wait until a process says something, or has ended.

    Time is counted in looks and not by a clock, which may have jumped.

    Raises:
        ResourceError: it hangs.
    """
    begin = seen = _processor_seconds(worker.process)
    idle = 0
    poll = select.poll()
    poll.register(worker.receiving, select.POLLIN)
    while not poll.poll(1000 * idle_s / _LOOKS):
        now = _processor_seconds(worker.process)
        idle = idle + 1 if now == seen else 0
        seen = now
        if idle >= _LOOKS or now - begin > busy_s:
            what = f"done nothing for {idle_s:g} s" if idle >= _LOOKS else f"been busy for {now - begin:.0f} s"
            raise ResourceError(
                f"A process has {what} {where}. Make sure that these files can be read, since a disk or a network "
                "may not answer, and run the same command again; if it happens again at the same images, take them "
                "out."
            )


def _processor_seconds(process: int) -> float:
    """The processor time that a process has used so far."""
    fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime and stime


def _end(worker: _Worker) -> None:
    """End a process that has nothing left to do, or nobody left to do it for."""
    os.close(worker.receiving)
    with suppress(ProcessLookupError):
        os.kill(worker.process, signal.SIGKILL)
    until = time.monotonic() + _KILLED_S
    while os.waitpid(worker.process, os.WNOHANG)[0] == 0 and time.monotonic() < until:
        time.sleep(0.001)


def _lost(process: int, doing: str, where: str) -> Exception:
    """The error for a process that ended before its work was done; it is left to be waited for."""
    ended = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
    if ended is None or ended.si_code == os.CLD_EXITED:
        return RuntimeError(f"A process failed while {doing}; its traceback is above.")
    return ResourceError(
        f"A process was killed by {signal.Signals(ended.si_status).name} {where}. Free some memory and run the same "
        "command again; if it happens again at the same images, take them out."
    )
