"""What is said of a strategy is what its figures say, and no more than they can tell."""

from __future__ import annotations

from typing import Any

import pytest
from comparisons import block, report, result

from steadylens.report.comparison_words import caution, headline
from steadylens.report.figures import percent, points


def rows_of(*results: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = block(results)["strategies"]
    return rows


def test_plain_is_described_by_itself() -> None:
    (row,) = rows_of(result("plain", 0, 1.0, train=0.99))
    assert percent(row["test"]["balanced_accuracy"]["value"]) in row["text"]
    assert f"the class that it finds least, {row['worst_class']}" in row["text"]
    assert row["text"].endswith("it overfits.")


def test_a_sure_gain_is_a_rise_and_a_sure_loss_a_fall() -> None:
    _, better = rows_of(result("plain", 0, 1.0), result("focal", 0, 2.0))
    change = better["difference"]["balanced_accuracy"]
    assert f"Balanced accuracy rises by {points(change['value'])[1:]} (95 %: +" in better["text"]
    _, worse = rows_of(result("plain", 0, 2.0), result("focal", 0, 1.0))
    assert "Balanced accuracy falls by" in worse["text"]
    assert f"to {percent(worse['test']['balanced_accuracy']['value'])}." in worse["text"]


def test_what_chance_could_explain_is_not_claimed() -> None:
    _, same = rows_of(result("plain", 0, 1.0), result("focal", 0, 1.01))
    assert "is not surely another than plain's" in same["text"]
    assert "chance could explain the difference" in same["text"]
    assert "rises" not in same["text"]


@pytest.mark.parametrize(
    ("train", "how"), [(0.8, "narrows by"), (0.99, "widens by"), (0.9, "stays at")], ids=["narrow", "wide", "same"]
)
def test_the_gap_is_compared_with_plains(train: float, how: str) -> None:
    plain = result("plain", 0, 1.0, train=0.9)
    other = {**result("focal", 0, 1.0, train=train)}
    gap = train - plain["diagnosis"]["validation_balanced_accuracy"]
    other["diagnosis"] = {**other["diagnosis"], "gap": gap}
    _, row = rows_of(plain, other)
    assert f"The gap between training and validation {how}" in row["text"]


def test_a_gap_below_zero_keeps_its_sign() -> None:
    (row,) = rows_of(result("plain", 0, 2.0, train=0.5))
    assert row["gap"] < 0
    assert f"a gap of {points(row['gap'])} to validation: it underfits." in row["text"]
    assert "\u2212" in points(row["gap"])


def test_capacity_early_stopping_and_auto_say_what_they_did() -> None:
    rows = rows_of(
        result("plain", 0, 1.0), result("early-stopping", 0, 1.0), result("capacity-l", 0, 1.2, parameters=4500),
        result("auto", 0, 2.0),
    )  # fmt: skip
    texts = {row["name"]: row["text"] for row in rows}
    assert "It has 4,500 parameters, 4.5 times plain's, and went through the images 4 times" in texts["capacity-l"]
    assert "It ended early; the weights kept are those of epoch 4 of 4." in texts["early-stopping"]
    assert "It took cnn-s with imbalance none, augmentation off, mixing in 70.0" in texts["auto"]
    assert "L2 0.05." in texts["auto"]


def test_auto_says_how_many_networks_answer_together() -> None:
    auto = result("auto", 0, 2.0)
    auto["training"]["members"] = [{"joins": True}, {"joins": False}, {"joins": True}]
    _, row = rows_of(result("plain", 0, 1.0), auto)
    assert [one["networks"] for one in row["trainings"]] == [2]
    assert "L2 0.05; 2 networks answer together." in row["text"]
    auto["training"]["members"][2]["joins"] = False
    _, row = rows_of(result("plain", 0, 1.0), auto)
    assert "L2 0.05." in row["text"]


def test_the_headline_names_the_best_by_validation() -> None:
    better = report([result("plain", 0, 1.0), result("focal", 0, 2.0)])
    assert headline(better).startswith("Best by validation: Focal loss. On the test images it has +")
    same = report([result("plain", 0, 1.0), result("focal", 0, 1.01)])
    same["best_by_validation"] = "focal"
    assert headline(same).endswith("On the test images it is not surely better than plain training.")
    assert "nothing that was tried does better" in headline(report([result("plain", 0, 2.0), result("l1", 0, 1.0)]))


def test_the_caution_counts_intervals_and_seeds() -> None:
    once = [result("plain", 0, 1.0), result("focal", 0, 2.0), result("l1", 0, 2.0)]
    assert "Of 2 such intervals" in caution(report(once))
    assert "Each strategy was trained once" in caution(report(once))
    assert "means over 2 seeds" in caution(report([*once, *(result(one["strategy"], 1, 1.0) for one in once)]))
    assert "to choose by the test figures would be to tune on them" in caution(report(once))
