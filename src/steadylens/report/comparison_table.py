"""A comparison in a terminal: the table that grows while it is made, and the one at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from rich.table import Table

from steadylens.report.comparison_words import headline
from steadylens.report.figures import interval_of
from steadylens.training.strategies import Strategy

Result = Mapping[str, Any]
_COLUMNS = ("balanced accuracy", "worst class", "log-loss", "ECE", "gap", "diagnosis")


class Board:
    """What is known of each strategy so far.

    Args:
        jobs: every training, as strategy and seed.
    """

    def __init__(self, jobs: Sequence[tuple[Strategy, int]]) -> None:
        self.strategies = list(dict.fromkeys(strategy.name for strategy, _ in jobs))
        self.seeds = len({seed for _, seed in jobs})
        self.results: dict[str, list[Result]] = {name: [] for name in self.strategies}
        self.at_work: tuple[str, str] | None = None

    def working(self, strategy: str, seed: int, text: str) -> None:
        """Note where the training at work is."""
        self.at_work = strategy, f"seed {seed}: {text}"

    def done(self, result: Result) -> None:
        """Take in a finished training."""
        self.results[result["strategy"]].append(result)
        self.at_work = None

    def table(self) -> Table:
        """All strategies, those that are finished with the means over their seeds."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("strategy")
        for name in _COLUMNS:
            table.add_column(name, justify="left" if name == "diagnosis" else "right")
        table.add_column(f"of {self.seeds} seeds" if self.seeds > 1 else "", justify="left")
        for name in self.strategies:
            results = self.results[name]
            state = f"{len(results)} done" if self.seeds > 1 and results else ""
            if self.at_work is not None and self.at_work[0] == name:
                state = self.at_work[1]
            table.add_row(name, *(_cells(results) if results else [""] * len(_COLUMNS)), state)
        return table

    def line(self, result: Result) -> str:
        """A finished training in one line, for where no table can be drawn."""
        cells = ", ".join(f"{name} {cell}" for name, cell in zip(_COLUMNS, _cells([result]), strict=True))
        training = result["training"]
        done = sum(map(len, self.results.values()))
        return (
            f"  {done}/{len(self.strategies) * self.seeds}  {result['strategy']}, seed {result['seed']}: {cells}; "
            f"{training['epochs']} epochs, {training['total_seconds']:.1f} s"
        )


def comparison_summary(folder: Path, report: Mapping[str, Any]) -> str:
    """The end of a comparison: every strategy with its difference to plain, and where the page is."""
    head = f"{'strategy':<18} {'balanced accuracy':>18}  {'over plain, points':<22} {'worst class':>11} {'gap':>6}"
    lines = [f"On {report['test_images']:,} test images, with 95 % intervals:", f"{head}  diagnosis"]
    for row in report["strategies"]:
        test, change = row["test"], interval_of((row["difference"] or {}).get("balanced_accuracy"))
        over = ""
        if change.value is not None and change.low is not None and change.high is not None:
            over = f"{100 * change.value:+5.1f}  [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"
        lines.append(
            f"{row['name']:<18} {test['balanced_accuracy']['value']:>18.1%}  {over:<22} "
            f"{test['worst_class_recall']['value']:>11.1%} {100 * row['gap']:>6.1f}  {row['verdict']}"
        )
    return "\n".join([*lines, "", headline(report), "", f"page     {folder / 'compare.html'}"])


def _cells(results: Sequence[Result]) -> list[str]:
    def average(name: str) -> float:
        return mean(float(result["test"][name]["value"]) for result in results)

    gap = mean(float(result["diagnosis"]["gap"]) for result in results)
    return [
        f"{average('balanced_accuracy'):.1%}",
        f"{average('worst_class_recall'):.1%}",
        f"{average('log_loss'):.3f}",
        f"{average('ece'):.1%}",
        f"{100 * gap:.1f}",
        str(results[-1]["diagnosis"]["verdict"]),
    ]
