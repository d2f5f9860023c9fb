"""Manifests: tables with the columns `path` and `label`, and optionally `split` and `group`, one row an image.

They are CSV, TSV or Parquet files, beside the images or in an archive with them, and frames and
Arrow tables in Python. All that is wrong in one is said at once.
"""

from __future__ import annotations

import codecs
import difflib
import math
import numbers
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from steadylens.data.folders import Candidate, Scan, archives_of, printable, tables_in
from steadylens.data.images import Refusal
from steadylens.data.trees import Tree
from steadylens.errors import DataError

NEEDED, OPTIONAL = ("path", "label"), ("split", "group")
COLUMNS = (*NEEDED, *OPTIONAL)
_SPLITS = {"": "", "train": "train", "validation": "validation", "val": "validation", "test": "test"}
_MOST_PROBLEMS = 20  # a screenful; how many more there are is said


def scan_manifest(tree: Tree, path: str) -> Scan:
    """What a manifest file in a tree lists; paths in it are relative to its folder.

    Raises:
        DataError: it cannot be read as a table, a column is missing, or rows are wrong: all are named, by line.
    """
    where, content = printable(path), tree.read(path)
    if isinstance(content, Refusal):
        raise DataError(f"The manifest {where}: {content.reason}.")
    lines = None
    if path.casefold().endswith(".parquet"):
        table = _read_parquet(content, where)
    else:
        text = _text(content, path)
        table, lines = text.table(), text.lines_of
    return _scan_table(table, tree, os.path.dirname(path), where, lines)  # noqa: PTH120 - paths of a tree are str


def scan_frame(frame: Any, tree: Tree) -> Scan:  # noqa: ANN401 - a frame of any library
    """What a frame of pandas or polars or an Arrow table lists; paths are relative to the tree's root.

    Raises:
        DataError: a column is missing or holds what it cannot, or rows are wrong: all are named, by position.
    """
    return _scan_table(_table_of(frame), tree, tree.root, "the frame", None)


def is_frame(data: object) -> bool:
    """Whether something has named columns."""
    return hasattr(data, "column_names") or hasattr(data, "columns")


def frame_labels(frame: Any) -> list[Any]:  # noqa: ANN401 - a frame of any library
    """The labels of a frame, as values of their own type."""
    labels: list[Any] = _table_of(frame)["label"].to_pylist()
    return labels


def manifest_in(tree: Tree) -> str | None:
    """The path of the one manifest directly in a tree; a table with neither of the needed columns is none.

    Raises:
        DataError: there are several.
    """
    found = [path for path in tables_in(tree) if _looks_like_manifest(tree, path)]
    if len(found) > 1:
        names = ", ".join(printable(path) for path in found)
        raise DataError(f"There are {len(found)} manifests: {names}. Keep one, and give splits by a column `split`.")
    return found[0] if found else None


def names_of(labels: Sequence[object]) -> list[str]:
    """The distinct labels in the order of classes: numbers in numeric order, all else as text in alphabetical order."""
    if all(isinstance(label, numbers.Real) and not isinstance(label, bool) for label in labels):
        return list(dict.fromkeys(str(label) for label in sorted(labels, key=float)))  # type: ignore[arg-type]
    return sorted({str(label) for label in labels})


def is_missing(label: object) -> bool:
    """Whether a label is none: None, NaN, pandas' NA, a time that is none, or blank."""
    if label is None or type(label).__name__ in ("NAType", "NaTType"):
        return True
    if isinstance(label, np.datetime64 | np.timedelta64):
        return bool(np.isnat(label))
    return str(label).strip() == "" or (isinstance(label, numbers.Real) and math.isnan(label))


def require_labels(labels: Iterable[object]) -> None:
    """Raise a DataError that names the position of the first missing label, if there is one."""
    for row, label in enumerate(labels):
        if is_missing(label):
            raise DataError(f"The label in position {row} is missing ({label!r}). Fill it in, or leave that image out.")


def candidates_of(rows: Iterable[Candidate]) -> list[Candidate]:
    """The rows, each path once.

    A path that is listed again with the same class, split and group counts once; where they differ,
    nobody can tell which is meant, and all of them are refused.
    """
    rows = list(rows)
    if len({row.path for row in rows}) == len(rows):
        return rows
    times = Counter(row.path for row in rows)
    variants: dict[str, set[tuple[str, str, str]]] = {}
    for row in rows:
        if times[row.path] > 1:
            variants.setdefault(row.path, set()).add(row[1:4])
    seen: set[str] = set()
    checked = []
    for row in rows:
        differing = variants.get(row.path, ())
        if len(differing) > 1:
            row = row._replace(refusal=_contradiction(differing))  # noqa: PLW2901 - the same row, refused
        elif row.path in seen:
            row = row._replace(refusal="listed more than once: it counts once")  # noqa: PLW2901
        seen.add(row.path)
        checked.append(row)
    return checked


def _contradiction(variants: Iterable[tuple[str, str, str]]) -> str:
    for values, what in zip(zip(*variants, strict=True), ("label", "split", "group"), strict=True):
        if len(set(values)) > 1:
            names = ", ".join(repr(value) for value in sorted(set(values)))
            return f"listed more than once, each time with another {what} ({names}): keep the right one"
    raise ValueError("the variants do not differ")


def _scan_table(
    table: pa.Table, tree: Tree, folder: str, where: str, lines_of: Callable[[list[int]], list[int]] | None
) -> Scan:
    """What the rows of a table with our column names list; `lines_of` tells on which lines of a text they are."""
    columns = {name: _decoded(table[name], name, where) for name in table.column_names}
    texts = {name: _texts(column) for name, column in columns.items()}
    paths, labels, blank = texts["path"], texts["label"], [""] * len(table)
    splits = [_SPLITS.get(text.strip().casefold(), text) for text in texts.get("split", blank)]
    _say_all(_problems(paths, labels, splits), where, lines_of)
    if not paths:
        raise DataError(f"{where} lists no images: it has a header and no rows.")
    groups = [text.strip() for text in texts.get("group", blank)]
    full = (os.path.abspath(os.path.join(folder, path)) for path in paths)  # noqa: PTH100, PTH118 - see disk_tree
    candidates = candidates_of(map(Candidate, full, labels, splits, groups))
    if tree.archive:
        candidates = [_kept_inside(row, tree.archive) for row in candidates]
    classes: dict[str, set[str]] = {name: set() for name in names_of(columns["label"].unique().to_pylist())}
    for row in candidates:
        classes[row.class_name].add(row.split)
    return Scan(tree.home, where, archives_of(tree), classes, candidates, notes=list(tree.notes))


def _problems(paths: Sequence[str], labels: Sequence[str], splits: Sequence[str]) -> list[tuple[int, str]]:
    """What is wrong in which row, in the order of the rows."""
    wrong = set(splits) - set(_SPLITS.values())
    found = [(row, "no path") for row, path in enumerate(paths) if not path.strip()]
    found += [(row, f"no label for {paths[row]!r}") for row, label in enumerate(labels) if not label.strip()]
    found += [(row, f"the split is {split!r}{_meant(split)}") for row, split in enumerate(splits) if split in wrong]
    return sorted(found)


def _kept_inside(row: Candidate, archive: str) -> Candidate:
    inside = row.path.startswith(archive + os.sep)
    return row if inside else row._replace(refusal="its path leads out of the archive")


def _table_of(frame: Any) -> pa.Table:  # noqa: ANN401 - a frame of any library
    """The frame's columns that are ours, under our names."""
    own = {str(name): name for name in getattr(frame, "column_names", None) or list(frame.columns)}
    found = _find_columns(list(own), "the frame")
    return pa.table({name: _column_of(frame[own[theirs]], name) for name, theirs in found.items()})


def _column_of(column: Any, name: str) -> Any:  # noqa: ANN401 - a column of any library
    if isinstance(column, pa.Array | pa.ChunkedArray):
        return column
    values = column.to_list()
    if name == "path":
        values = [os.fspath(value) if isinstance(value, os.PathLike) else value for value in values]
    try:
        return pa.array(values, from_pandas=True)  # NaN and pandas' NA are missing values
    except (pa.ArrowException, ValueError) as error:
        raise DataError(f"The column {name} of the frame cannot be used: {str(error).splitlines()[0]}.") from error


def _decoded(column: pa.ChunkedArray, name: str, where: str) -> pa.ChunkedArray:
    """The column with its values in place of references to a dictionary."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_nested(kind) or pa.types.is_binary(kind) or (name == "path" and not _is_text(kind)):
        raise DataError(f"The column {name} of {where} holds {kind}: text is needed.")
    return column


def _texts(column: pa.ChunkedArray) -> list[str]:
    """The values as text, "" for missing ones; equal ones are one object, so that a million rows take little room."""
    values = column.unique()
    texts = ["" if is_missing(value) else str(value) for value in values.to_pylist()]
    return [texts[index] for index in pc.index_in(column, value_set=values).to_numpy()]


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _say_all(problems: list[tuple[int, str]], where: str, lines_of: Callable[[list[int]], list[int]] | None) -> None:
    """Raise a DataError that lists the rows that are wrong, each with its line or its position."""
    if not problems:
        return
    most = problems[:_MOST_PROBLEMS]
    rows = [row for row, _ in most]
    places = [f"line {line}" for line in lines_of(rows)] if lines_of else [f"row {row}" for row in rows]
    said = [f"{place}: {what}" for place, (_, what) in zip(places, most, strict=True)]
    more = [f"and {len(problems) - len(most):,} more"] if len(problems) > len(most) else []
    fix = "Fill them in or take the rows out; a split is train, validation (or val), test or blank."
    raise DataError("\n  ".join([f"{where} has rows that cannot be used:", *said, *more]) + f"\n{fix}")


def _meant(split: str) -> str:
    close = difflib.get_close_matches(split.casefold(), [name for name in _SPLITS if name], 1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _find_columns(names: Sequence[str], where: str) -> dict[str, str]:
    """The table's own names of the columns, by ours; case and blanks around them do not matter.

    Raises:
        DataError: a needed one is missing, or there are two of one name.
    """
    plain = [name.strip().casefold() for name in names]
    twice = [name for name in COLUMNS if plain.count(name) > 1]
    missing = [name for name in NEEDED if name not in plain]
    problems = [f"the column {name!r} is there more than once" for name in twice]
    for name in missing:
        close = difflib.get_close_matches(name, [p for p in plain if p not in COLUMNS], 1)
        problems.append(f"the column {name!r} is missing" + (f" (did you mean {close[0]!r}?)" if close else ""))
    if problems:
        has = ", ".join(repr(printable(name)) for name in names) or "none"
        semicolons = " Its columns seem to be parted by semicolons: save it with commas." if ";" in has else ""
        raise DataError(f"{where}: {'; '.join(problems)}. It has the columns {has}.{semicolons}")
    return {name: names[plain.index(name)] for name in COLUMNS if name in plain}


def _looks_like_manifest(tree: Tree, path: str) -> bool:
    content = tree.read(path)
    if isinstance(content, Refusal):
        return False
    try:
        if path.casefold().endswith(".parquet"):
            names = pyarrow.parquet.read_schema(pa.BufferReader(content)).names
        else:
            names = _text(content, path).names
    except (DataError, pa.ArrowException, OSError):
        return False
    return any(name.strip().casefold() in NEEDED for name in names)


def _text(content: bytes, path: str) -> _Text:
    return _Text(content, "\t" if path.casefold().endswith(".tsv") else ",", printable(path))


def _read_parquet(content: bytes, where: str) -> pa.Table:
    try:
        names = pyarrow.parquet.read_schema(pa.BufferReader(content)).names
        found = _find_columns(names, where)
        table = pyarrow.parquet.read_table(pa.BufferReader(content), columns=list(found.values()))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{where} cannot be read as Parquet: {str(error).splitlines()[0]}. Write it again.") from error
    return table.select(list(found.values())).rename_columns(list(found))


class _Text:
    """A table as text, CSV or TSV: its header, its rows, and on which line each of them is."""

    def __init__(self, content: bytes, delimiter: str, where: str) -> None:
        plain = content.removeprefix(b"\xef\xbb\xbf")  # the mark that Excel puts before UTF-8
        self.content = plain.lstrip(b"\r\n")
        self.delimiter, self.where = delimiter, where
        self.header_line = plain[: len(plain) - len(self.content)].count(b"\n") + 1
        self.invalid: dict[int, str] = {}  # records with too few or too many values, by number; the header is 1
        if not self.content.strip():
            raise DataError(f"{where} is empty. Its first line has to name the columns: path and label.")
        self._require_utf8()
        self.names: list[str] = self._read(self.content.partition(b"\n")[0] + b"\n", None).column_names

    def table(self) -> pa.Table:
        """The needed columns and those of the optional ones that there are, as text; rows without any are left out."""
        found = _find_columns(self.names, self.where)
        table = self._read(self.content, list(found.values())).rename_columns(list(found))
        self._refuse_invalid()
        blank = pc.and_(pc.equal(table["path"], ""), pc.equal(table["label"], ""))
        for name in table.column_names[2:]:
            blank = pc.and_(blank, pc.equal(table[name], ""))
        self.records = np.flatnonzero(~np.asarray(blank)) + 2
        return table.filter(pc.invert(blank))

    def lines_of(self, rows: list[int]) -> list[int]:
        """The lines, from 1, on which some rows of the table begin."""
        return self._lines_of_records(self.records[rows].tolist())

    def _refuse_invalid(self) -> None:
        if not self.invalid:
            return
        first = dict(list(self.invalid.items())[:_MOST_PROBLEMS])
        more = len(self.invalid) - len(first)
        places = self._lines_of_records(list(first))
        said = [f"line {line}: {text[:80]!r}" for line, text in zip(places, first.values(), strict=True)]
        said += [f"and {more:,} more"] if more else []
        start = f"{self.where} has lines with more or fewer values than its header names ({len(self.names)}):"
        fix = "Put values that hold a separator, a quote or a new line in double quotes."
        raise DataError("\n  ".join([start, *said]) + f"\n{fix}")

    def _lines_of_records(self, numbers: Sequence[int]) -> list[int]:
        """Where records begin: each takes as many lines as there are line ends in its values, and one more."""
        table = self._read(self.content, self.names)
        breaks = sum(np.asarray(pc.count_substring(column, "\n")).astype(np.int64) for column in table.columns)
        others, line, lines = iter(np.asarray(breaks).tolist()), self.header_line, {}
        for number in range(2, max(numbers) + 1):
            line += 1
            lines[number] = line
            line += self.invalid[number].count("\n") if number in self.invalid else next(others)
        return [lines[number] for number in numbers]

    def _read(self, content: bytes, columns: list[str] | None) -> pa.Table:
        """Read the columns as text."""
        self.invalid.clear()
        try:
            return pyarrow.csv.read_csv(
                BytesIO(content),
                read_options=pyarrow.csv.ReadOptions(use_threads=False),  # with threads, records have no numbers
                parse_options=pyarrow.csv.ParseOptions(
                    delimiter=self.delimiter,
                    newlines_in_values=True,
                    ignore_empty_lines=False,  # they count as lines
                    invalid_row_handler=self._note_invalid,
                ),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys(columns or (), pa.string()),
                    include_columns=columns,
                    strings_can_be_null=False,  # a class may be called NA
                ),
            )
        except (pa.ArrowException, ValueError) as error:
            why = str(error).splitlines()[0]
            raise DataError(f"{self.where} cannot be read as a table of text: {why}.") from error

    def _note_invalid(self, row: pyarrow.csv.InvalidRow) -> str:
        self.invalid[row.number] = row.text
        return "skip"

    def _require_utf8(self) -> None:
        """Checked in pieces, so that no second copy of the text is held."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            for start in range(0, len(self.content), 2**20):
                decoder.decode(self.content[start : start + 2**20])
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            line = self.header_line
            for raw in self.content.split(b"\n"):
                try:
                    raw.decode()
                except UnicodeDecodeError:
                    break
                line += 1
            raise DataError(f"Line {line} of {self.where} is no text in UTF-8. Save the table in UTF-8.") from None
