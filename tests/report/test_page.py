from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import HOSTILE, TEN, MakeRun, png, write

from steadylens.errors import DataError
from steadylens.report.figures import duration, percent, plain
from steadylens.report.page import Example, save_examples, write_page

VOID = {"meta", "link", "img", "br", "wbr"}


class Page(HTMLParser):
    """A page as a reader has it: visible text, tags in order, attributes; unbalanced tags fail."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(attrs) == len(dict(attrs))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.words.append(data)


def page_of(run: Path) -> Page:
    return Page(write_page(run).read_text(encoding="utf-8"))


def report_in(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return report


@pytest.mark.parametrize("classes", [("ok", "scratch"), TEN, tuple(f"species {i:03d}" for i in range(120)), HOSTILE])
def test_page_is_whole_for_any_number_of_classes(make_run: MakeRun, classes: tuple[str, ...]) -> None:
    page = page_of(make_run(classes))
    assert {plain(name) for name in classes} <= {plain(word) for word in page.words}
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_page_loads_nothing(make_run: MakeRun) -> None:
    html = write_page(make_run()).read_text(encoding="utf-8")
    page = Page(html)
    assert "://" not in html
    assert "@import" not in html
    assert page.named("script") == []
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^)]*)\)", html))
    policy = next(a for a in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert str(policy["content"]).startswith("default-src 'none'")


def test_verdict_comes_first(make_run: MakeRun) -> None:
    page = page_of(make_run(plots=False))
    headings = [tag for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings[0] == "h1"
    assert headings.count("h1") == 1
    assert all(int(after[1]) - int(before[1]) <= 1 for before, after in pairwise(headings))
    sentence = (
        f"Finds every class at least {percent(0.63)} of the time; "
        f"right on {percent(0.8)} of images when all classes count the same."
    )
    assert " ".join(sentence.split()) in page.text
    assert page.text.index("Finds every class") < page.text.index("Balanced accuracy")


def test_every_figure_is_the_reports(make_run: MakeRun) -> None:
    run = make_run()
    text, report = page_of(run).text, report_in(run)
    for key in ("balanced_accuracy", "worst_class_recall", "accuracy", "macro_f1", "ece"):
        figure = report["test"][key]
        assert words(percent(figure["value"])) in text
        assert words(f"{100 * figure['low']:.1f} to {percent(figure['high'])}") in text
    for key in ("log_loss", "balanced_log_loss"):
        figure = report["test"][key]
        assert f"{figure['value']:.3f}" in text
        assert f"{figure['low']:.3f} to {figure['high']:.3f}" in text
    for row in sorted(report["test"]["per_class"], key=lambda row: float(row["recall"])):
        shown = [f"{report['data']['splits']['train'][row['class']]:,}", f"{row['support']}"]
        shown += [percent(row[key]) for key in ("recall", "precision", "f1")]
        assert words(" ".join(shown)) in text
    diagnosis = report["diagnosis"]
    for shown_in_words in (diagnosis["text"], *diagnosis["advice"], *report["data"]["notes"], report["command"]):
        assert words(shown_in_words) in text
    for seconds in (*report["timing"].values(), 312.4, 574.9, 600):
        assert words(duration(seconds)) in text


def test_without_a_second_training_none_is_told(make_run: MakeRun) -> None:
    assert "trained again" not in page_of(make_run(plots=False)).text


def test_a_second_training_is_told_with_what_it_leaves_to_the_first(make_run: MakeRun) -> None:
    def refit(report: dict[str, Any]) -> None:
        report["training"]["refit"] = {"images": 4321, "epochs": 23, "seconds": 300.0}

    text = page_of(make_run(change=refit, plots=False)).text
    assert "trained again on the 4,321 images of train and validation together, epochs: 23" in text
    assert "so is the temperature" in text


def words(text: str) -> str:
    return " ".join(text.split())


def test_classes_are_sorted_by_recall_and_the_worst_is_marked(make_run: MakeRun) -> None:
    html = write_page(make_run(plots=False)).read_text(encoding="utf-8")
    table = html[html.index('<table class="classes">') :].split("</table>")[0]
    assert re.findall(r'<span class="name">(.*?)</span>', table) == list(reversed(TEN))
    assert re.findall(r'<tr class="worst">\s*<th scope="row"><span class="name">(.*?)</span>', table) == ["truck"]


def test_hostile_names_are_escaped(make_run: MakeRun) -> None:
    run = make_run(HOSTILE)
    html = write_page(run).read_text(encoding="utf-8")
    page = Page(html)
    assert page.named("script") == []
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "two\u23celines" in page.text
    assert "{{ 7 * 7 }}" in page.text
    assert all('"' not in str(key) and "'" not in str(key) for _, attributes in page.tags for key in attributes)


def test_names_that_utf8_cannot_hold_do_not_stop_the_page(make_run: MakeRun) -> None:
    def change(report: dict[str, Any]) -> None:
        report["command"] = "steadylens train \udcff"
        report["data"]["refusals"][0]["path"] = "bad-\udcff.jpg"

    assert "bad-\ufffd.jpg" in page_of(make_run(change=change, plots=False)).text


@pytest.mark.parametrize("number", [0, 3, 200])
def test_every_refusal_is_listed(make_run: MakeRun, number: int) -> None:
    refusals = [{"path": f"cat/{i}.jpg", "class": "cat", "reason": f"reason <{i}>"} for i in range(number)]

    def change(report: dict[str, Any]) -> None:
        report["data"] |= {"refusals": refusals, "refused": number}

    text = page_of(make_run(change=change, plots=False)).text
    assert all(f"{one['path']} cat {one['reason']}" in text for one in refusals)
    assert ("Every image was used." in text) == (number == 0)


def test_findings_are_shown_with_their_paths(make_run: MakeRun) -> None:
    text = page_of(make_run(plots=False)).text
    for shown in ("12 files are copies", "Certain. Remove them.", "airplane/a.jpg", "truck/b.jpg"):
        assert shown in text


@pytest.mark.parametrize(
    ("strengths", "sentence"),
    [
        ((1.0, 1.5), "changed the more strongly by augmentation the smaller their class is"),
        ((1.0, 1.0), "augmentation changed the images of all classes equally strongly"),
        ((0.0, 0.0), "small classes were shown the same images again and again"),
    ],
)
def test_what_was_done_for_small_classes_is_shown(
    make_run: MakeRun, strengths: tuple[float, float], sentence: str
) -> None:
    def change(report: dict[str, Any]) -> None:
        done = [
            {"images": 900, "drawn_per_epoch": 500, "draws_per_image": 0.56, "effective_images": 3500},
            {"images": 100, "drawn_per_epoch": 500, "draws_per_image": 5.0, "effective_images": 2500},
        ]
        rows = zip(("ok", "scratch"), done, strengths, strict=True)
        per_class = {name: {**row, "strength": strength} for name, row, strength in rows}
        report["selection"]["minority"] = {"epochs": 7, "per_class": per_class}

    text = page_of(make_run(("ok", "scratch"), change=change, plots=False)).text
    assert sentence in text
    assert "saw in 7 epochs at most" in text
    assert f"scratch 100 500 5 \u00d7 {strengths[1]:g} 2,500" in text
    assert f"ok 900 500 0.6 \u00d7 {strengths[0]:g} 3,500" in text


def test_nulls_are_no_zeros(make_run: MakeRun) -> None:
    def change(report: dict[str, Any]) -> None:
        nothing = {"value": None, "low": None, "high": None}
        report["test"] |= dict.fromkeys(("macro_f1", "log_loss", "balanced_log_loss", "ece"), nothing)
        report["test"]["per_class"][0] |= {"precision": None, "recall": None, "f1": None, "support": 0}
        report["test"]["confusion"][0] = [0] * 10
        report["test"] |= {"calibration": None, "reliability": None}
        report["training"] |= dict.fromkeys(("budget_s", "best_epoch", "images_per_second", "precision"))
        report["diagnosis"] |= {"gap": None, "advice": []}
        report["data"] |= {"duplicates": None, "leakage": None, "imbalance_factor": None}
        report["selection"]["minority"] = None
        report["seed"] = None

    text = page_of(make_run(change=change, plots=False)).text
    assert not re.search(r"\b(None|nan|null|NaN|undefined)\b", text)
    assert "Macro F1 \u2013" in text
    assert "airplane 5,000 0 \u2013 \u2013 \u2013" in text
    assert "Finds every class that the test split holds at least" in text
    assert "Put images of \u201cairplane\u201d into the test split" in text
    assert "Not measured in this run: robustness under corruption, abstention, near-duplicates, label issues." in text
    assert "Near-duplicates 0" not in text
    assert "Small classes were not augmented beyond the others in this run." in text


def test_what_is_measured_later_is_shown(make_run: MakeRun) -> None:
    def change(report: dict[str, Any]) -> None:
        per_corruption = {"fog": [0.71, 0.62, 0.53, 0.44, 0.35]}
        report["robustness"] = {"clean": 0.8, "mean_corrupted": 0.53, "worst_corruption": "fog"}
        report["robustness"]["per_corruption"] = per_corruption
        report["test"]["abstention"] = {"coverage": 0.913, "accuracy_when_answering": 0.956}
        report["data"] |= {"near_duplicates": 4, "label_issues": 9}

    text = page_of(make_run(change=change, plots=False)).text
    assert "Not measured in this run" not in text
    assert words(f"fog {percent(0.71)} {percent(0.62)}") in text
    assert words(f"{percent(0.913)} of images, and {percent(0.956)}") in text
    assert "Near-duplicates 4 Label issues 9" in text


@pytest.mark.parametrize(
    ("figures", "label", "sentence"),
    [
        ((0.95, 0.9, "good"), "Steady", "Finds every class at least"),
        ((0.95, 0.9, "overfitting"), "Usable with care", "Finds every class at least"),
        ((0.80, 0.52, "good"), "Usable with care", "Finds every class at least"),
        ((0.80, 0.45, "good"), "Not ready", "Finds every class at least"),
        ((0.80, 0.0, "good"), "Not ready", "Never finds \u201ctruck\u201d"),
        ((0.12, 0.0, "underfitting"), "Not ready", "Not told apart from guessing"),
        ((None, None, "good"), "Not ready", "Not measured"),
    ],
)
def test_verdict_is_honest(
    make_run: MakeRun, figures: tuple[float | None, float | None, str], label: str, sentence: str
) -> None:
    value, worst, verdict = figures

    def change(report: dict[str, Any]) -> None:
        around = {"value": value, "low": value and value - 0.03, "high": value and value + 0.03}
        recall = {"value": worst, "low": worst and worst - 0.05, "high": worst and worst + 0.05}
        report["test"] |= {"balanced_accuracy": around, "worst_class_recall": recall}
        report["diagnosis"]["verdict"] = verdict

    run = make_run(change=change, plots=False)
    opening = page_of(run).text.partition("Good for")[0]
    assert label in opening
    assert sentence in opening


def test_with_one_class_tested_any_answer_is_a_guess(make_run: MakeRun) -> None:
    def change(report: dict[str, Any]) -> None:
        report["diagnosis"]["verdict"] = "good"
        report["test"]["balanced_accuracy"] = {"value": 0.95, "low": 0.9, "high": 0.99}
        report["test"]["worst_class_recall"] = {"value": 0.9, "low": 0.8, "high": 0.95}
        for row in report["test"]["per_class"][1:]:
            row |= {"precision": 0.0, "recall": None, "f1": None, "support": 0}  # called so, and never was

    classes = ("ok", "scratch", "dent")
    text = page_of(make_run(classes, change=change, plots=False)).text
    assert words(f"Not told apart from guessing: right on {percent(0.95)}") in text  # so is whoever always says "ok"
    assert "Deciding about \u201cscratch\u201d and \u201cdent\u201d: no test image was one" in text
    assert words(f"{percent(0.0)} of such answers are right") not in text


def test_a_class_that_was_not_tested_lowers_the_verdict(make_run: MakeRun) -> None:
    def change(report: dict[str, Any]) -> None:
        report["diagnosis"]["verdict"] = "good"
        report["test"]["balanced_accuracy"] = {"value": 0.95, "low": 0.9, "high": 0.99}
        report["test"]["worst_class_recall"] = {"value": 0.9, "low": 0.8, "high": 0.95}
        report["test"]["per_class"][2] |= {"precision": None, "recall": None, "f1": None, "support": 0}

    text = page_of(make_run(("ok", "scratch", "dent"), change=change, plots=False)).text
    assert "Usable with care" in text
    assert "Steady" not in text
    assert "Deciding about \u201cdent\u201d: no test image was one" in text


def test_leakage_lowers_the_verdict(make_run: MakeRun) -> None:
    def change(report: dict[str, Any]) -> None:
        report["diagnosis"]["verdict"] = "good"
        report["data"]["leakage"] = 31

    text = page_of(make_run(change=change, plots=False)).text
    assert "Usable with care" in text
    assert "31 images are in another split too, or almost the same, which flatters them" in text


def test_examples_are_embedded_most_confident_mistakes_first(make_run: MakeRun) -> None:
    html = write_page(make_run(plots=False)).read_text(encoding="utf-8")
    images = Page(html).named("img")
    assert len(images) == 12
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in images)
    assert sum(image.get("class") == "pixels" for image in images) == 11  # one is 96 pixels wide
    assert re.findall("<h3>((?:Wrong|Right).*?)</h3>", html) == ["Wrong, and most sure of it", "Wrong", "Right"]


def test_save_examples_replaces_those_that_were_there(make_run: MakeRun) -> None:
    run = make_run(plots=False)
    content = png(32)
    save_examples(run, [Example("wrong", content, "/photos/cat/7.jpg", "cat", "dog", 0.8125)])
    assert sorted(path.name for path in (run / "examples").iterdir()) == ["000.png", "examples.json"]
    assert (run / "examples" / "000.png").read_bytes() == content
    page = page_of(run)
    assert [image["alt"] for image in page.named("img")] == [f"Test image 1: cat, called dog with {percent(0.8125)}"]
    assert "photos" not in page.text.partition("Examples from the test split")[2].partition("cat/")[0]


def test_a_picture_that_is_gone_is_said_to_be(make_run: MakeRun) -> None:
    run = make_run(plots=False)
    (run / "examples" / "000.png").unlink()
    (run / "examples" / "001.png").write_bytes(b"GIF89a")
    page = page_of(run)
    assert page.text.count("The picture is not there.") == 2
    assert len(page.named("img")) == 10


def test_an_example_cannot_name_a_file_outside_its_folder(make_run: MakeRun) -> None:
    run = make_run(plots=False)
    (run / "secret.png").write_bytes(png(8))
    row = {"file": "../secret.png", "group": "right", "path": "a", "true_class": "a", "predicted_class": "a"}
    write(run / "examples" / "examples.json", [row | {"probability": 0.5}])
    assert page_of(run).named("img") == []


def test_what_is_missing_is_said_to_be(make_run: MakeRun) -> None:
    run = make_run(plots=False)
    for name in ("metrics.jsonl", "recipe.json", "audit.json", "examples/examples.json"):
        (run / name).unlink()
    text = page_of(run).text
    assert "There are no learning curves" in text
    assert "There is no recipe.json in this run." in text
    assert "There is no audit.json in this run." in text
    assert "No examples were saved with this run." in text


def test_later_line_of_an_epoch_counts(make_run: MakeRun) -> None:
    run = make_run()
    lines = [
        {"epoch": epoch, "seconds": 1.0, "train_balanced_accuracy": 0.5, "validation_balanced_accuracy": value}
        for epoch, value in ((1, 0.1), (2, 0.2), (1, 0.3125), (2, 0.4375))
    ]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    labels = [str(svg.get("aria-label")) for svg in page_of(run).named("svg") if svg.get("role") == "img"]
    assert any(percent(0.4375) in label for label in labels)
    assert not any("log-loss" in label for label in labels)


def test_unfinished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a finished run"):
        write_page(tmp_path)


@pytest.mark.parametrize("name", ["report.json", "audit.json", "recipe.json", "examples/examples.json"])
def test_damaged_file_is_named(make_run: MakeRun, name: str) -> None:
    run = make_run(plots=False)
    (run / name).write_text('{"classes": [', encoding="utf-8")
    with pytest.raises(DataError, match=re.escape(name)):
        write_page(run)


def test_damaged_metrics_are_named(make_run: MakeRun) -> None:
    run = make_run(plots=False)
    with (run / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"epoch": 3\n')
    with pytest.raises(DataError, match=r"metrics\.jsonl"):
        write_page(run)


def test_report_of_another_shape_is_refused(make_run: MakeRun) -> None:
    run = make_run(plots=False)
    write(run / "report.json", {"classes": ["a"]})
    with pytest.raises(DataError, match="lacks data, selection, training, diagnosis, test"):
        write_page(run)


def test_page_is_the_same_bytes_again(make_run: MakeRun) -> None:
    run = make_run()
    first = write_page(run).read_bytes()
    assert write_page(run).read_bytes() == first


def test_tables_and_pictures_are_accessible(make_run: MakeRun) -> None:
    page = page_of(make_run())
    assert page.named("html")[0]["lang"] == "en"
    assert all(cell.get("scope") in {"row", "col"} for cell in page.named("th"))
    assert len(page.named("caption")) == len(page.named("table"))
    assert all(svg.get("aria-hidden") or svg.get("aria-label") for svg in page.named("svg"))


def test_chosen_trial_is_marked_and_recipe_gives_reasons(make_run: MakeRun) -> None:
    run = make_run(plots=False)
    html, report = write_page(run).read_text(encoding="utf-8"), report_in(run)
    text = Page(html).text
    assert html.count('<tr class="chosen">') == 1
    assert words(f"logit-adjust cnn-m chosen {percent(0.775)} {percent(0.5)} 0.750") in text
    for name, why in report["selection"]["why"].items():
        assert f"{name} {report['selection']['chosen'][name]} {why}" in text
    assert "weights not set" in text


def test_many_classes_are_folded_and_the_worst_stay_open(make_run: MakeRun) -> None:
    html = write_page(make_run([f"species {i:03d}" for i in range(120)])).read_text(encoding="utf-8")
    before, _, after = html[html.index('<table class="classes">') :].partition("<details>")
    assert len(re.findall(r'<span class="name">', before)) == 20
    assert len(re.findall(r'<span class="name">', after.partition("</details>")[0])) == 100
    assert "The most frequent confusions" in html
    assert '<table class="matrix confusion' not in html
