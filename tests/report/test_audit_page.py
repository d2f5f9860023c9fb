"""The page of an audit, and what it shows of findings of any kind."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import HOSTILE, MakeRun, png, write
from test_page import Page, page_of

from steadylens.data.findings import Finding, Suggestion
from steadylens.report.audit_page import opening_of, write_audit_page
from steadylens.report.audit_section import Kind, findings_of, kinds_of, paths_to_draw
from steadylens.report.thumbnails import Thumbnail, save_thumbnails

ROOT = Path("/data/photos")


def thumbnail(path: str, class_name: str = "cat", split: str = "", size: tuple[int, int] = (40, 30)) -> Thumbnail:
    return Thumbnail(path, path.removeprefix(f"{ROOT}/"), class_name, split, *size, png(8, hash(path) % 1000))


def paths(n: int, folder: str = "cat") -> tuple[str, ...]:
    return tuple(f"{ROOT}/{folder}/{i}.jpg" for i in range(n))


def pairs(n: int, folder: str = "cat") -> tuple[tuple[str, ...], ...]:
    return tuple((f"{ROOT}/{folder}/{i}.jpg", f"{ROOT}/{folder}/{i} copy.jpg") for i in range(n))


def of_sets(kind: str, sets: tuple[tuple[str, ...], ...], *suggestions: Suggestion) -> Finding:
    return Finding(kind, "Text.", "likely", "Advice.", tuple(p for one in sets for p in one), sets, suggestions)


def shown(*findings: Finding) -> list[Kind]:
    return kinds_of(findings, [thumbnail(path) for path in paths_to_draw(findings)], ROOT)


def page(folder: Path, *findings: Finding, names: tuple[str, ...] = ("cat", "dog"), **more: object) -> Page:
    document: dict[str, Any] = {
        "data": str(ROOT), "images": 30, "refused": 0, "per_class": {name: 10 + i for i, name in enumerate(names)},
        "refusals": [], "notes": [], "steadylens_version": "0.1.0",
    } | more  # fmt: skip
    drawn = [thumbnail(path, names[0]) for path in paths_to_draw(findings)]
    written = write_audit_page(
        folder, document, findings, drawn, "steadylens train photos --fixes photos-audit/fixes.csv"
    )
    return Page(written.read_text("utf-8"))


def test_a_kind_that_nobody_knows_is_shown_as_well(tmp_path: Path) -> None:
    strange = of_sets("odd-smell", pairs(2), Suggestion(pairs(2)[1][1], "drop"))
    told = page(tmp_path, strange)
    assert "Odd smell 4 files" in told.text
    assert "Text. Likely. Advice." in told.text
    assert len(told.named("img")) == 4
    assert told.text.count("suggested: drop") == 1
    assert sum("Files that belong together" in str(ul.get("aria-label")) for ul in told.named("ul")) == 2


def test_copies_are_side_by_side_and_what_is_suggested_stands_with_each_file() -> None:
    sets = pairs(2)
    (kind,) = shown(of_sets("label", sets, Suggestion(sets[0][0], "relabel", "dog"), Suggestion(sets[1][1], "drop")))
    (one,) = kind.open
    assert [[picture.thumbnail.path for picture in row] for row in one.sets] == [list(row) for row in sets]
    assert [[picture.suggestion for picture in row] for row in one.sets] == [["\u2192 dog", ""], ["", "drop"]]
    assert one.loose == ()
    assert one.all_pictured


def test_long_findings_are_cut_and_say_so(tmp_path: Path) -> None:
    finding = of_sets("duplicate", pairs(120))
    (kind,) = shown(finding)
    assert (len(kind.open[0].sets), kind.open[0].more_sets) == (9, 111)
    assert (len(kind.open[0].paths), kind.open[0].more_paths) == (200, 40)
    assert kind.open[0].paths[0] == "cat/0.jpg"
    text = page(tmp_path, finding).text
    assert "and 111 more sets" in text
    assert "and 40 more, which audit.json lists" in text
    loose = Finding("grey", "Text.", "possible", "Advice.", paths(300))
    assert len(shown(loose)[0].open[0].loose) == 24


def test_many_findings_of_a_kind_are_folded_and_pictures_are_bounded(tmp_path: Path) -> None:
    findings = [of_sets("duplicate", pairs(50, f"class {i}")) for i in range(40)]
    findings += [Finding("blurred", "Text.", "possible", "Advice.", paths(30))]
    findings += [Finding(f"kind-{i}", "Text.", "possible", "Advice.", paths(24, f"k{i}")) for i in range(40)]
    drawn = paths_to_draw(findings)
    assert 300 < len(drawn) <= 400
    assert sum("/class " in path for path in drawn) <= 96
    assert sum("/cat/" in path for path in drawn) == 24  # a talkative kind leaves room for the next
    assert (len(shown(*findings)[0].open), len(shown(*findings)[0].folded)) == (5, 35)
    assert "35 more of this kind" in page(tmp_path, *findings).text


def test_kinds_stand_together_in_the_order_of_their_first_finding() -> None:
    order = ["leakage", "duplicate", "leakage", "grey"]
    assert [kind.kind for kind in shown(*(of_sets(kind, pairs(1)) for kind in order))] == [
        "leakage",
        "duplicate",
        "grey",
    ]


@pytest.mark.parametrize(
    ("findings", "tone"),
    [
        ([], "good"),
        ([Finding("imbalance", "t", "certain", "a"), Finding("stray-file", "t", "certain", "a", ("x",))], "good"),
        ([Finding("grey", "t", "possible", "a", ("x",))], "care"),
        ([Finding("similar-classes", "t", "possible", "a", ("x",))], "care"),
        ([Finding("similar-classes", "t", "likely", "a", ("x",))], "bad"),
        ([Finding("grey", "t", "possible", "a"), Finding("leakage", "t", "certain", "a", ("x",))], "bad"),
    ],
)
def test_how_the_page_opens(tmp_path: Path, findings: list[Finding], tone: str) -> None:
    assert opening_of(findings).tone == tone
    told = page(tmp_path, *findings)
    assert opening_of(findings).headline in told.text
    assert ("What was found" in told.text) == bool(findings)


def test_the_page_loads_nothing_and_escapes_everything(tmp_path: Path) -> None:
    evil = [Finding(name, f"{name} text", "likely", name, paths(2, name), (), ()) for name in HOSTILE]
    refusals = [{"path": name, "class": name, "reason": name} for name in HOSTILE]
    told = page(tmp_path, *evil, names=HOSTILE, refusals=refusals, notes=list(HOSTILE), refused=len(refusals))
    html = (tmp_path / "audit.html").read_text("utf-8")
    assert "<script>alert" not in html
    assert "://" not in html
    assert told.named("script") == []
    for _, attributes in told.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert html.count("<h1") == 1
    ids = [attributes["id"] for _, attributes in told.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {str(link["href"])[1:] for link in told.named("a")} <= set(map(str, ids))


def test_the_page_says_how_to_go_on_and_what_was_refused(tmp_path: Path) -> None:
    refusals = [{"path": f"cat/{i}.jpg", "class": "cat", "reason": f"why {i}"} for i in range(12)]
    told = page(tmp_path, of_sets("duplicate", pairs(1)), refusals=refusals, refused=12, notes=["A note."])
    assert "steadylens train photos --fixes photos-audit/fixes.csv" in told.text
    assert "12 images were not used, and why" in told.text
    assert "cat/11.jpg cat why 11" in told.text
    assert "A note." in told.text


def test_a_run_shows_the_pictures_of_its_findings_and_can_be_written_again(make_run: MakeRun) -> None:
    run = make_run(plots=False)
    findings = [of_sets("near-duplicate", pairs(3)), Finding("odd-size", "T.", "possible", "A.", paths(1, "dog"))]
    write(run / "audit.json", [asdict(finding) for finding in findings])
    drawn = [thumbnail(path, split="test", size=(640, 20)) for path in paths_to_draw(findings)]
    save_thumbnails(run / "audit", drawn, ROOT)
    before = len(page_of(run).named("img"))
    told = page_of(run)
    assert (len(told.named("img")), before) == (12 + 7, 12 + 7)
    assert "640 \u00d7 20" in told.text
    assert "cat test" in told.text
    assert str(ROOT) not in told.text
    (run / "audit" / "thumbnails.json").unlink()
    assert len(page_of(run).named("img")) == 12


def test_findings_are_read_as_they_were_written() -> None:
    findings = [of_sets("label", pairs(2), Suggestion("a", "relabel", "dog")), Finding("x", "t", "certain", "a")]
    assert findings_of(json.loads(json.dumps([asdict(one) for one in findings]))) == findings
    old = [{"kind": "x", "text": "t", "sure": "certain", "advice": "a"}]
    assert findings_of(old) == findings[1:]


def test_a_page_of_many_large_findings_stays_small(tmp_path: Path) -> None:
    page(tmp_path, *(of_sets(f"kind-{i}", pairs(500, "long name " * 5 + str(i))) for i in range(30)))
    assert (tmp_path / "audit.html").stat().st_size < 5e6
    assert re.search("and 400 more, which", (tmp_path / "audit.html").read_text("utf-8")) is None
