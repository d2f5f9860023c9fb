"""A terminal shows what is known so far, and at the end how each strategy compares with plain."""

from __future__ import annotations

from pathlib import Path

from comparisons import report, result, strategies
from rich.console import Console

from steadylens.report.comparison_table import Board, comparison_summary


def drawn(board: Board) -> str:
    console = Console(width=140, record=True, file=None, quiet=False, color_system=None)
    with console.capture() as captured:
        console.print(board.table())
    return captured.get()


def test_the_table_grows_with_what_is_finished() -> None:
    jobs = [(strategy, seed) for seed in (0, 1) for strategy in strategies("plain", "focal")]
    board = Board(jobs)
    board.working("plain", 0, "40%, epoch 2")
    assert "seed 0: 40%, epoch 2" in drawn(board)
    first = result("plain", 0, 1.0)
    board.done(first)
    line = next(line for line in drawn(board).splitlines() if line.startswith("plain"))
    assert f"{first['test']['balanced_accuracy']['value']:.1%}" in line
    assert "1 done" in line
    assert "epoch 2" not in line
    second = result("plain", 1, 2.0)
    board.done(second)
    values = [one["test"]["balanced_accuracy"]["value"] for one in (first, second)]
    assert f"{sum(values) / 2:.1%}" in drawn(board), "the mean over the seeds"


def test_off_a_terminal_each_training_is_a_line() -> None:
    board = Board([(strategy, 0) for strategy in strategies("plain", "focal")])
    one = result("plain", 0, 1.0)
    board.done(one)
    line = board.line(one)
    assert line.startswith(f"  1/2  plain, seed 0: balanced accuracy {one['test']['balanced_accuracy']['value']:.1%}")
    assert line.endswith("4 epochs, 12.5 s")


def test_the_summary_has_a_line_for_each_and_says_where_the_page_is() -> None:
    made = report([result("plain", 0, 1.0), result("focal", 0, 2.0)])
    lines = comparison_summary(Path("here"), made).splitlines()
    change = made["strategies"][1]["difference"]["balanced_accuracy"]
    focal = next(line for line in lines if line.startswith("focal"))
    assert f"{100 * change['value']:+.1f}" in focal
    assert f"[{100 * change['low']:+.1f}, {100 * change['high']:+.1f}]" in focal
    assert lines[-1] == "page     here/compare.html"
    assert max(map(len, lines[:4])) <= 100
