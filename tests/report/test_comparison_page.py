"""The page of a comparison shows every strategy, loads nothing, and escapes what comes from outside."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from comparisons import report, result
from test_page import Page

from steadylens.report.comparison_page import write_comparison_page
from steadylens.report.comparison_plots import capacity_plot, differences_plot, figures_plot, gaps_plot
from steadylens.report.figures import percent
from steadylens.training.strategies import STRATEGIES

ALL = [result(one.name, seed, 1.0 + i / 10) for i, one in enumerate(STRATEGIES) for seed in (0, 1)]
FEW = [result("plain", 0, 1.0), result("focal", 0, 1.4)]


def page_of(folder: Path, results: list[dict[str, Any]]) -> Page:
    return Page(write_comparison_page(folder, report(results)).read_text(encoding="utf-8"))


def words(text: str) -> str:
    """As `Page.text` has it: every space a plain one."""
    return " ".join(text.split())


def test_every_strategy_is_explained_and_told(tmp_path: Path) -> None:
    page, told = page_of(tmp_path, ALL), report(ALL)["strategies"]
    for strategy, row in zip(STRATEGIES, told, strict=True):
        assert strategy.title in page.text
        assert strategy.against in page.text
        assert words(row["text"]) in page.text
        assert words(percent(row["test"]["balanced_accuracy"]["value"])) in page.text
    assert page.text.count("best by validation") == 1
    assert "34 trainings" in page.text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_how_many_trained_at_the_same_time_is_said_where_it_was_more_than_one(tmp_path: Path) -> None:
    one, two = (Page(write_comparison_page(tmp_path, report(FEW, jobs)).read_text("utf-8")) for jobs in (1, 2))
    assert "At the same time" not in one.text
    assert "At the same time 2" in words(two.text)


@pytest.mark.parametrize("results", [ALL, FEW, FEW[:1]], ids=["all", "few", "plain"])
def test_it_is_whole_and_loads_nothing(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    page = page_of(tmp_path, results)
    links = [a.get("href") or "" for _, a in page.tags if "href" in a]
    ids = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    assert all(link.startswith("data:") or link.removeprefix("#") in ids for link in links)
    assert not page.named("script")
    assert not page.named("img")
    html = (tmp_path / "compare.html").read_text("utf-8")
    assert "http://" not in html.replace("http://www.w3.org", "")
    assert "https://" not in html


def test_what_comes_from_outside_is_escaped(tmp_path: Path) -> None:
    page = page_of(tmp_path, FEW)
    assert "steadylens compare 'a <b>'" in page.text
    assert "A note <b>." in page.text
    assert "bolt <x>" in page.text
    assert not page.named("x")


def test_a_best_epoch_is_marked_only_where_it_was_looked_for(tmp_path: Path) -> None:
    page_of(tmp_path, [*FEW, result("early-stopping", 0, 1.0)])
    assert (tmp_path / "compare.html").read_text("utf-8").count(">kept: epoch 4<") == 1


def test_capacity_is_drawn_where_it_was_tried(tmp_path: Path) -> None:
    assert "Capacity" in page_of(tmp_path, ALL).text
    assert "Training figures rise with capacity" not in page_of(tmp_path, FEW).text


def test_plots_say_their_figures_to_those_who_do_not_see_them() -> None:
    rows = report(ALL)["strategies"]
    for drawn in (figures_plot(rows), differences_plot(rows), gaps_plot(rows), capacity_plot(rows)):
        (named,) = Page(drawn).named("svg")
        assert named["role"] == "img"
        assert "Capacity M" in str(named["aria-label"])
        assert "#01010" not in drawn, "every colour is one of the page's"
    assert "no other strategy" in differences_plot(report(FEW[:1])["strategies"])
