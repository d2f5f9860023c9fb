from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import HOSTILE, TEN

from steadylens.report import plots

BINS = [{"confidence": c / 10, "accuracy": c / 10 - 0.05, "count": 10 * c} for c in range(3, 10)]


def every_plot() -> dict[str, str]:
    many = {f"species {i}": 5000 // (i + 1) for i in range(120)}
    return {
        "curves": curves([1, 2, 3], [0.2, 0.5, 0.9], [0.2, 0.4, 0.5], best_epoch=2),
        "reliability": plots.reliability_diagram(BINS, name="reliability"),
        "counts": plots.class_counts(dict(zip(TEN, range(1, 11), strict=True)), logarithmic=False),
        "long tail": plots.class_counts(many, logarithmic=True),
        "heat map": plots.confusion_heatmap(np.eye(30), name="heat map"),
    }


def curves(
    epochs: list[int], train: list[float | None], validation: list[float | None], best_epoch: int | None = None
) -> str:
    return plots.learning_curves(
        epochs, train, validation, best_epoch=best_epoch, name="Balanced accuracy", as_percent=True
    )


def test_plots_take_their_colours_from_the_page() -> None:
    for name, svg in every_plot().items():
        assert "var(--muted)" in svg, name
        assert "var(--line)" in svg, name
        assert "#010" not in svg, name
        assert "#000000" not in svg, name
        assert "#ffffff" not in svg, name


def test_plots_name_no_typeface_and_load_nothing() -> None:
    for name, svg in every_plot().items():
        assert "font-family" not in svg, name
        assert "://" not in svg, name
        assert "<style" not in svg, name
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in re.findall(r'href="([^"]*)"', svg))


def test_names_inside_plots_do_not_meet_on_one_page() -> None:
    ids = [name for svg in every_plot().values() for name in re.findall(r' id="([^"]*)"', svg)]
    assert len(ids) == len(set(ids))


def test_references_inside_a_plot_find_their_target() -> None:
    for svg in every_plot().values():
        ids = set(re.findall(r' id="([^"]*)"', svg))
        assert set(re.findall(r"url\(#([^)]*)\)", svg)) <= ids
        assert set(re.findall(r'href="#([^"]*)"', svg)) <= ids


def test_same_figures_give_the_same_bytes() -> None:
    assert every_plot() == every_plot()


@pytest.mark.parametrize("logarithmic", [False, True])
def test_class_counts_show_hostile_names_as_they_are(logarithmic: bool) -> None:
    svg = plots.class_counts(dict.fromkeys(HOSTILE, 7) | {"empty": 0}, logarithmic=logarithmic)
    texts = {element.text for element in ElementTree.fromstring(svg).iter("text")}  # noqa: S314 - our own output
    assert {"<script>alert(1)</scr\u2026", '"quo\'te"', "two\u23celines", "$\\alpha$ & co", "\u5bff\u53f8"} <= texts
    assert {"7", "0"} <= texts


def test_class_counts_put_the_largest_class_first() -> None:
    svg = plots.class_counts({"few": 3, "many": 1234, "some": 20}, logarithmic=False)
    assert svg.index(">many<") < svg.index(">some<") < svg.index(">few<")
    assert "Images of each of 3 classes, from 1,234 to 3" in svg


def test_learning_curves_say_their_ends_and_the_best_epoch() -> None:
    svg = curves([1, 2, 3], [0.2, 0.5, 0.9], [0.2, 0.4, None], best_epoch=2)
    assert "training 90.0\u202f%, validation 40.0\u202f%; kept: epoch 2" in svg
    assert ">kept: epoch 2<" in svg
    assert ">training<" in svg
    assert ">validation<" in svg


@pytest.mark.parametrize(
    ("epochs", "train", "validation"),
    [([], [], []), ([1], [0.5], [None]), ([1], [0.5], [0.5]), ([1, 2], [None, None], [None, 0.4])],
)
def test_learning_curves_of_little(
    epochs: list[int], train: list[float | None], validation: list[float | None]
) -> None:
    svg = curves(epochs, train, validation, best_epoch=1 if epochs else None)
    assert "nan" not in svg.lower()
    assert (">training<" in svg) == any(value is not None for value in train)


def test_learning_curves_that_hardly_differ_have_no_label_twice() -> None:
    plot = curves([1, 2, 3], [0.981, 0.983, 0.984], [0.975, 0.976, 0.978], best_epoch=3)
    ticks = re.findall(r">([\d.]+\u202f%)<", plot)
    assert len(ticks) >= 3
    assert len(set(ticks)) == len(ticks)


def test_reliability_leaves_out_bins_without_images() -> None:
    empty = {"confidence": None, "accuracy": None, "count": 0}
    with_empty = plots.reliability_diagram([*BINS, empty], name="reliability")
    assert with_empty == plots.reliability_diagram(BINS, name="reliability")


def test_heat_map_survives_a_class_without_test_images() -> None:
    shares = np.eye(30)
    shares[4] = np.nan
    assert "data:image/png;base64," in plots.confusion_heatmap(shares, name='a "name" <b>')
