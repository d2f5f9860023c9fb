"""Stop when asked to: at once, or after a training's present step where its place is still to be saved.

The first Ctrl-C (or SIGTERM) is waited with inside `deferred`; the second one stops at once, wherever it comes.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Whoever runs the program wants it to stop: 130 after Ctrl-C, 143 after SIGTERM, 129 after a terminal is closed.

    Not an Exception, so that nothing that mends errors takes it for one. `go_on` is the command that continues.
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_code = 128 + number
        self.go_on = ""


class _Wish:
    """The signal that asked to stop, and how many `deferred` blocks want to end first."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.blocks = 0


_wish = _Wish()


def heed_signals() -> None:
    """From now on, Ctrl-C, SIGTERM and a closed terminal raise `Interrupted`; what is ignored already stays so."""
    _wish.number, _wish.blocks = None, 0
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def ignore_signals() -> None:
    """From now on nothing interrupts: the program is about to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def asked() -> bool:
    """Whether somebody waits for the present `deferred` block to end."""
    return _wish.number is not None


def leave() -> NoReturn:
    """Stop now, since all is saved."""
    number, _wish.number = _wish.number or signal.SIGINT, None
    raise Interrupted(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Within the `with` block a first signal only sets what `asked` tells; at its end it is heeded."""
    _wish.blocks += 1
    try:
        yield
    except BaseException:
        _wish.blocks -= 1
        raise
    _wish.blocks -= 1
    if asked() and not _wish.blocks:
        leave()


def _on_signal(number: int, _frame: FrameType | None) -> None:
    at_once = asked() or not _wish.blocks
    _wish.number = number
    if at_once:
        leave()
    with suppress(OSError):  # who read it may have got the same signal
        os.write(2, b"\nsteadylens: finishing this step, to save it. Once more stops at once.\n")  # safe in a handler
