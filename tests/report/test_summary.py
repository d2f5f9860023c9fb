"""The summary of an audit in a terminal."""

from __future__ import annotations

from typing import Any

from steadylens.data.findings import Finding
from steadylens.report.summary import audit_summary


def document(classes: int = 3, **more: object) -> dict[str, Any]:
    per_class = {f"class {i:02d}": 10 * (i + 1) for i in range(classes)}
    return {
        "data": "/data/photos", "folder": "photos-audit", "images": sum(per_class.values()), "refused": 1,
        "per_class": per_class, "notes": [],
    } | more  # fmt: skip


def test_counts_come_first_then_findings_then_where_all_is() -> None:
    paths = tuple(f"/data/photos/a/{i}.jpg" for i in range(5))
    text = audit_summary(document(), [Finding("grey", "5 images grey.", "possible", "Look.", paths)])
    lines = text.splitlines()
    assert lines[0] == "60 images in 3 classes; 1 image was not used."
    assert [line.split()[:3] for line in lines[1:4]] == [["class", f"{i:02d}", f"{10 * i + 10}"] for i in (2, 1, 0)]
    assert lines[lines.index("Grey among colour (grey)") :][:6] == [
        "Grey among colour (grey)",
        "  possible: 5 images grey.",
        "            a/0.jpg",
        "            a/1.jpg",
        "            a/2.jpg",
        "            and 2 more",
    ]
    assert "photos-audit/audit.html" in text
    assert "--fixes photos-audit/fixes.csv" in text


def test_nothing_found_is_said() -> None:
    assert "The audit found nothing to report." in audit_summary(document(), [])


def test_many_classes_and_findings_are_shortened_and_sets_stand_on_a_line() -> None:
    sets = (("/data/photos/a/1", "/data/photos/b/1"), tuple(f"/data/photos/a/{i}" for i in range(9)))
    findings = [Finding("duplicate", f"In class {i}.", "certain", "Remove.", sets[0] + sets[1], sets) for i in range(9)]
    text = audit_summary(document(50), findings)
    assert text.count("\n  class ") == 20
    assert "and 30 more between these" in text
    assert "class 00" in text
    assert "a/1 = b/1\n" in text
    assert f"            {' = '.join(f'a/{i}' for i in range(9))}\n" in text
    long = tuple(f"/data/photos/{'long name' * 3}/{i}" for i in range(500))
    grouped = audit_summary(document(), [Finding("groups", "T.", "possible", "A.", long, (long,))])
    assert f"            {' = '.join('long name' * 3 + f'/{i}' for i in range(2))} = ...\n" in grouped
    assert "and 5 more of this kind" in text
    assert text.count("Remove.") == 1  # advice that is the same is given once


def test_lines_have_at_most_100_columns_and_nothing_steers_the_terminal() -> None:
    words = Finding("grey", "word " * 100, "likely", "do " * 100, ("\x1b[31m\n.jpg",))
    text = audit_summary(document(per_class={"a" * 90 + "\x1b": 3, "b": 2}, notes=["note " * 50]), [words])
    assert max(map(len, text.splitlines())) <= 100
    assert "\x1b" not in text
