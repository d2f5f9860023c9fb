"""metrics.jsonl is read whole or while it grows, and a line that is no epoch is named."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.errors import DataError
from steadylens.report.metrics_log import MetricsLog, by_epoch, epoch_line, figures_of, read_metrics


def test_a_log_that_does_not_exist_yet_is_empty(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_a_line_without_its_end_is_left_until_it_has_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    assert log.read() == ([], [])
    path.write_text('{"epoch": 1}\n{"epoch": 2, "seco')
    assert log.read() == ([{"epoch": 1}], [])
    assert log.read() == ([], [])
    assert read_metrics(path) == [{"epoch": 1}]
    with path.open("a") as file:
        file.write('nds": 3.0}\n')
    assert log.read() == ([{"epoch": 2, "seconds": 3.0}], [])


def test_a_file_that_took_its_place_is_read_from_its_beginning(tmp_path: Path) -> None:
    path, other = tmp_path / "metrics.jsonl", tmp_path / "other"
    log = MetricsLog(path)
    path.write_text('{"epoch": 0}\n{"epoch": 1}\n')
    assert len(log.read()[0]) == 2
    other.write_text("".join(f'{{"epoch": {epoch}, "more": 1}}\n' for epoch in range(1, 9)))
    other.replace(path)
    rows, wrong = log.read()
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert wrong == []
    assert log.read() == ([], [])


@given(st.lists(st.integers(0, 5), max_size=8), st.lists(st.integers(1, 40), max_size=30))
def test_read_in_pieces_of_any_size_the_rows_are_the_same(
    tmp_path_factory: pytest.TempPathFactory, epochs: list[int], sizes: list[int]
) -> None:
    path = tmp_path_factory.mktemp("log") / "metrics.jsonl"
    content = "".join(json.dumps({"epoch": epoch, "class": "Größe"}, ensure_ascii=False) + "\n" for epoch in epochs)
    left, log, rows = content.encode(), MetricsLog(path), []
    for size in [*sizes, len(left)]:
        with path.open("ab") as file:
            file.write(left[:size])
        left = left[size:]
        new, wrong = log.read()
        rows += new
        assert wrong == []
    assert [row["epoch"] for row in rows] == epochs


def test_of_an_epoch_that_was_done_twice_the_later_row_counts() -> None:
    rows = [{"epoch": 1, "x": 1}, {"epoch": 3, "x": 2}, {"epoch": 2, "x": 3}, {"epoch": 3, "x": 4}]
    assert by_epoch(rows) == [{"epoch": 1, "x": 1}, {"epoch": 2, "x": 3}, {"epoch": 3, "x": 4}]
    assert by_epoch(rows[:3]) == [{"epoch": 1, "x": 1}, {"epoch": 2, "x": 3}]  # the training ended there


@pytest.mark.parametrize(
    "line",
    [b'{"epoch": 2', b"[1]", b'{"seconds": 1}', b'{"epoch": true}', b'{"epoch": "2"}', b"\xff\xfe", b"[" * 99_999],
    ids=range(7),
)
def test_a_damaged_line_is_named_and_the_others_are_read(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch": 1}\n\n' + line + b'\n{"epoch": 3}\n')
    rows, wrong = MetricsLog(path).read()
    assert [row["epoch"] for row in rows] == [1, 3]
    assert wrong == [f"Line 3 of {path} is damaged: it is not an epoch."]
    with pytest.raises(DataError, match=r"Line 3 .* Remove that line"):
        read_metrics(path)


def test_what_is_no_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="could not be read"):
        MetricsLog(tmp_path).read()


def test_a_log_that_became_shorter_is_read_from_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n')
    log = MetricsLog(path)
    log.read()
    path.write_text('{"epoch": 7}\n')
    assert log.read() == ([{"epoch": 7}], [])


def test_an_epoch_is_a_line_and_what_was_not_measured_a_dash() -> None:
    row = {
        "epoch": 3, "seconds": 12.34, "images_per_second": 4321.0, "train_loss": 0.5, "train_balanced_accuracy": None,
        "validation_balanced_accuracy": 0.812,
    }  # fmt: skip
    assert epoch_line(row) == (
        "  epoch   3    12.3 s    4,321 images/s  loss 0.500  balanced accuracy: train -, validation 81.2%"
    )
    assert epoch_line({"epoch": 1, "train_loss": "odd"}).count(" -") == 5


def test_figures_are_numbers_by_name() -> None:
    assert figures_of({"epoch": 3, "a": 1, "b": None, "c": math.inf, "d": 0.5}) == {"a": 1.0, "d": 0.5}
