"""A folder of everything that goes wrong, audited and trained on: the table in docs/data.md tells what becomes of each.

The table is read here. A case in it that is not built below, one that is built and not in it, and an outcome that is
not as it says, all fail.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageCms, features

DOCS = Path(__file__).parents[2] / "docs"
TABLE = DOCS / "data.md"
# As the command of the examples: the smallest network, few pixels, one epoch.
TINY = ["--network", "cnn-s", "--width", "0.2", "--epochs", "1", "--image-size", "32", "--set", "precision=fp32"]


@dataclass(frozen=True)
class Case:
    """A row of the table: which file, and what becomes of it."""

    name: str
    path: str
    outcomes: tuple[str, ...]


def cases() -> Iterator[Case]:
    """The rows of the table in the documentation."""
    for line in TABLE.read_text("utf-8").splitlines():
        row = re.fullmatch(r"\| (.+) \| `(.+)` \| (.+) \|", line)
        if row and row[2].startswith(("train/", "test/", "loose", "annotations/")):
            path = row[2].replace(r"\n", "\n").replace(r"\xe9", "\udce9")
            yield Case(row[1], path, tuple(row[3].split("; ")))


CASES = list(cases())
BUILDERS: dict[str, Callable[[Path], None]] = {}


def photo(seed: int, side: int = 24, mode: str = "RGB") -> Image.Image:
    """Noise of which no two are alike."""
    pixels = np.random.default_rng(seed).normal((150, 90, 60), 40, (side, side, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    content = BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def case(path: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    """Marks what builds a case, given the full path."""

    def mark(build: Callable[[Path], None]) -> Callable[[Path], None]:
        BUILDERS[path] = build
        return build

    return mark


def file(path: str, content: Callable[[int], bytes]) -> None:
    """A case that is a file with some bytes, made from a seed of its own."""
    seed = 1000 + len(BUILDERS)
    BUILDERS[path] = lambda full: (full.write_bytes(content(seed)), None)[1]


def image(path: str, form: str, mode: str = "RGB", **options: object) -> None:
    """A case that is an image as Pillow writes it."""
    file(path, lambda seed: saved(photo(seed, mode=mode), form, **options))


def png(width: int, height: int, row: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress((b"\0" + row) * height)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def several(seed: int) -> dict[str, Any]:
    return {"save_all": True, "append_images": [photo(seed + 5000), photo(seed + 6000)]}


HEIC = struct.pack(">I4s4sI4s4s", 24, b"ftyp", b"heic", 0, b"mif1", b"heic") + b"\0\0\0\x08meta" + bytes(200)
EXIF = Image.Exif()
EXIF[274] = 6

for name in ("shift 2/line a/nested.png", ".hidden.png", ".cache/thumbnail.png", "UPPER.PNG", "without"):
    image(f"train/bolt/{name}", "PNG")
for name in ("Žluťoučký 猫 🐈.png", 'it\'s "quoted".png', "two\nlines.png", "--help.png", "[a-z]*?.png"):
    image(f"train/bolt/{name}", "PNG")
for below in ("loose.png", "annotations/box.png", "train/bolt/latin-1-\udce9.png", "train/lonely/only.png"):
    image(below, "PNG")
image("train/bolt/Mixed.JpEg", "JPEG")
file("train/bolt/Thumbs.db", lambda _: b"\xd0\xcf\x11\xe0" * 9)
file("train/bolt/.DS_Store", lambda _: b"\0\0\0\1Bud1")
file("train/bolt/labels.csv", lambda _: b"path,label\n")
file("train/ruined/empty.png", lambda _: b"")


@case("train/bolt/pipe.png")
def _pipe(full: Path) -> None:
    os.mkfifo(full)


def link(path: str, target: str) -> None:
    BUILDERS[path] = lambda full: full.symlink_to(target)


link("train/bolt/loop", "..")
link("train/bolt/self.png", "self.png")
link("train/bolt/dangling.png", "nowhere.png")
link("train/bolt/link-to-a-bolt.png", "bolt-00.png")
link("train/nut/link-to-a-bolt.png", "../bolt/bolt-01.png")


def copy(path: str, of: int) -> None:
    BUILDERS[path] = lambda full: (shutil.copy(full.parents[2] / f"train/bolt/bolt-{of:02}.png", full), None)[1]


copy("train/bolt/copy.png", 2)
copy("train/nut/bolt-too.png", 3)
copy("test/bolt/leaked.png", 4)


@case("train/bolt/forbidden.png")
def _forbidden(full: Path) -> None:
    full.write_bytes(saved(photo(1), "PNG"))
    full.chmod(0)


@case("train/bolt/forbidden")
def _forbidden_folder(full: Path) -> None:
    full.mkdir()
    (full / "inside.png").write_bytes(saved(photo(2), "PNG"))
    full.chmod(0)


@case("train/vacant")
def _vacant(full: Path) -> None:
    full.mkdir()


file("train/bolt/empty.jpg", lambda _: b"")
file("train/bolt/cut.jpg", lambda seed: saved(photo(seed, 64), "JPEG")[:900])
file("train/bolt/cut.png", lambda seed: saved(photo(seed, 64), "PNG")[:-500])
file("train/bolt/header.jpg", lambda seed: saved(photo(seed), "JPEG")[:20])
file("train/bolt/text.jpg", lambda _: "später einfügen\n".encode())
file("train/bolt/404.jpg", lambda _: b"<!doctype html>\n<title>404 Not Found</title>")
file("train/bolt/noise.jpg", lambda seed: b"\0" + np.random.default_rng(seed).bytes(400))
image("train/bolt/favicon.ico", "ICO")
file("train/bolt/phone.heic", lambda _: HEIC)
file("train/bolt/phone.jpg", lambda _: HEIC + b"\1")
file("train/bolt/bomb.png", lambda _: png(20_000, 20_000, bytes(20_000)))
file("train/bolt/no-pixels.gif", lambda seed: saved(photo(seed), "GIF").replace(b"\x18\0\x18\0", bytes(4)))
file("train/bolt/float.tif", lambda _: saved(Image.new("F", (8, 8), 0.5), "TIFF"))
file("train/bolt/deep.tif", lambda _: saved(Image.new("I", (8, 8), 70_000), "TIFF"))
file("train/bolt/trailing.jpg", lambda seed: saved(photo(seed), "JPEG") + bytes(999) + b"\xff\xd8 and more")
image("train/bolt/broken-exif.jpg", "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
image("train/bolt/png.jpg", "PNG")
for suffix, form in (
    ("webp", "WEBP"),
    ("bmp", "BMP"),
    ("gif", "GIF"),
    ("tif", "TIFF"),
    ("ppm", "PPM"),
    ("avif", "AVIF"),
):
    image(f"train/bolt/photo.{suffix}", form)
image("train/bolt/grey.jpg", "JPEG", "L")
image("train/bolt/one-bit.png", "PNG", "1")
image("train/bolt/palette.png", "PNG", "P")
image("train/bolt/palette.gif", "GIF", "P", transparency=0)
file(
    "train/bolt/grey16.png",
    lambda seed: saved(Image.fromarray(np.asarray(photo(seed, mode="L")) * np.uint16(257)), "PNG"),
)
image("train/bolt/grey-alpha.png", "PNG", "LA")
image("train/bolt/alpha.png", "PNG", "RGBA")
image("train/bolt/cmyk.jpg", "JPEG", "CMYK")
image("train/bolt/profile.jpg", "JPEG", icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
image("train/bolt/progressive.jpg", "JPEG", progressive=True)
image("train/bolt/exif-6.jpg", "JPEG", exif=EXIF)
file("train/bolt/stereo.jpg", lambda seed: saved(photo(seed), "MPO", **several(seed)))
for suffix, form in (
    ("animated.gif", "GIF"),
    ("animated.png", "PNG"),
    ("animated.webp", "WEBP"),
    ("pages.tif", "TIFF"),
):
    file(f"train/bolt/{suffix}", lambda seed, form=form: saved(photo(seed), form, **several(seed)))  # type: ignore[misc]
file("train/bolt/pixel.png", lambda seed: saved(photo(seed, 1), "PNG"))
file("train/bolt/line.png", lambda seed: saved(photo(seed, 60).crop((0, 0, 60, 1)), "PNG"))
file("train/bolt/huge.jpg", lambda seed: saved(photo(seed, 60).resize((6000, 5000), Image.Resampling.NEAREST), "JPEG"))


def impossible(one: Case) -> str:
    """Why a case cannot be built here, or ""."""
    if "forbidden" in one.path and os.getuid() == 0:
        return "root may read every file and folder"
    if "Unicode" in one.name and sys.platform != "linux":
        return "other systems refuse such names themselves"
    if "AVIF" in one.name and not features.check("avif"):
        return "this Pillow is built without AVIF"
    return ""


def build(root: Path) -> Path:
    """The folder of horrors, with as many plain images as it takes to train."""
    for name, n in (("train/bolt/bolt", 30), ("train/nut/nut", 16), ("test/bolt/bolt", 4), ("test/nut/nut", 4)):
        (root / name).parent.mkdir(parents=True)
        for number in range(n):
            (root / f"{name}-{number:02}.png").write_bytes(saved(photo(len(name) * 100 + number), "PNG"))
    for one in CASES:
        if not impossible(one):
            full = root / one.path
            full.parent.mkdir(parents=True, exist_ok=True)
            BUILDERS[one.path](full)
    return root


def command(*words: str | Path) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "steadylens", *map(str, words)]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=240)  # noqa: S603 - our own


@dataclass(frozen=True)
class Told:
    """What a command told of the folder: reasons by path, and the rest."""

    refused: dict[str, str]
    notes: list[str]
    findings: list[dict[str, Any]]


@pytest.fixture(scope="module")
def horrors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = build(tmp_path_factory.mktemp("horrors") / "data")
    yield root
    for full in (root / "train/bolt/forbidden", root / "train/bolt/forbidden.png"):
        if full.exists():
            full.chmod(0o700)


@pytest.fixture(scope="module")
def run(horrors: Path) -> Path:
    out = horrors.parent / "run"
    done = command("train", horrors, *TINY, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    return out


@pytest.fixture(scope="module")
def used(horrors: Path, run: Path) -> set[str]:
    rows = pq.read_table(run / "index.parquet").to_pylist()
    return {os.path.relpath(row["path"], horrors) for row in rows if row["refusal"] is None}


@pytest.fixture(scope="module")
def told_by_train(horrors: Path, run: Path) -> Told:
    report = json.loads((run / "report.json").read_text("utf-8"))
    audit = json.loads((run / "audit.json").read_text("utf-8"))
    findings = audit if isinstance(audit, list) else audit["findings"]
    refused = {refusal["path"]: refusal["reason"] for refusal in report["data"]["refusals"]}
    return Told(refused, report["data"]["notes"], [relative(finding, horrors) for finding in findings])


@pytest.fixture(scope="module")
def told_by_audit(horrors: Path) -> Told:
    done = command("audit", horrors, "--json", "--out", horrors.parent / "audit")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    said = json.loads(done.stdout)
    refused = {refusal["path"]: refusal["reason"] for refusal in said["refusals"]}
    return Told(refused, said["notes"], [relative(finding, horrors) for finding in said["findings"]])


def relative(finding: dict[str, Any], root: Path) -> dict[str, Any]:
    """A finding with its paths below the folder, whichever way they were given."""
    return {**finding, "paths": [os.path.relpath(root / path, root) for path in finding["paths"]]}


def shown(path: str) -> str:
    """A path as it is shown: bytes that are not Unicode written out."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


def hold(one: Case, outcome: str, told: Told) -> None:
    """Assert one outcome of a case, by what was told of it."""
    word, _, what = outcome.partition(": ")
    path = shown(one.path)
    reason = told.refused.get(path, "")
    if word == "refused":
        assert reason.startswith(what) and reason, f"{path!r} was refused because {reason!r}"  # noqa: PT018
    elif word == "finding":
        assert path in [p for finding in told.findings if finding["kind"] == what for p in finding["paths"]]
    elif word == "noted":
        names = (f"{one.path!r}", f"{Path(one.path).name!r}", f"{Path(one.path).parts[0]!r}")
        assert [note for note in told.notes if what in note and any(name in note for name in names)], told.notes
    elif word == "passed over":
        assert path not in json.dumps([told.refused, told.notes, told.findings])
    else:
        assert word == "used", f"the table has an outcome that means nothing: {outcome!r}"
        assert reason == ""


def test_the_table_and_the_folder_hold_the_same_cases() -> None:
    assert sorted(one.path for one in CASES) == sorted(BUILDERS)
    assert len({one.name for one in CASES}) == len(CASES) > 60


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_training_comes_to_the_outcome_in_the_table(one: Case, used: set[str], told_by_train: Told) -> None:
    if impossible(one):
        pytest.skip(impossible(one))
    assert (one.path in used) == ("used" in one.outcomes)
    for outcome in one.outcomes:
        hold(one, outcome, told_by_train)


@pytest.mark.parametrize("one", CASES, ids=lambda one: one.name)
def test_the_audit_comes_to_the_outcome_in_the_table(one: Case, told_by_audit: Told) -> None:
    if impossible(one):
        pytest.skip(impossible(one))
    for outcome in one.outcomes:
        hold(one, outcome, told_by_audit)


def test_nothing_is_lost_between_used_and_refused(horrors: Path, used: set[str], told_by_train: Told) -> None:
    """Every visible file that could be an image by its name is either used or refused."""
    visible = {
        shown(os.path.relpath(os.path.join(folder, name), horrors))  # noqa: PTH118 - names that are not Unicode
        for top in ("train", "test")
        for folder, _, names in os.walk(horrors / top)
        for name in names
        if not (name.startswith(".") or "/." in folder or name in ("Thumbs.db", "labels.csv", "pipe.png"))
    }
    noted = {one.path for one in CASES if not impossible(one) and one.outcomes[0].startswith("noted")}
    assert {shown(path) for path in used} | set(told_by_train.refused) == visible - noted | (
        {"train/bolt/forbidden"} & set(told_by_train.refused)
    )
