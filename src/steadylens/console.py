"""What a person sees while waiting: a live bar on a terminal, plain lines off it, nothing where quiet is asked for.

Everything here goes to stderr; results go to stdout, and are the command line's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

Advance = Callable[[float, str], None]


class _Rich(RichConsole):
    """Goes on in silence where nobody reads any more; rich would end the program."""

    def on_broken_pipe(self) -> None:
        """Say nothing from now on."""
        self.quiet = True


class Console:
    """Where messages and progress go.

    Args:
        quiet: say nothing at all.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._rich = _Rich(stderr=True, quiet=quiet, highlight=False, emoji=False)

    def say(self, text: str) -> None:
        """Write one message, wrapped on a terminal only; what looks like markup in it stays as it is."""
        self._rich.print(text, markup=False, soft_wrap=not self._rich.is_terminal)

    @contextmanager
    def stage(self, name: str) -> Iterator[Advance]:
        """Show one stage of a run; the function it gives takes the share done, 0 to 1, and what else to show."""
        if not self._rich.is_terminal or self.quiet:
            begin = time.perf_counter()
            yield lambda _share, _text: None
            self.say(f"{name}: {time.perf_counter() - begin:.1f} s")
            return
        columns = (
            TextColumn("{task.description:<12}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
        )
        with Progress(*columns, console=self._rich) as progress:
            task = progress.add_task(name, total=1.0, text="")
            yield lambda share, text: progress.update(task, completed=share, text=text)
            progress.update(task, completed=1.0)

    @contextmanager
    def live(self, draw: Callable[[], RenderableType]) -> Iterator[bool]:
        """On a terminal, keep what `draw` gives on the screen within the `with` block, drawn anew all the time.

        It gives whether it does: off a terminal, and where quiet is asked for, nothing is drawn.
        """
        if not self._rich.is_terminal or self.quiet:
            yield False
            return
        with Live(get_renderable=draw, console=self._rich, refresh_per_second=4):
            yield True
