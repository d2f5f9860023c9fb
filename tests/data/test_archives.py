"""Archives: read as folders are, and nothing in them leads out, fills the memory, or stops a run."""

from __future__ import annotations

import os
import re
import stat
import string
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from steadylens.data import archives
from steadylens.data.images import Refusal
from steadylens.data.sources import ImageIndex, read_index, read_index_to_measure
from steadylens.errors import DataError

Write = Callable[[Path, Mapping[str, bytes]], Path]


def picture(shade: int) -> bytes:
    content = BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(content, "PNG")
    return content.getvalue()


def pictures(*names: str) -> dict[str, bytes]:
    return {name: picture(number) for number, name in enumerate(names)}


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, BytesIO(content))
    return path


def write_zip(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return path


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


ARCHIVES = pytest.mark.parametrize(("write", "end"), [(write_tar, "tar"), (write_zip, "zip"), (write_zip, "ZIP")])


def told(index: ImageIndex, top: Path) -> dict[str, object]:
    """All that an index says, with paths from the top of the source."""
    paths = [path.removeprefix(f"{top}/") for path in index.paths]
    refusals = [(r.path.removeprefix(f"{top.name}/"), r.class_name, r.reason) for r in index.refusals]
    strays = [path.removeprefix(f"{top.name}/") for path in index.stray_files]
    columns = (index.splits, index.groups, index.sha256)
    arrays = [column.tolist() for column in (index.labels, index.widths, index.heights)]
    contents = [index.read(path) for path in index.paths]
    return {
        "classes": (index.classes, index.empty_classes), "paths": paths, "refusals": refusals, "strays": strays,
        "columns": columns, "arrays": arrays, "contents": contents, "notes": len(index.notes),
    }  # fmt: skip


def outcome(source: Path) -> dict[str, object] | type[DataError]:
    try:
        return told(read_index(source), source)
    except DataError:
        return DataError


# Any names that a file system takes and that an archive may hold: see `_unsafe` for what it may not.
LETTERS = st.characters(codec="utf-8", exclude_characters="/\\\0", exclude_categories=["Cs"])
NAMES = st.one_of(
    st.text(LETTERS, min_size=1, max_size=12).filter(lambda name: not set(name) <= {"."} and len(name.encode()) < 99),
    st.sampled_from(["cat", "Dog", "train", "test", "val", "Thumbs.db", ".hidden", "notes.txt", "1.png", "é\n'\".png"]),
).filter(lambda name: not (len(name) == 2 and name[0] in string.ascii_letters and name[1] == ":"))
CONTENTS = st.sampled_from([picture(1), picture(2), picture(3), b"", b"<html>", picture(1)[:40]])
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=4).map("/".join), CONTENTS, max_size=8)
CLASSES = pictures("cat/1.png", "dog/1.png")


def is_tree(names: set[str]) -> bool:
    """Whether no file is a folder too, in whatever case and composition a file system may take for the same."""
    folders = {name[:at] for name in names for at, letter in enumerate(name) if letter == "/"}
    return not folders & names


@given(TREES.map(lambda tree: {**CLASSES, **tree}).filter(lambda tree: is_tree(set(tree))))
@settings(max_examples=60)
def test_any_tree_gives_the_same_index_as_a_folder_and_as_an_archive(tree: dict[str, bytes]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        expected = outcome(write_folder(Path(folder) / "as", tree))
        for write, end in ((write_tar, "tar"), (write_zip, "zip")):
            assert outcome(write(Path(folder) / f"as.{end}", tree)) == expected


@ARCHIVES
def test_members_are_named_after_the_archive(tmp_path: Path, write: Write, end: str) -> None:
    source = write(tmp_path / f"photos.{end}", {**CLASSES, "cat/bad.png": b""})
    index = read_index(source)
    assert index.root == tmp_path
    assert index.paths == (f"{source}/cat/1.png", f"{source}/dog/1.png")
    assert [refusal.path for refusal in index.refusals] == [f"photos.{end}/cat/bad.png"]


@ARCHIVES
@pytest.mark.parametrize("prefix", ["./", "photos/", "./photos/", "photos//"])
def test_one_wrapping_folder_is_opened(tmp_path: Path, write: Write, end: str, prefix: str) -> None:
    files = {f"{prefix}{name}": content for name, content in pictures("train/a/1.png", "train/b/2.png").items()}
    index = read_index(write(tmp_path / f"photos.{end}", {**files, "LICENSE.txt": b"free", "__MACOSX/x.png": b""}))
    assert (index.classes, index.splits) == (("a", "b"), ("train", "train"))
    assert any("which is read" in note for note in index.notes) == ("photos" in prefix)
    assert any("'LICENSE.txt'" in note for note in index.notes) or f"photos.{end}/LICENSE.txt" in str(index.notes)


@ARCHIVES
def test_a_single_class_is_no_wrapping_folder(tmp_path: Path, write: Write, end: str) -> None:
    source = write(tmp_path / f"a.{end}", pictures("cat/1.png"))
    with pytest.raises(DataError, match="only one class, 'cat'"):
        read_index(source)
    assert read_index_to_measure(source).classes == ("cat",)


@ARCHIVES
@pytest.mark.parametrize("prefix", ["", "all/"])
def test_a_manifest_inside(tmp_path: Path, write: Write, end: str, prefix: str) -> None:
    (tmp_path / "secret.png").write_bytes(picture(9))
    rows = "path,label,split\nin/1.png,a,train\nin/2.png,b,\n./in/../3.png,b,test\n"
    rows += f"../secret.png,a,\n{tmp_path}/secret.png,a,\nin/gone.png,a,\nin,a,\n"
    files = {f"{prefix}{name}": content for name, content in pictures("in/1.png", "in/2.png", "3.png").items()}
    index = read_index(write(tmp_path / f"photos.{end}", {**files, f"{prefix}labels.csv": rows.encode()}))
    assert [path.rpartition(prefix or f"{end}/")[2] for path in index.paths] == ["in/1.png", "in/2.png", "3.png"]
    assert index.splits == ("train", "", "test")
    outside, missing = "its path leads out of the archive", "could not be opened: there is no such file in there"
    reasons = [refusal.reason for refusal in index.refusals]
    assert reasons == [missing if prefix else outside, outside, missing, "could not be opened: not a regular file"]


@ARCHIVES
def test_several_manifests_inside_are_refused_and_other_tables_are_none(tmp_path: Path, write: Write, end: str) -> None:
    table = b"path,label\ncat/1.png,x\ndog/1.png,y\n"
    with pytest.raises(DataError, match="2 manifests"):
        read_index(write(tmp_path / f"a.{end}", {**CLASSES, "a.csv": table, "b.tsv": table.replace(b",", b"\t")}))
    index = read_index(write(tmp_path / f"b.{end}", {**CLASSES, "sizes.csv": b"name,size\n", "bad.parquet": b"PAR1"}))
    assert index.classes == ("cat", "dog")
    with pytest.raises(DataError, match=r"'label' is missing .did you mean 'lable'"):
        read_index(write(tmp_path / f"c.{end}", {**CLASSES, "a.csv": table.replace(b"label", b"lable")}))


@ARCHIVES
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../evil.png", "leads out of the archive"),
        ("cat/../../evil.png", "leads out of the archive"),
        ("cat\\..\\evil.png", "leads out of the archive"),
        ("/etc/evil.png", "an absolute path"),
        ("C:/evil.png", "a drive letter"),
        ("C:\\evil.png", "a drive letter"),
        ("cat/" + "x" * 4096, "too long"),
        ("d/" * 65 + "x.png", "too deep"),
    ],
)
def test_unsafe_names_are_refused(tmp_path: Path, write: Write, end: str, name: str, reason: str) -> None:
    index = read_index(write(tmp_path / f"a.{end}", {**CLASSES, name: picture(5)}))
    (refusal,) = index.refusals
    assert (reason in refusal.reason, refusal.class_name, len(index)) == (True, "", 2)
    assert not list(tmp_path.parent.rglob("evil*"))


def add(tar: tarfile.TarFile, name: str, kind: bytes, target: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    tar.addfile(member)


def test_links_devices_and_pipes_in_a_tar_are_refused(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", CLASSES)
    with tarfile.open(source, "a") as tar:
        add(tar, "cat/link.png", tarfile.SYMTYPE, "/etc/passwd")
        add(tar, "cat/hard.png", tarfile.LNKTYPE, "cat/1.png")
        add(tar, "dog/device.png", tarfile.CHRTYPE)
        add(tar, "dog/pipe.png", tarfile.FIFOTYPE)
    reasons = [(refusal.path[6:], refusal.class_name, refusal.reason) for refusal in read_index(source).refusals]
    assert reasons == [
        ("cat/hard.png", "cat", "a link: links in archives are not followed"),
        ("cat/link.png", "cat", "a link: links in archives are not followed"),
        ("dog/device.png", "dog", "a device, a pipe or a socket"),
        ("dog/pipe.png", "dog", "a device, a pipe or a socket"),
    ]


def test_links_and_devices_in_a_zip_are_refused(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", CLASSES)
    with zipfile.ZipFile(source, "a") as zipped:
        for name, mode in (("cat/link.png", stat.S_IFLNK), ("dog/pipe.png", stat.S_IFIFO)):
            info = zipfile.ZipInfo(name)
            info.external_attr = (mode | 0o777) << 16
            zipped.writestr(info, "/etc/passwd")
    assert [refusal.reason.split(":")[0] for refusal in read_index(source).refusals] == [
        "a link", "a device, a pipe or a socket",
    ]  # fmt: skip


@ARCHIVES
def test_of_members_of_one_name_the_last_counts(tmp_path: Path, write: Write, end: str) -> None:
    index = read_index(
        write(
            tmp_path / f"a.{end}",
            {**CLASSES, "./cat/1.png": picture(7), "cat": b"", "dog/2.png": b"", "dog/2.png/x.png": b""},
        )
    )
    assert index.read(index.paths[0]) == picture(7)
    assert any("1 name more than once: the last of each counts, such as './cat/1.png'" in note for note in index.notes)
    assert [(refusal.path[6:], refusal.reason) for refusal in index.refusals] == [
        ("cat", "there is a folder of the same name"),
        ("dog/2.png", "there is a folder of the same name"),
        ("dog/2.png/x.png", "empty file"),
    ]


def patched(path: Path, old: bytes, new: bytes) -> Path:
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new))
    return path


def central(path: Path, name: str, offset: int, value: bytes) -> Path:
    """Change a field of a member in a zip's directory; the offset is from its beginning (APPNOTE.TXT 4.3.12)."""
    content = bytearray(path.read_bytes())
    at = content.rindex(name.encode()) - 46 + offset
    content[at : at + len(value)] = value
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("offset", "value", "reason"),
    [
        (8, b"\1\0", "encrypted"),
        (10, b"\x09\0", "packed by method 9"),
        (10, b"\x0e\0", "packed by method 14"),
        (16, b"1234", "checksum or size"),
        (24, struct.pack("<I", 10), "checksum or size"),
        (24, struct.pack("<I", 10**6), "checksum or size"),
        (42, struct.pack("<I", 1), "checksum or size"),
    ],
)
def test_members_that_cannot_be_read_are_refused(tmp_path: Path, offset: int, value: bytes, reason: str) -> None:
    source = write_zip(tmp_path / "a.zip", {**CLASSES, "dog/2.png": picture(2), "zebra.txt": os.urandom(2000)})
    (refusal,) = read_index(central(source, "dog/2.png", offset, value)).refusals
    assert refusal.path == "a.zip/dog/2.png"
    assert reason in refusal.reason


def test_bombs_are_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "BOMB_BYTES", 10_000)
    source = write_zip(
        tmp_path / "a.zip", {**CLASSES, "cat/zeros.png": bytes(100_000), "cat/large.png": os.urandom(99)}
    )
    index = read_index(source)
    assert re.fullmatch(r"a decompression bomb: \d+ bytes that become 100000", index.refusals[1].reason)
    monkeypatch.setattr(archives, "CONTENT_CEILING", 98)
    tar = write_tar(tmp_path / "a.tar", {**CLASSES, "cat/large.png": bytes(99)})
    for large in (source, tar):
        assert read_index(large).refusals[0].reason == "too large: more than 2 GiB"
    central(source, "cat/large.png", 24, struct.pack("<I", 2**31))
    with pytest.raises(DataError, match=r"claims to hold 2\.1 GB"):
        read_index(source)


@ARCHIVES
def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write, end: str) -> None:
    source = write(tmp_path / f"a.{end}", CLASSES)
    monkeypatch.setattr(archives, "MEMBER_CEILING", 1)
    with pytest.raises(DataError, match="more than 1 members"):
        read_index(source)


def test_headers_that_would_fill_the_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar = write_tar(tmp_path / "a.tar", {**CLASSES, "cat/" + "x" * 3000: b""})
    zipped = write_zip(tmp_path / "a.zip", CLASSES)
    monkeypatch.setattr(archives, "HEADER_CEILING", 90)
    with pytest.raises(DataError, match=r"cannot be read as zip .a header of"):
        read_index(zipped)
    monkeypatch.setattr(archives, "HEADER_CEILING", 2000)
    with pytest.raises(DataError, match=r"cannot be read as tar .a header of"):
        read_index(tar)


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "A.TAR.BZ2", "a.tar.xz", "a.tar.zst", "a.7z", "a.rar"])
def test_compressed_archives_are_said(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"Unpack it and name the folder, or pack it again as \.tar or \.zip"):
        read_index(tmp_path / name)


@ARCHIVES
def test_an_archive_that_is_cut_off_is_said(tmp_path: Path, write: Write, end: str) -> None:
    whole = write(tmp_path / f"a.{end}", CLASSES).read_bytes()
    source = tmp_path / f"cut.{end}"
    used = 2 * 1024 if end == "tar" else len(whole)  # a tar of two small members ends here, and padding follows
    for size in (*range(0, used, 97), 512, 1024, 1536, used):
        source.write_bytes(whole[: min(size, len(whole) - 1)])
        with pytest.raises(DataError, match="damaged or cut off"):
            read_index(source)


def test_a_tar_is_read_up_to_its_end_mark_and_the_rest_is_said(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", CLASSES)
    source.write_bytes(source.read_bytes() + write_tar(tmp_path / "b.tar", pictures("hog/1.png")).read_bytes())
    index = read_index(source)
    assert index.classes == ("cat", "dog")
    assert any("behind its end mark" in note for note in index.notes)
    broken = patched(write_tar(tmp_path / "c.tar", CLASSES), b"dog/1.png", b"dog/2.png")  # its checksum is wrong now
    with pytest.raises(DataError, match="no end mark after 1 member"):
        read_index(broken)


@given(st.data())
@settings(max_examples=80)
def test_no_damage_raises_anything_but_a_data_error(data: st.DataObject) -> None:
    write, end = data.draw(st.sampled_from([(write_tar, "tar"), (write_zip, "zip")]))
    with tempfile.TemporaryDirectory() as folder:
        source = write(Path(folder) / f"a.{end}", {**CLASSES, "cat/2.png": picture(4)})
        content = bytearray(source.read_bytes())
        for at, value in data.draw(
            st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=9)
        ):
            content[at] = value
        source.write_bytes(content)
        try:
            index = read_index(source)
        except DataError:
            return
        assert len(index) + len(index.refusals) <= 4


def test_names_are_read_as_they_were_meant(tmp_path: Path) -> None:
    source = write_zip(tmp_path / "a.zip", pictures("cat_é.png", "dog/1.png"))
    content = source.read_bytes().replace(
        b"cat_\xc3\xa9.png", b"cat\\\xc3\xa9.png"
    )  # a backslash, as some programs on Windows write
    unmarked = bytearray(content)
    for start in (i for i in range(len(unmarked)) if unmarked[i : i + 4] == b"PK\1\2"):
        unmarked[start + 5] = 0  # made on MS-DOS or Windows
        unmarked[start + 9] &= ~0x08  # the name is not said to be UTF-8
    source.write_bytes(unmarked)
    assert [path.removeprefix(f"{source}/") for path in read_index(source).paths] == ["cat/é.png", "dog/1.png"]


@ARCHIVES
def test_members_are_read_by_many_threads_at_once(tmp_path: Path, write: Write, end: str) -> None:
    files = {f"{'ab'[number % 2]}/{number}.png": picture(number) + os.urandom(5000) for number in range(60)}
    source = write(tmp_path / f"a.{end}", files)
    index = read_index(source)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(index.read, index.paths * 5))
    assert read == [files[path.removeprefix(f"{source}/")] for path in index.paths] * 5


@ARCHIVES
def test_a_test_source_may_be_an_archive_and_the_source_a_folder(tmp_path: Path, write: Write, end: str) -> None:
    test = write(tmp_path / f"test.{end}", pictures("dog/9.png"))
    source = write_folder(tmp_path / "folder", CLASSES)
    index = read_index(source, test=test)
    assert index.splits == ("", "", "test")
    assert [index.read(path) for path in index.paths] == [picture(0), picture(1), picture(0)]
    assert index.read("/etc/nothing") == Refusal("could not be opened: No such file or directory")


def test_a_changed_archive_gives_other_bytes_or_a_refusal(tmp_path: Path) -> None:
    source = write_tar(tmp_path / "a.tar", CLASSES)
    index = read_index(source)
    with source.open("r+b") as file:
        file.truncate(600)
    assert index.read(index.paths[1]) == Refusal("cut off: the archive ends before it")
