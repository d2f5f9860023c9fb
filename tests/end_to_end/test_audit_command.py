"""The audit as people use it: the command, what it writes, the table of fixes and its way back into a training."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_command_line import SMALL, command

import steadylens
from steadylens.errors import ConfigError, DataError
from steadylens.report.page import write_page

MakeImages = Callable[..., Path]


@pytest.fixture
def faulty(make_images: MakeImages) -> Path:
    """Bolts and nuts with a copy, an image under two labels, a blank one, a broken one, and a class spelt wrongly."""
    data = make_images({"bolt": 30, "nut": 25, "washer": 25})
    shutil.copy(data / "bolt" / "000.png", data / "bolt" / "again.png")
    shutil.copy(data / "nut" / "000.png", data / "washer" / "nut.png")
    Image.fromarray(np.full((12, 12, 3), 90, np.uint8)).save(data / "nut" / "blank.png")
    (data / "nut" / "broken.png").write_text("<html>", "utf-8")
    (data / "wahser").mkdir()
    for name in ("000.png", "001.png"):
        shutil.move(data / "washer" / name, data / "wahser" / name)
    return data


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as opened:
        return list(csv.DictReader(opened))


def save(file: Path, rows: list[dict[str, str]]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


def test_the_command_says_what_it_found_and_where_the_rest_is(faulty: Path, tmp_path: Path) -> None:
    left = command("audit", faulty, "--out", tmp_path / "out")
    assert left.code == 0, left.err
    places = [left.out.index(title) for title in ("83 images in 4 classes", "(conflicting-label)", "(similar-classes)")]
    assert places == sorted(places)
    assert max(map(len, left.out.splitlines())) <= 100 + len(str(tmp_path))
    assert "nut/000.png = washer/nut.png" in left.out
    assert str(tmp_path / "out" / "audit.html") in left.out
    assert "Auditing" in left.err
    assert "Auditing" not in left.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["audit.html", "audit.json", "fixes.csv"]
    page = (tmp_path / "out" / "audit.html").read_text("utf-8")
    assert page.count("data:image/png") >= 5
    assert "broken.png" in page


def test_json_is_one_object_and_the_same_as_in_the_folder(faulty: Path, tmp_path: Path) -> None:
    left = command("audit", faulty, "--out", tmp_path / "out", "--json", "--quiet")
    assert (left.code, left.err) == (0, "")
    told: dict[str, Any] = json.loads(left.out)
    assert told == json.loads((tmp_path / "out" / "audit.json").read_text("utf-8"))
    assert told.keys() >= {"images", "refused", "per_class", "refusals", "notes", "findings", "folder"}
    assert (told["images"], told["refused"]) == (83, 1)
    assert told["per_class"] == {"bolt": 31, "nut": 26, "wahser": 2, "washer": 24}
    assert told["refusals"][0] | {"reason": ""} == {"path": "nut/broken.png", "class": "nut", "reason": ""}
    kinds = {finding["kind"] for finding in told["findings"]}
    assert kinds >= {"conflicting-label", "refused", "similar-classes", "tiny-class", "imbalance", "blank", "duplicate"}
    assert all(finding.keys() == told["findings"][0].keys() for finding in told["findings"])


def test_the_fixes_of_an_audit_are_followed_as_they_are(faulty: Path, tmp_path: Path) -> None:
    first = steadylens.audit(faulty, out=tmp_path / "first", quiet=True)
    fixed = steadylens.audit(faulty, out=tmp_path / "second", fixes=first.folder / "fixes.csv", quiet=True)
    left = {finding.kind for finding in fixed.findings}
    assert left == {"refused", "dropped", "conflicting-label"}  # which of two labels is right only a person can tell
    assert fixed.report["per_class"] == {"bolt": 30, "nut": 25, "washer": 26}
    assert fixed.report["fixes"] == {"file": "fixes.csv", "dropped": 2, "relabelled": 2, "kept": 0}
    assert {row["reason"] for row in fixed.report["refusals"]} >= {"dropped by fixes.csv"}


def test_what_is_kept_is_not_found_again(faulty: Path, tmp_path: Path) -> None:
    steadylens.audit(faulty, out=tmp_path / "first", quiet=True)
    rows = rows_of(tmp_path / "first" / "fixes.csv")
    kept = save(tmp_path / "kept.csv", [row | {"action": "keep", "new_class": ""} for row in rows])
    again = steadylens.audit(faulty, out=tmp_path / "second", fixes=kept, quiet=True)
    assert {finding.kind for finding in again.findings} == {"refused", "tiny-class", "imbalance"}
    assert rows_of(tmp_path / "second" / "fixes.csv") == []
    assert again.report["images"] == 83


def test_training_follows_fixes_and_its_report_says_so(faulty: Path, tmp_path: Path) -> None:
    steadylens.audit(faulty, out=tmp_path / "audit", quiet=True)
    fixes, run = tmp_path / "audit" / "fixes.csv", tmp_path / "run"
    left = command("train", faulty, *SMALL, "--fixes", fixes, "--out", run)
    assert left.code == 0, left.err
    assert "fixes.csv: 2 images dropped, 2 relabelled" in left.err
    report = json.loads((run / "report.json").read_text("utf-8"))
    assert report["classes"] == ["bolt", "nut", "washer"]
    assert report["data"]["fixes"] == {"file": "fixes.csv", "dropped": 2, "relabelled": 2, "kept": 0}
    page = (run / "report.html").read_text("utf-8")
    assert "2 dropped, 2 relabelled, 0 kept" in page
    assert (run / "fixes.csv").is_file()
    pictures = json.loads((run / "audit" / "thumbnails.json").read_text("utf-8"))["pictures"]
    # And whatever a network of two epochs takes for odd.
    assert {picture["place"] for picture in pictures} >= {"nut/000.png", "washer/nut.png"}
    write_page(run)
    assert (run / "report.html").read_text("utf-8") == page


def test_a_free_folder_is_named_after_the_data(faulty: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    folders = [steadylens.audit(faulty, quiet=True).folder for _ in range(2)]
    assert folders == [Path("parts-audit"), Path("parts-audit-2")]
    with pytest.raises(ConfigError, match="exists already"):
        steadylens.audit(faulty, out="parts-audit", quiet=True)


def test_the_size_at_which_images_are_looked_at_can_be_given(faulty: Path, tmp_path: Path) -> None:
    small = steadylens.audit(faulty, image_size=8, out=tmp_path / "out", quiet=True)
    assert small.report["images"] == 83
    with pytest.raises(ConfigError, match="image_size"):
        steadylens.audit(faulty, image_size=4, out=tmp_path / "other", quiet=True)


def test_errors_leave_with_their_codes_and_write_nothing(faulty: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wrong = save(tmp_path / "wrong.csv", [{"path": "nut/zzz.png", "action": "drop"}, {"path": "", "action": "dro"}])
    left = command("audit", faulty, "--fixes", wrong, "--out", out)
    assert left.code == 2
    assert "line 2: there is no image 'nut/zzz.png'" in left.err
    assert "line 3" in left.err
    assert command("audit", tmp_path / "none", "--out", out).code == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        steadylens.audit(tmp_path / "empty", out=out, quiet=True)
    assert not out.exists()
