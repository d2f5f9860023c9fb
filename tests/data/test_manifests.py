"""Manifests and frames: every way to write a table, and every mistake in one, said at once and by line."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from steadylens.data.sources import ImageIndex, read_index, read_index_to_measure
from steadylens.data.split import split
from steadylens.errors import DataError

Rows = dict[str, list[Any]]


def lay(root: Path, *names: str) -> Path:
    """Write a different image under every name."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 4), (number, 0, 0)).save(root / name, "PNG")
    return root


def write_csv(path: Path, rows: Rows) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([rows, *zip(*rows.values(), strict=True)])
    return path


def write_tsv(path: Path, rows: Rows) -> Path:
    with path.with_suffix(".TSV").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file, delimiter="\t").writerows([rows, *zip(*rows.values(), strict=True)])
    return path.with_suffix(".TSV")


def write_parquet(path: Path, rows: Rows) -> Path:
    pq.write_table(pa.table(rows), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def write_categories(path: Path, rows: Rows) -> Path:
    columns = {name: pa.array(values).dictionary_encode() for name, values in rows.items()}
    pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


FILES = pytest.mark.parametrize("write", [write_csv, write_tsv, write_parquet, write_categories])
FRAMES = pytest.mark.parametrize("library", ["pyarrow", "pandas", "polars"])


def frame_of(library: str, rows: Rows) -> Any:  # noqa: ANN401 - frames have no common type
    if library == "pyarrow":
        return pa.table(rows)
    return pytest.importorskip(library).DataFrame(rows)


def told(index: ImageIndex) -> list[tuple[str, str, str, str]]:
    assert index.root is not None
    shown = [Path(path).relative_to(index.root).as_posix() for path in index.paths]
    return list(zip(shown, [index.classes[i] for i in index.labels], index.splits, index.groups, strict=True))


ROWS: Rows = {
    "path": ["in/b.png", "in/a.png", "c.png", "d.png"],
    "label": ["dog", "cat", "dog", "cat"],
    "split": ["Train", "", "VAL", " test "],
    "group": ["p1", "", "p2", ""],
}
EXPECTED = [
    ("in/b.png", "dog", "train", "p1"),
    ("in/a.png", "cat", "", ""),
    ("c.png", "dog", "validation", "p2"),
    ("d.png", "cat", "test", ""),
]


@FILES
def test_a_manifest_is_read_in_its_order(tmp_path: Path, write: Callable[[Path, Rows], Path]) -> None:
    lay(tmp_path, *ROWS["path"])
    index = read_index(write(tmp_path / "list.csv", {"number": ["1", "2", "3", "4"], **ROWS}))
    assert told(index) == EXPECTED
    assert (index.root, index.classes, index.refusals, index.notes) == (tmp_path, ("cat", "dog"), (), ())


@FRAMES
def test_a_frame_is_read_like_a_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    lay(tmp_path, *ROWS["path"])
    monkeypatch.chdir(tmp_path)
    assert told(read_index(frame_of(library, ROWS))) == EXPECTED
    blank: Rows = {**ROWS, "split": [None, None, "val", "test"], "group": [None, "g", None, None]}
    index = read_index(frame_of(library, blank))
    assert (index.splits, index.groups) == (("", "", "validation", "test"), ("", "g", "", ""))
    with pytest.raises(DataError, match=r"row 1: no label for 'in/a\.png'"):
        read_index(frame_of(library, {**ROWS, "label": ["dog", None, "dog", "cat"]}))


@FRAMES
def test_numbers_as_labels_are_in_numeric_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    monkeypatch.chdir(lay(tmp_path, "a.png", "b.png"))
    index = read_index(frame_of(library, {"path": ["a.png", "b.png"], "label": [10, 9]}))
    assert (index.classes, index.labels.tolist()) == (("9", "10"), [1, 0])


def test_what_frames_of_pandas_hold(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    lay(tmp_path, "a.png", "b.png")
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    frame = pandas.DataFrame({"path": paths, "label": pandas.Categorical(["x", "y"]), 7: [0, 0]}, index=[5, 5])
    assert read_index(frame).classes == ("x", "y")
    with pytest.raises(DataError, match="row 0: no label"):
        read_index(frame.assign(label=[float("nan"), 1.0]))
    with pytest.raises(DataError, match="row 1: no label"):
        read_index(frame.assign(label=pandas.array([1, None], "Int64")))
    with pytest.raises(DataError, match="column label of the frame cannot be used"):
        read_index(frame.assign(label=[1, "a"]))
    with pytest.raises(DataError, match="column path of the frame holds int64: text is needed"):
        read_index(frame.assign(path=[1, 2]))


@pytest.mark.parametrize("write", [write_csv, write_tsv, write_parquet])
@pytest.mark.parametrize("name", ["new\nline.png", 'quo"te.png', "com,ma\t.png", "ünï.png", " blank .png", "'"])
def test_any_name_works(tmp_path: Path, write: Callable[[Path, Rows], Path], name: str) -> None:
    lay(tmp_path, name, "other.png")
    index = read_index(write(tmp_path / "list.csv", {"path": [name, "other.png"], "label": [name, "NA"]}))
    assert told(index) == [(name, name, "", ""), ("other.png", "NA", "", "")]


@pytest.mark.parametrize(
    "content",
    [
        b"path,label\na.png,x\nb.png,y",
        b"\xef\xbb\xbfpath,label\r\na.png,x\r\nb.png,y\r\n",
        b"\r\n\npath,label\na.png,x\n\n\nb.png,y\n,\n\n",
        b' Path ,LABEL,"more"\na.png,x,"1\n\n2"\nb.png,y,\n,,\n',
        b"label,path\nx,a.png\ny,in/../b.png\n",
    ],
)
def test_ways_to_write_a_csv(tmp_path: Path, content: bytes) -> None:
    lay(tmp_path, "a.png", "b.png")
    (tmp_path / "list.csv").write_bytes(content)
    assert told(read_index(tmp_path / "list.csv")) == [("a.png", "x", "", ""), ("b.png", "y", "", "")]


def test_absolute_paths_and_paths_upward(tmp_path: Path) -> None:
    lay(tmp_path, "a.png", "b.png")
    (tmp_path / "lists").mkdir()
    source = write_csv(tmp_path / "lists/l.csv", {"path": [str(tmp_path / "a.png"), "../b.png"], "label": ["x", "y"]})
    index = read_index(source)
    assert index.paths == (str(tmp_path / "a.png"), str(tmp_path / "b.png"))


def test_all_wrong_rows_are_said_at_once_by_line(tmp_path: Path) -> None:
    content = (
        b'\npath,label,split,note\na.png,x,train,"two\nlines"\nb.png,,trian,\n\n,y,,\nc.png, ,test,\nd.png,z,dev,\n'
    )
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_index(tmp_path / "list.csv")
    assert str(caught.value).splitlines() == [
        f"{tmp_path}/list.csv has rows that cannot be used:",
        "  line 5: no label for 'b.png'",
        "  line 5: the split is 'trian' (did you mean 'train'?)",
        "  line 7: no path",
        "  line 8: no label for 'c.png'",
        "  line 9: the split is 'dev'",
        "Fill them in or take the rows out; a split is train, validation (or val), test or blank.",
    ]


def test_of_many_wrong_rows_the_first_are_said_and_the_rest_are_counted(tmp_path: Path) -> None:
    rows = {"path": [f"{number}.png" for number in range(5000)], "label": [""] * 5000}
    with pytest.raises(DataError, match=r"line 21: no label for '19\.png'\n  and 4,980 more\n"):
        read_index(write_csv(tmp_path / "list.csv", rows))
    with pytest.raises(DataError, match="row 0: no label"):
        read_index(write_parquet(tmp_path / "list.csv", rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"path,label\n", "lists no images"),
        (b"paths,lable,split\n", r"'path' is missing .did you mean 'paths'.*'label' is missing .did you mean 'lable'"),
        (b"file;label\n", "parted by semicolons"),
        (b"path,Path,label\na,b,c\n", "'path' is there more than once"),
        (b"a.png,cat\nb.png,dog\n", "has the columns 'a.png', 'cat'"),
        (b'path,label\n"a\n.png",x\nb.png\n\nc.png,y,z\n', r"line 4: 'b\.png'\n  line 6: 'c\.png,y,z'"),
        (b"path,label\na.png,x\n\xe9.png,y\n", "Line 3 of .* is no text in UTF-8"),
        ("path,label\na.png,x\n".encode("utf-16"), "Line 1 of .* is no text in UTF-8"),
        (b"\x89PNG\r\n\x1a\n" + bytes(100), "no text in UTF-8"),
    ],
)
def test_tables_that_cannot_be_used_are_said(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_index(tmp_path / "list.csv")


def test_parquet_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read_index(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="'label' is missing"):
        read_index(write_parquet(tmp_path / "a", {"path": ["a.png"]}))
    for labels in ([[1], [2]], [b"a", b"b"]):
        with pytest.raises(DataError, match=r"The column label of .* text is needed"):
            read_index(write_parquet(tmp_path / "a", {"path": ["a.png", "b.png"], "label": labels}))


def test_paths_that_lead_nowhere_or_come_twice_are_refused(tmp_path: Path) -> None:
    lay(tmp_path, "a.png", "b.png", "c.png", "d.png", "e.png")
    (tmp_path / "folder").mkdir()
    rows = [
        ("a.png", "x", "", ""), ("b.png", "y", "", ""), ("./a.png", "x", "", ""), ("gone.png", "x", "", ""),
        ("folder", "x", "", ""), ("c.png", "x", "train", ""), ("c.png", "x", "test", ""), ("d.png", "y", "", "g"),
        ("d.png", "y", "", "h"), ("\0.png", "y", "", ""), ("e.png", "x", "", ""), ("e.png", "y", "", ""),
    ]  # fmt: skip
    columns = [list(column) for column in zip(*rows, strict=True)]
    names = ("path", "label", "split", "group")
    index = read_index(write_parquet(tmp_path / "list.csv", dict(zip(names, columns, strict=True))))
    assert [path for path, *_ in told(index)] == ["a.png", "b.png"]
    assert [(refusal.path, refusal.reason.split(":")[0]) for refusal in index.refusals] == [
        ("a.png", "listed more than once"),
        ("gone.png", "could not be opened"),
        ("folder", "could not be opened"),
        ("c.png", "listed more than once, each time with another split ('test', 'train')"),
        ("c.png", "listed more than once, each time with another split ('test', 'train')"),
        ("d.png", "listed more than once, each time with another group ('g', 'h')"),
        ("d.png", "listed more than once, each time with another group ('g', 'h')"),
        ("\0.png", "could not be opened"),
        ("e.png", "listed more than once, each time with another label ('x', 'y')"),
        ("e.png", "listed more than once, each time with another label ('x', 'y')"),
    ]


def test_groups_stay_together_when_splits_are_cut(tmp_path: Path) -> None:
    names = [f"{number}.png" for number in range(40)]
    lay(tmp_path, *names)
    groups = [f"g{number // 4}" for number in range(40)]
    rows = {"path": names, "label": ["ab"[number % 2] for number in range(40)], "group": groups}
    index = read_index(write_csv(tmp_path / "list.csv", rows))
    splits = split(index, 0)
    parts = [{index.groups[row] for row in rows} for rows in (splits.train, splits.validation, splits.test)]
    assert all(parts)
    assert sum(map(len, parts)) == len(set(groups))


def test_groups_that_given_splits_tear_apart_are_noted(tmp_path: Path) -> None:
    lay(tmp_path, "a.png", "b.png", "c.png", "d.png")
    rows: Rows = {
        "path": ["a.png", "b.png", "c.png", "d.png"], "label": ["x", "y", "x", "y"],
        "split": ["", "train", "test", "test"], "group": ["g", "h", "g", ""],
    }  # fmt: skip
    (note,) = read_index(write_csv(tmp_path / "list.csv", rows)).notes
    assert note.startswith("1 group in more than one given split: 'g'.")
    rows["split"][2] = "train"
    assert read_index(write_csv(tmp_path / "list.csv", rows)).notes == ()


def test_a_manifest_to_test_or_to_measure_on(tmp_path: Path) -> None:
    lay(tmp_path / "folder", "cat/1.png", "dog/1.png")
    lay(tmp_path, *ROWS["path"])
    manifest = write_csv(tmp_path / "list.csv", ROWS)
    index = read_index(tmp_path / "folder", test=manifest)
    assert (index.splits, index.paths[2]) == (("", "", "test"), str(tmp_path / "d.png"))
    assert told(read_index_to_measure(manifest)) == [("d.png", "cat", "", "")]
    with pytest.raises(DataError, match="two test splits"):
        read_index(manifest, test=tmp_path / "folder")
    plain = write_csv(tmp_path / "plain.csv", {name: ROWS[name] for name in ("path", "label")})
    assert read_index(plain, test=tmp_path / "folder").splits == ("", "", "", "", "test", "test")
    assert len(read_index_to_measure(plain)) == 4


@given(st.binary(max_size=60), st.sampled_from(["csv", "tsv", "parquet"]))
def test_no_bytes_raise_anything_but_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, tail: bytes, end: str
) -> None:
    source = tmp_path_factory.getbasetemp() / f"any.{end}"
    content = io.BytesIO()
    pq.write_table(pa.table({"path": ["a"], "label": ["b"]}), content)
    start = {"csv": b"path,label\n", "tsv": b"path\tlabel\n", "parquet": content.getvalue()[:-40]}[end]
    source.write_bytes(start + tail)
    with pytest.raises(DataError):
        read_index(source)
