"""compare.json holds means over seeds, and differences to plain on the same images."""

from __future__ import annotations

import json
from statistics import mean

import pytest
from comparisons import LABELS, block, result

RESULTS = [result(name, seed, skill) for seed in (1, 0) for name, skill in (("plain", 1.0), ("class-weights", 2.0))]


def test_each_strategy_has_the_mean_of_its_seeds() -> None:
    rows = block(RESULTS)["strategies"]
    assert [row["name"] for row in rows] == ["plain", "class-weights"]
    for row in rows:
        own = [one for one in RESULTS if one["strategy"] == row["name"]]
        assert [training["seed"] for training in row["trainings"]] == [0, 1]
        for key in ("value", "low", "high"):
            expected = mean(one["test"]["balanced_accuracy"][key] for one in own)
            assert row["test"]["balanced_accuracy"][key] == pytest.approx(expected)
        assert row["gap"] == pytest.approx(mean(one["diagnosis"]["gap"] for one in own))


def test_the_difference_to_plain_is_that_of_the_means() -> None:
    plain, weights = block(RESULTS)["strategies"]
    assert plain["difference"] is None
    for name, figure in weights["difference"].items():
        assert figure["value"] == pytest.approx(weights["test"][name]["value"] - plain["test"][name]["value"])
        assert figure["low"] < figure["value"] < figure["high"]
    assert weights["difference"]["balanced_accuracy"]["low"] > 0


def test_the_best_is_the_best_by_validation_and_not_by_test() -> None:
    plain, weights = result("plain", 0, 1.0), result("class-weights", 0, 2.0)
    assert block([plain, weights])["best_by_validation"] == "class-weights"
    swapped = [{**plain, "validation": weights["validation"]}, {**weights, "validation": plain["validation"]}]
    assert block(swapped)["best_by_validation"] == "plain"


def test_all_of_it_is_json() -> None:
    found = block(RESULTS)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["test_images"] == len(LABELS)
