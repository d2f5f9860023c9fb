"""fixes.csv: what is written can be edited, read back and done; every error is told with its line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steadylens.data.audit import audit, unless_kept
from steadylens.data.duplicates import find_near_duplicates
from steadylens.data.findings import Finding, Suggestion
from steadylens.data.fixes import COLUMNS, apply_fixes, fixes_csv, read_fixes, with_fixes
from steadylens.data.sources import ImageIndex, RefusedImage, index_arrays, read_index
from steadylens.errors import ConfigError, DataError

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
CELLS = st.one_of(
    NAMES, st.sampled_from(["=1+1", "'=1", "''@x", "-1", "+a", "\t=x", "a,b", 'a"b', "a;b", "\r\n", "'a"])
)


def index_of(paths: list[str], labels: list[str]) -> ImageIndex:
    index = index_arrays(np.arange(len(paths), dtype=np.uint8).reshape(-1, 1, 1), labels)
    return replace(index, paths=tuple(paths))


def six() -> ImageIndex:
    """a/0 to a/3 and b/4, b/5."""
    return index_of(["a/0", "a/1", "a/2", "a/3", "b/4", "b/5"], ["a"] * 4 + ["b"] * 2)


def written(folder: Path, *rows: str, header: str = ",".join(COLUMNS)) -> Path:
    file = folder / "fixes.csv"
    file.write_text("\n".join([header, *rows]) + "\n", "utf-8")
    return file


def test_a_row_for_each_file_and_finding_with_what_is_suggested() -> None:
    findings = [
        Finding("label", "t", "likely", "a", ("a/0", "a/1"), suggestions=(Suggestion("a/0", "relabel", "b"),)),
        Finding("grey", "t", "possible", "a", ("a/0", "b/4")),
        Finding("tiny-class", "t", "certain", "a", ("b/4", "b/5")),
    ]
    rows = list(csv.reader(fixes_csv(findings, six()).lstrip("\ufeff").splitlines()))
    assert rows == [
        list(COLUMNS),
        ["a/0", "a", "label", "likely", "relabel", "b"],
        ["a/1", "a", "label", "likely", "", ""],
        ["a/0", "a", "grey", "possible", "", ""],
        ["b/4", "b", "grey", "possible", "", ""],
    ]


def test_suggestions_neither_contradict_each_other_nor_drop_all_copies(tmp_path: Path) -> None:
    sets = (("a/0", "a/1"),)
    findings = [
        Finding("leakage", "t", "certain", "a", sets[0], sets, (Suggestion("a/0", "drop"),)),
        Finding("label", "t", "likely", "a", ("a/0", "a/2"), suggestions=(Suggestion("a/0", "relabel", "b"),)),
        Finding("duplicate", "t", "certain", "a", sets[0], sets, (Suggestion("a/1", "drop"),)),
    ]
    file = tmp_path / "fixes.csv"
    file.write_text(fixes_csv(findings, six()), "utf-8")
    assert [(fix.path, fix.action) for fix in read_fixes(file) if fix.action] == [("a/0", "drop")]
    assert len(apply_fixes(six(), file)) == 5


def test_drop_relabel_keep_and_nothing(tmp_path: Path) -> None:
    file = written(
        tmp_path, "a/0,a,grey,possible,drop,", "a/1,a,label,likely,relabel,b", "a/2,a,grey,possible,keep,",
        "a/3,a,grey,possible,,", "a/1,a,grey,possible,keep,",
    )  # fmt: skip
    index = apply_fixes(six(), file)
    assert index.paths == ("a/1", "a/2", "a/3", "b/4", "b/5")
    assert [index.classes[label] for label in index.labels] == ["b", "a", "a", "b", "b"]
    assert index.refusals == (RefusedImage("a/0", "a", "dropped by fixes.csv"),)
    assert index.fixes is not None
    assert (index.fixes.dropped, index.fixes.relabelled) == (1, 1)
    assert index.fixes.kept == {("a/2", "grey"), ("a/1", "grey")}
    assert "fixes.csv: 1 image dropped, 1 relabelled, 2 findings kept as known." in index.notes


def test_a_class_that_is_merged_into_another_is_gone_and_one_that_is_dropped_is_empty(tmp_path: Path) -> None:
    nine = index_of([f"{c}/{i}" for c in "abc" for i in range(3)], [c for c in "abc" for _ in range(3)])
    merged = apply_fixes(nine, written(tmp_path, *(f"b/{i},b,similar-classes,likely,relabel,c" for i in range(3))))
    assert (merged.classes, merged.labels.tolist(), merged.empty_classes) == (("a", "c"), [0] * 3 + [1] * 6, ())
    assert any("'b'" in note and "no class any more" in note for note in merged.notes)
    dropped = apply_fixes(nine, written(tmp_path, *(f"b/{i},b,blank,likely,drop," for i in range(3))))
    assert (dropped.classes, dropped.empty_classes) == (("a", "c"), ("b",))
    with pytest.raises(DataError, match="one class"):
        apply_fixes(six(), written(tmp_path, "b/4,b,label,likely,relabel,a", "b/5,b,label,likely,relabel,a"))
    with pytest.raises(DataError, match="only one class"):
        apply_fixes(six(), written(tmp_path, "b/4,b,blank,likely,drop,", "b/5,b,blank,likely,drop,"))


def test_all_errors_come_at_once_with_their_lines(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        "a/9,a,grey,possible,drop,",
        "a/0,a,grey,possible,dorp,",
        "a/1,a,label,likely,relabel,bb",
        "a/2,a,label,likely,relabel,",
        "a/3,a,grey,possible,keep,",
        "a/3,a,blank,likely,drop,",
        "b/4,b,label,likely,relabel,a",
        "b/4,b,outlier,likely,relabel,b",
    )
    with pytest.raises(ConfigError) as error:
        apply_fixes(six(), file)
    told = str(error.value)
    for what in (
        "line 2: there is no image 'a/9'",
        "line 3: the action must be drop, relabel, keep or empty. Got 'dorp' instead (did you mean drop?)",
        "line 4: new_class must be one of the classes there are. Got 'bb' instead (did you mean 'b'?)",
        "line 5: new_class must be one of the classes there are. It is empty",
        "line 7: drop 'a/3', but line 6 says keep",
        "line 9: relabel as 'b' 'b/4', but line 8 says relabel as 'a'",
    ):
        assert what in told


@pytest.mark.parametrize(
    ("first", "second", "contradict"),
    [
        ("grey,possible,drop,", "blank,likely,drop,", False),
        ("grey,possible,keep,", "blank,likely,keep,", False),
        ("label,likely,relabel,b", "grey,possible,keep,", False),
        ("label,likely,relabel,b", "label,likely,keep,", True),
        ("label,likely,relabel,b", "blank,likely,drop,", True),
        ("label,likely,relabel,b", "outlier,likely,relabel,b", False),
    ],
)
def test_which_rows_contradict_each_other(tmp_path: Path, first: str, second: str, contradict: bool) -> None:
    file = written(tmp_path, f"a/0,a,{first}", f"a/0,a,{second}")
    if contradict:
        with pytest.raises(ConfigError, match=r"line 3: .*but line 2 says"):
            apply_fixes(six(), file)
    else:
        apply_fixes(six(), file)


def test_a_thousand_errors_are_cut_short(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="and 980 more"):
        apply_fixes(six(), written(tmp_path, *(f"a/{i + 10},a,grey,possible,drop," for i in range(1000))))


def test_rows_on_files_that_are_refused_already_are_counted(tmp_path: Path) -> None:
    index = replace(six(), refusals=(RefusedImage("b/x", "b", "empty file"),))
    fixed = apply_fixes(index, written(tmp_path, "b/x,b,refused,certain,drop,"))
    assert len(fixed) == 6
    assert "1 of its rows are about files that are not used anyway" in fixed.notes[-1]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_spreadsheets_save_is_read(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    rows = [COLUMNS, ("a/0", "a", "grey", "possible", " Drop ", ""), ("",) * 6]
    file = tmp_path / "f.csv"
    file.write_bytes((end.join(delimiter.join(row) for row in rows) + end).encode(encoding))
    assert [(fix.path, fix.action, fix.finding) for fix in read_fixes(file)] == [("a/0", "drop", "grey")]


def test_a_file_written_by_hand_needs_only_what_it_says(tmp_path: Path) -> None:
    assert len(apply_fixes(six(), written(tmp_path, "a/0,drop", header="path,action"))) == 5


def test_files_that_are_no_fixes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lacks the columns path, action"):
        read_fixes(written(tmp_path, "a,b", header="x,y"))
    with pytest.raises(ConfigError, match="lacks the columns"):
        read_fixes(written(tmp_path, header=""))
    with pytest.raises(ConfigError, match="could not be read"):
        read_fixes(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("path,action\nbär,drop\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="UTF-8"):
        read_fixes(tmp_path / "latin.csv")


@given(st.lists(st.tuples(CELLS, CELLS), min_size=2, max_size=6, unique_by=lambda pair: pair[0]))
def test_keeping_all_that_was_written_changes_nothing_and_finds_nothing(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:
    paths, labels = [path.replace("/", "|") for path, _ in rows], [name for _, name in rows]
    if len(set(paths)) < len(paths) or len(set(labels)) < 2 or not all(name.strip() for name in labels):
        return
    index = index_of(paths, labels)
    findings = [Finding("grey", "t", "possible", "a", tuple(paths)), Finding("label", "t", "likely", "a", (paths[0],))]
    content = fixes_csv(findings, index)
    cells = list(csv.reader(io.StringIO(content, newline="")))
    assert not any(cell[:1] in tuple("=+-@\t\r\n") for row in cells for cell in row if cell)
    file = tmp_path_factory.mktemp("fixes") / "fixes.csv"
    file.write_bytes(content.replace(",possible,,", ",possible,keep,").replace(",likely,,", ",likely,keep,").encode())
    fixed = apply_fixes(index, file)
    assert (fixed.paths, fixed.classes, fixed.labels.tolist()) == (index.paths, index.classes, index.labels.tolist())
    assert list(unless_kept(findings, fixed)) == []


def test_fixes_that_cannot_be_read_are_told_before_any_image_is_read(tmp_path: Path) -> None:
    def read() -> ImageIndex:
        raise AssertionError

    with pytest.raises(ConfigError, match="could not be read"):
        with_fixes(read, tmp_path / "none.csv")
    assert with_fixes(read, None) is read


def test_fixes_of_a_folder_are_relative_to_it_and_what_is_kept_stays_kept(
    make_images: Callable[..., Path], tmp_path: Path
) -> None:
    data = make_images({"bolt": 12, "nut": 12})
    (data / "nut" / "copy.png").write_bytes((data / "nut" / "000.png").read_bytes())
    pixels = np.random.default_rng(0).integers(0, 256, (25, 8, 8, 3), dtype=np.uint8)

    def audited(index: ImageIndex) -> tuple[Finding, ...]:
        shown = pixels[: len(index)]
        return audit(index, shown, find_near_duplicates(index, shown))

    content = fixes_csv(audited(read_index(data)), read_index(data))
    assert "nut/000.png,nut,duplicate,certain,,\r\nnut/copy.png,nut,duplicate,certain,drop," in content
    file = tmp_path / "fixes.csv"
    file.write_text(content.replace("certain,drop,", "certain,keep,"), "utf-8")
    fixed = with_fixes(read_index, file)(data)
    assert [finding.kind for finding in audited(fixed)] == []
    file.write_text(content, "utf-8")
    dropped = with_fixes(read_index, file)(data)
    assert [refusal.path for refusal in dropped.refusals] == ["nut/copy.png"]
    assert [finding.kind for finding in audited(dropped)] == ["dropped"]
