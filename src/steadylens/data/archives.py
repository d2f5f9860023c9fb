"""Tar and zip archives as trees of files: listed once, and read member by member without being unpacked.

Nothing of an archive is ever written, so a name in it can lead nowhere. Names that would lead out of
a folder, links and devices are refused all the same: a data set has no use for them.
"""

from __future__ import annotations

import os
import re
import stat
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from steadylens.data.folders import counted, listed, printable
from steadylens.data.images import Refusal
from steadylens.data.reading import CONTENT_CEILING
from steadylens.data.trees import Entry, Tree, is_visible
from steadylens.errors import DataError

MEMBER_CEILING = 5_000_000
# The most that is read at once of what describes members: a zip's whole directory, at about 80 bytes a
# member, or one extended header of a tar.
HEADER_CEILING = 400_000_000
# Deflate makes of one byte 1032 at most (zlib's own figure); more in all means that members overlap.
TOTAL_RATIO_CEILING = 1032
# A photograph hardly shrinks, and drawings to a hundredth; a larger file that shrinks more is no image to learn from.
BOMB_BYTES, BOMB_RATIO = 64 * 2**20, 100
_LONGEST_NAME, _DEEPEST = 4096, 64  # Linux's own limit; deeper folders only cost memory
_PACKED = re.compile(r".*\.(tar\.\w+|tgz|tbz2?|txz|tzst|gz|bz2|xz|zst|7z|rar)", re.IGNORECASE | re.DOTALL)
_NO_FOLLOW = "a link: links in archives are not followed"
_DEVICE = "a device, a pipe or a socket"


class _Member(NamedTuple):
    """Where a file lies in the archive: for a zip the offset is that of its local header; `crc` is None in a tar."""

    offset: int
    stored: int
    size: int
    deflated: bool
    crc: int | None


def is_archive(path: Path) -> bool:
    """Whether a file is an archive that can be read, by its extension.

    Raises:
        DataError: it is a compressed one.
    """
    if _PACKED.fullmatch(path.name):
        raise DataError(
            f"{printable(str(path))} is compressed as a whole, so that its images cannot be read one by one. "
            "Unpack it and name the folder, or pack it again as .tar or .zip."
        )
    return path.suffix.casefold() in (".tar", ".zip")


def archive_tree(path: Path, found: Callable[[int], None] = lambda _count: None) -> Tree:
    """The tree of an archive, named `archive.zip/folder/file`; `found` is told how many members were listed so far.

    Members that are links, devices, encrypted, sparse, larger than `CONTENT_CEILING` or suspiciously well
    packed have a place in the tree, and reading them gives a Refusal. Of members of one name the last counts.

    Raises:
        DataError: it is damaged, cut off, or has more than `MEMBER_CEILING` members.
    """
    archive = _Archive(path)
    try:
        (_list_zip if path.suffix.casefold() == ".zip" else _list_tar)(archive, found)
    except DataError:
        raise
    except Exception as error:  # hostile bytes raise anything, in zipfile and tarfile as in Pillow
        form = path.suffix[1:].casefold()
        raise _damaged(path, f"it cannot be read as {form} ({error or type(error).__name__})") from error
    notes = [archive.end_note] if archive.end_note else []
    if archive.repeated:
        times = f"{counted(archive.repeated, 'name')} more than once: the last of each counts"
        notes.append(f"{printable(path.name)} holds {times}, such as {listed(archive.repeated, 1)}.")
    refused = tuple(archive.refused)
    return Tree(str(path), path.parent, archive.entries, archive.read, refused, tuple(notes), archive=str(path))


class _Archive:
    """An open archive: its members by folder and name (None for a folder), and their bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self.file)
        self.size = os.fstat(self.file).st_size
        self.folders: dict[str, dict[str, _Member | Refusal | None]] = {"": {}}
        self.refused: list[tuple[str, str]] = []
        self.repeated: list[str] = []
        self.end_note = ""

    def add(self, name: str, what: _Member | Refusal | None) -> None:
        """Give a member its place in the tree; one whose name has none is refused."""
        reason = _unsafe(name)
        if reason:
            self.refused.append((name, reason))
            return
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts:
            return  # "./", the top folder itself
        folder = self._folder(parts[:-1])
        if what is None:
            self._folder(parts)
        elif folder.get(parts[-1], what) is None:
            self.refused.append((name, "there is a folder of the same name"))
        else:
            if parts[-1] in folder:
                self.repeated.append(name)
            folder[parts[-1]] = what

    def _folder(self, parts: list[str]) -> dict[str, _Member | Refusal | None]:
        path = "/".join(parts)
        if path not in self.folders:
            above = self._folder(parts[:-1])
            if above.get(parts[-1]) is not None:
                self.refused.append((path, "there is a folder of the same name"))
            above[parts[-1]] = None
            self.folders[path] = {}
        return self.folders[path]

    def entries(self, folder: str) -> Iterator[Entry]:
        """The visible entries of a folder, given by its full path."""
        for name, what in self.folders[self._inner(folder)].items():
            if is_visible(name):
                yield Entry(name, f"{folder}/{name}", "folder" if what is None else "file")

    def read(self, path: str) -> bytes | Refusal:
        """A member's bytes, or why they cannot be had; never raises."""
        folder, _, name = self._inner(path).rpartition("/")
        what = self.folders.get(folder, {}).get(name, Refusal("could not be opened: there is no such file in there"))
        if what is None:
            return Refusal("could not be opened: not a regular file")
        if isinstance(what, Refusal):
            return what
        try:
            return self._content(what)
        except (OSError, MemoryError, zlib.error) as error:
            return Refusal(f"could not be read from the archive: {error or 'not enough memory'}")

    def _content(self, member: _Member) -> bytes | Refusal:
        if member.crc is None:
            content = self.bytes_at(member.offset, member.stored)
            return content if len(content) == member.size else Refusal("cut off: the archive ends before it")
        # APPNOTE.TXT 4.3.7: the lengths of name and extra field, which the data follows, are the header's last 4 bytes.
        header = self.bytes_at(member.offset, 30)
        start = member.offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
        content = self.bytes_at(start, member.stored)
        if member.deflated:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, member.size + 1)
        whole = header.startswith(b"PK\3\4") and len(content) == member.size and zlib.crc32(content) == member.crc
        return content if whole else Refusal("damaged in the archive: its checksum or size is wrong")

    def bytes_at(self, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`, fewer only at the end of the archive; no position is shared."""
        pieces = []
        while size > 0 and (piece := os.pread(self.file, size, offset)):
            pieces.append(piece)
            offset, size = offset + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _inner(self, path: str) -> str:
        root = f"{self.path}/"
        return path[len(root) :] if path.startswith(root) else path.removeprefix(str(self.path))


class _Headers:
    """What tarfile and zipfile read an archive's headers from: the file, with a ceiling on what is read at once."""

    def __init__(self, archive: _Archive) -> None:
        self._archive, self._position = archive, 0

    def read(self, size: int = -1) -> bytes:
        size = self._archive.size - self._position if size < 0 else size
        if size > HEADER_CEILING:
            raise ValueError(f"a header of {size / 1e9:.1f} GB")
        content = self._archive.bytes_at(self._position, size)
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._archive.size}[whence]
        if start + offset < 0:
            raise OSError("a place before the beginning")
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True


def _list_tar(archive: _Archive, found: Callable[[int], None]) -> None:
    source = cast("IO[bytes]", _Headers(archive))
    with tarfile.open(fileobj=source, mode="r:", encoding="utf-8", errors="surrogateescape") as tar:
        count = 0
        while (info := tar.next()) is not None:
            cast("Any", tar).members.clear()  # tarfile would keep them all
            if info.offset_data + info.size > archive.size:
                raise _damaged(archive.path, f"it ends within {printable(info.name)!r}")
            archive.add(info.name, _tar_member(info))
            count += 1
            _tick(archive.path, count, found)
        # tarfile takes a header that it cannot read for the end, and the rest would be missing without a word.
        if archive.bytes_at(tar.offset, tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise _damaged(archive.path, f"there is no end mark after {counted(range(count), 'member')}")
        if any(archive.bytes_at(tar.offset, 2**20)):
            archive.end_note = f"{printable(archive.path.name)} has something behind its end mark, which is not read."


def _tar_member(info: tarfile.TarInfo) -> _Member | Refusal | None:
    if info.isdir():
        return None
    if info.issym() or info.islnk():
        return Refusal(_NO_FOLLOW)
    if not info.isreg():
        return Refusal(_DEVICE)
    if info.issparse():
        return Refusal("stored with holes (a sparse file): pack it again without")
    if info.size > CONTENT_CEILING:
        return Refusal("too large: more than 2 GiB")
    return _Member(info.offset_data, info.size, info.size, deflated=False, crc=None)


def _list_zip(archive: _Archive, found: Callable[[int], None]) -> None:
    with zipfile.ZipFile(cast("IO[bytes]", _Headers(archive))) as zipped:
        infos = zipped.infolist()
    total = sum(info.file_size for info in infos)
    if total > TOTAL_RATIO_CEILING * archive.size:
        what = f"{total / 1e9:.1f} GB of files in {archive.size / 1e6:.1f} MB"
        raise DataError(f"{printable(str(archive.path))} claims to hold {what}: a decompression bomb. It is not read.")
    for count, info in enumerate(infos, 1):
        archive.add(_zip_name(info), _zip_member(info))
        _tick(archive.path, count, found)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The name as it was meant: many programs store UTF-8 without saying so, and some on Windows backslashes."""
    name = info.filename
    if not info.flag_bits & 0x800:  # APPNOTE.TXT 4.4.4: bit 11 says that the name is UTF-8
        try:
            name = name.encode("cp437").decode("utf-8")
        except UnicodeError:
            name = info.filename
    return name.replace("\\", "/") if info.create_system == 0 else name  # 0 is MS-DOS, and Windows


def _zip_member(info: zipfile.ZipInfo) -> _Member | Refusal | None:
    if _zip_name(info).endswith("/"):
        return None
    reason = _zip_refusal(info)
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    member = _Member(info.header_offset, info.compress_size, info.file_size, deflated, info.CRC)
    return Refusal(reason) if reason else member


def _zip_refusal(info: zipfile.ZipInfo) -> str:
    """Why a member is not to be read; "" where it is."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        return _NO_FOLLOW if kind == stat.S_IFLNK else _DEVICE
    if info.flag_bits & 0x1:
        return "encrypted: unpack the archive with its password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"packed by method {info.compress_type}: pack it again by deflate"
    if max(info.file_size, info.compress_size) > CONTENT_CEILING:
        return "too large: more than 2 GiB"
    if info.file_size > max(BOMB_BYTES, BOMB_RATIO * info.compress_size):
        return f"a decompression bomb: {info.compress_size} bytes that become {info.file_size}"
    return ""


def _unsafe(name: str) -> str:
    """Why a member's name is refused; "" where it is fine."""
    if name.startswith(("/", "\\")):
        return "its name is an absolute path"
    if re.match(r"[A-Za-z]:[/\\]", name):
        return "its name begins with a drive letter"
    if ".." in re.split(r"[/\\]", name):
        return "its name leads out of the archive"
    if len(name) > _LONGEST_NAME or name.count("/") > _DEEPEST:
        return "its name is too long, or too deep in folders"
    return ""


def _tick(path: Path, count: int, found: Callable[[int], None]) -> None:
    if count > MEMBER_CEILING:
        raise DataError(
            f"{printable(str(path))} has more than {MEMBER_CEILING:,} members. Pack it as several archives."
        )
    if count % 1024 == 0:
        found(count)


def _damaged(path: Path, why: str) -> DataError:
    return DataError(f"{printable(str(path))} is damaged or cut off: {why}. Make or fetch it again.")
