#!/usr/bin/env python3
"""Attack a model folder in every known way; each attack must be refused in one sentence, or change nothing.

artifact_attacks.py [--every 1]

A small network is packed, and each case changes a copy of its folder. The outcome is *refused* (an ArtifactError with
a message of one line), *the same* (it loads, with the same classes, preprocessing, temperature and weights: white
space in the document, say), *loads otherwise* or *crashed*. Of the last two there must be none. Most cases are forged:
they carry right digests, as someone who means harm would write them. One case of each attack is also given to
`steadylens predict`, which must exit with 4 and no traceback. --every N takes each N-th of the cases that go through
all bytes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from steadylens import files
from steadylens.data.images import Preprocessing
from steadylens.deployment import artifact
from steadylens.errors import ArtifactError
from steadylens.models import NetworkSpec, build

DOCUMENT, WEIGHTS = "model.json", "model.safetensors"
Case = Callable[[Path], object]  # changes a whole model folder
ODD: tuple[Any, ...] = (
    *(None, True, -1, 0, 2.5, float("nan"), float("inf"), 2**70, 10**400),
    *("", "x", [], [None], {}, [[[[]]]], "\ud800"),
)

HUGE: tuple[tuple[str, str, Any], ...] = (
    ("network", "depth", 10**9),
    ("network", "width", 1e9),
    ("network", "width", 999.0),
    ("network", "image_size", 10**9),
    ("network", "name", "timm:vit_giant_patch14_clip_224"),
    ("network", "name", "timm:nothing"),
    ("preprocessing", "image_size", 10**6),
    ("preprocessing", "std", [0, 1, 1]),
    ("calibration", "temperature", 0),
)


@dataclass(frozen=True)
class Model:
    """A whole model folder, and what it holds."""

    folder: Path
    document: bytes
    weights: bytes

    def header(self) -> dict[str, Any]:
        """The header of the weights, anew."""
        found: dict[str, Any] = json.loads(self.weights[8 : 8 + self._length()])
        return found

    def data(self) -> bytes:
        """What follows the header."""
        return self.weights[8 + self._length() :]

    def _length(self) -> int:
        return int(struct.unpack("<Q", self.weights[:8])[0])


def packed(folder: Path) -> Model:
    """A small model of three classes."""
    torch.manual_seed(0)
    spec = NetworkSpec("keras-blog", classes=3, image_size=8, depth=2, width=0.1, dropout=0.1)
    artifact.pack(
        folder,
        build(spec),
        spec=spec,
        classes=("bolt", "nut", "washer"),
        preprocessing=Preprocessing(8, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        temperature=1.7,
        scores={"balanced_accuracy": {"value": 0.9, "low": 0.8, "high": 0.95}},
        recipe={"l2": 5e-4},
    )
    return Model(folder, (folder / DOCUMENT).read_bytes(), (folder / WEIGHTS).read_bytes())


def writes(name: str, content: bytes) -> Case:
    """Write a file anew."""
    return lambda folder: (folder / name).write_bytes(content)


def takes(name: str, put: Callable[[Path], object] = lambda _: None) -> Case:
    """Take a file away, and put something else in its place."""

    def case(folder: Path) -> None:
        (folder / name).unlink()
        put(folder / name)

    return case


def forged(model: Model, change: Callable[[dict[str, Any]], object], weights: bytes | None = None) -> Case:
    """Change the document, and the weights where they are given, and make all digests right again."""

    def case(folder: Path) -> None:
        document = json.loads(model.document)
        del document["digest"]
        if weights is not None:
            (folder / WEIGHTS).write_bytes(weights)
            document["files"][WEIGHTS] = {"sha256": files.sha256(weights), "bytes": len(weights)}
        change(document)
        document["digest"] = files.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
        (folder / DOCUMENT).write_text(json.dumps(document), "utf-8")

    return case


def with_header(model: Model, header: bytes, data: bytes | None = None, length: int | None = None) -> Case:
    """Forge weights with this header, of which they say that it has this length."""
    start = struct.pack("<Q", len(header) if length is None else length)
    return forged(model, lambda _: None, start + header + (model.data() if data is None else data))


def flipped_bytes(model: Model, every: int) -> Iterator[Case]:
    """One byte after another changed, to a random other one."""
    rng = np.random.default_rng(0)
    for name, content in ((DOCUMENT, model.document), (WEIGHTS, model.weights)):
        for position in range(0, len(content), every):
            other = content[position] ^ int(rng.integers(1, 256))
            yield writes(name, content[:position] + bytes([other]) + content[position + 1 :])


def flipped_bits_of_the_document(model: Model, every: int) -> Iterator[Case]:
    """Each single bit of the document."""
    for bit in range(0, 8 * len(model.document), every):
        changed = bytearray(model.document)
        changed[bit // 8] ^= 1 << bit % 8
        yield writes(DOCUMENT, bytes(changed))


def cut_off_files(model: Model, every: int) -> Iterator[Case]:
    """Each file cut off at every length, also with right digests."""
    for length in range(0, len(model.document) - 1, every):  # its last byte is a newline
        yield writes(DOCUMENT, model.document[:length])
    for length in range(0, len(model.weights), every):
        yield writes(WEIGHTS, model.weights[:length])
        yield forged(model, lambda _: None, model.weights[:length])


def missing_extra_and_odd_files(model: Model, _: int) -> Iterator[Case]:
    """Files that are missing, too many, empty, longer, or no files."""
    for name in (DOCUMENT, WEIGHTS):
        yield takes(name)
        yield takes(name, Path.mkdir)
        yield takes(name, os.mkfifo)
        yield writes(name, b"")
    for name in ("notes.txt", ".hidden", "model.onnx", "pytorch_model.bin", "model.safetensors.bak"):
        yield writes(name, b"x")
    yield lambda folder: (folder / "more").mkdir()
    yield writes(WEIGHTS, model.weights + b"x")
    yield writes(DOCUMENT, b" " * 2**27 + model.document)
    for text in (b"[" * 10**6, b'{"a":' * 10**6, b"[]", b"{}", b"null", b"1" * 10**6, b"\xff\xfe", model.weights):
        yield writes(DOCUMENT, text)
    yield forged(model, lambda d: d["files"].update({"../outside": d["files"][WEIGHTS]}))
    yield forged(model, lambda d: d["files"].update({"/etc/passwd": d["files"][WEIGHTS]}))


def links(model: Model, _: int) -> Iterator[Case]:
    """Files that are links: to the same content elsewhere, to nothing, to themselves, to what has no end."""
    for name in (DOCUMENT, WEIGHTS):
        for target in (str(model.folder / name), "/nowhere", name, "/dev/zero", "/etc/passwd", ".."):
            yield takes(name, partial(_link, target=target))


def _link(path: Path, target: str) -> None:
    path.symlink_to(target)


def other_formats(model: Model, _: int) -> Iterator[Case]:
    """Newer formats and odd ones, with right digests and without."""
    for version in (2, 3, 10**30, 1.5, 0, -1, "1", "2", None, True, [1]):
        document = json.loads(model.document) | {"format_version": version}
        yield writes(DOCUMENT, json.dumps(document).encode())
        yield forged(model, partial(_replace, key="format_version", name=None, value=version))
    yield forged(model, lambda d: d.pop("format_version"))
    yield forged(model, lambda d: d.update(format="other"))


def other_classes(model: Model, _: int) -> Iterator[Case]:
    """Another number of classes than the network has, the same name twice, and what is no name."""
    odd: tuple[Any, ...] = (
        [],
        ["a"],
        ["a", "b"],
        ["a", "b", "c", "d"],
        ["a", "a", "b"],
        [1, 2, 3],
        "abc",
        ["a", "b", None],
    )
    for classes in odd:
        yield forged(model, partial(_replace, key="classes", name=None, value=classes))
    for number in (-1, 0, 2, 4, 10**12):
        yield forged(model, partial(_replace, key="network", name="classes", value=number))


def odd_values_in_the_document(model: Model, _: int) -> Iterator[Case]:
    """Every field that the network's use depends on, replaced by each odd value, and left out."""
    whole = json.loads(model.document)
    blocks = [(key, None) for key in whole if key not in ("digest", "scores", "recipe", "steadylens_version")]
    inner = [(key, name) for key in ("network", "preprocessing", "calibration", "files") for name in whole[key]]
    for key, name in blocks + inner:
        for value in ODD:
            if name == "temperature" and value in (2.5, 2**70):
                continue  # nothing is odd about these
            yield forged(model, partial(_replace, key=key, name=name, value=value))
        yield forged(model, partial(_leave_out, key=key, name=name))
    for key, name, value in HUGE:
        yield forged(model, partial(_replace, key=key, name=name, value=value))


def _replace(document: dict[str, Any], key: str, name: str | None, value: object) -> None:
    (document if name is None else document[key])[name or key] = value


def _leave_out(document: dict[str, Any], key: str, name: str | None) -> None:
    del (document if name is None else document[key])[name or key]


def header_lengths(model: Model, _: int) -> Iterator[Case]:
    """A header's length that cannot be: nothing, more than there is, 2 ** 63, more than any header has."""
    header = model.weights[8 : len(model.weights) - len(model.data())]
    for length in (
        0,
        1,
        7,
        len(header) - 1,
        len(header) + 1,
        len(model.weights),
        10**8 + 1,
        2**31,
        2**32,
        2**63,
        2**64 - 1,
    ):
        yield with_header(model, header, length=length)
    yield with_header(model, header + b" " * (10**8 + 1))  # so long that readers of the format must refuse it
    yield lambda folder: _sparse(model, folder)


def _sparse(model: Model, folder: Path) -> None:
    """A file of a terabyte that takes no space, of which the document says so."""
    forged(model, lambda d: d["files"].update({WEIGHTS: {"sha256": "0" * 64, "bytes": 2**40}}))(folder)
    os.truncate(folder / WEIGHTS, 2**40)


def headers_that_are_none(model: Model, _: int) -> Iterator[Case]:
    """Not UTF-8, not JSON, not an object, nested a million times, a name twice."""
    whole = json.dumps(model.header()).encode()
    first = json.dumps(next(iter(model.header().items()))[0]).encode()
    twice = b"{" + first + b":" + json.dumps(next(iter(model.header().values()))).encode() + b"," + whole[1:]
    for header in (
        b"\xff" * 64,
        b"\x00" * 64,
        b"{",
        whole[:-1],
        whole + b"}",
        b"[]",
        b"null",
        b'"x"',
        b"1",
        b"{}",
        twice,
    ):
        yield with_header(model, header)
    for text in (b"[" * 10_000, b'{"a":' * 10_000, b'{"__metadata__":' + b"[" * 5000, b"9" * 20_000):
        yield with_header(model, text)
    yield forged(model, lambda _: None, b"\x80\x04\x95 a pickle, for example")
    yield forged(model, lambda _: None, b"")


def headers_with_an_odd_entry(model: Model, _: int) -> Iterator[Case]:
    """Each part of each tensor's entry replaced, by types, shapes and offsets of all kinds, and left out."""
    overflowing = ([2**32, 2**32, 2**32], [2**63, 2], [-1, -1], [0, 2**64], [1] * 10_000, [1e308], ["3"], [[3]])
    for name, entry in model.header().items():
        first, last = entry["data_offsets"]
        data = len(model.data())
        offsets = (
            *([last, first], [first, last + 4], [first, last - 4], [first + 4, last + 4], [-4, last - first - 4]),
            *(
                [data, data + last - first],
                [0, data],
                [first, first],
                [2**63, 2**64 - 1],
                [2**64, 2**64 + last - first],
            ),
            *([float(first), float(last)], [first], [first, last, last], [str(first), str(last)], [True, False]),
        )
        for part, values in (
            ("dtype", (*ODD, "F16", "BF16", "F64", "I64", "U8", "f32", "F8_E4M3", "F32 ")),
            ("shape", (*ODD, *overflowing, [*entry["shape"], 1], entry["shape"][1:], [-n for n in entry["shape"]])),
            ("data_offsets", (*ODD, *offsets)),
        ):
            for value in values:
                header = model.header()
                header[name][part] = value
                yield with_header(model, json.dumps(header).encode())
            header = model.header()
            del header[name][part]
            yield with_header(model, json.dumps(header).encode())
        for value in ODD:
            yield with_header(model, json.dumps(model.header() | {name: value}).encode())


def tensors_in_odd_places(model: Model, _: int) -> Iterator[Case]:
    """Overlaps, holes before, between and behind tensors, tensors that are missing, too many or renamed."""
    names = list(model.header())
    for name in names:
        length = model.header()[name]["data_offsets"][1] - model.header()[name]["data_offsets"][0]
        header = model.header()
        header[name]["data_offsets"] = [0, length]
        yield with_header(model, json.dumps(header).encode())  # overlap
        header = model.header()
        begin = header[name]["data_offsets"][0]
        for entry in header.values():
            entry["data_offsets"] = [n + 8 * (entry["data_offsets"][0] >= begin) for n in entry["data_offsets"]]
        data = model.data()
        yield with_header(model, json.dumps(header).encode(), data[:begin] + b"\0" * 8 + data[begin:])  # hole
        header = model.header()
        entry = header.pop(name)
        yield with_header(model, json.dumps(header).encode())
        yield with_header(model, json.dumps(header | {name + "x": entry}).encode())
        yield with_header(model, json.dumps(header | {"x" * 10**6: entry}).encode())
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [len(model.data()), len(model.data()) + 4]}
    yield with_header(model, json.dumps(model.header() | {"more": entry}).encode(), model.data() + b"\0" * 4)
    yield with_header(model, json.dumps(model.header()).encode(), model.data() + b"\0" * 4)
    yield with_header(model, json.dumps(model.header()).encode(), model.data()[:-4])
    yield with_header(model, json.dumps(model.header()).encode(), b"")


def flipped_bytes_of_the_header(model: Model, every: int) -> Iterator[Case]:
    """One byte of the header after another changed in every bit, with right digests."""
    end = len(model.weights) - len(model.data())
    for bit in range(0, 8 * end, every):
        changed = bytearray(model.weights)
        changed[bit // 8] ^= 1 << bit % 8
        yield forged(model, lambda _: None, bytes(changed))


def weights_that_are_no_numbers(model: Model, every: int) -> Iterator[Case]:
    """NaN and infinities in the first, the last and many other numbers."""
    data = model.data()
    header = json.dumps(model.header()).encode()
    for value in (float("nan"), float("inf"), float("-inf")):
        for position in sorted({0, len(data) - 4, *range(0, len(data), 64 * every)}):
            yield with_header(model, header, data[:position] + struct.pack("<f", value) + data[position + 4 :])


ATTACKS: tuple[Callable[[Model, int], Iterator[Case]], ...] = (
    *(flipped_bytes, flipped_bits_of_the_document, cut_off_files, missing_extra_and_odd_files, links, other_formats),
    *(other_classes, odd_values_in_the_document, header_lengths, headers_that_are_none, headers_with_an_odd_entry),
    *(tensors_in_odd_places, flipped_bytes_of_the_header, weights_that_are_no_numbers),
)


def outcome(folder: Path, original: artifact.Artifact) -> str:
    """What loading an attacked folder comes to."""
    try:
        loaded = artifact.load(folder)
    except ArtifactError as error:
        message = str(error)
        return "refused" if message.endswith(".") and "\n" not in message and len(message) < 1000 else f"says {error!r}"
    except Exception as error:  # what it is, is the outcome
        return f"crashed: {error!r}"
    before, after = original.network.state_dict(), loaded.network.state_dict()
    facts = [(a.classes, a.preprocessing, a.temperature) for a in (original, loaded)]
    same = facts[0] == facts[1] and all(torch.equal(before[name], after[name]) for name in before)
    return "the same" if same else "loads otherwise"


def attacked(model: Model, case: Case, copy: Path) -> Path:
    """A copy of the model with one change."""
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(model.folder, copy)
    case(copy)
    return copy


def predicted(folder: Path) -> str:
    """What `steadylens predict` says of an attacked folder: its exit code, and "traceback" where there is one."""
    words = [sys.executable, "-m", "steadylens", "predict", str(folder), "-"]
    done = subprocess.run(words, input=b"", capture_output=True, check=False)
    return str(done.returncode) + (" traceback" if b"Traceback" in done.stderr else "")


def main() -> None:
    """Parse, attack, count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1)
    a = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        model = packed(Path(place) / "model")
        original, copy = artifact.load(model.folder), Path(place) / "copy"
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print("| attack | tried | refused | the same | otherwise or crashed | slowest | predict exits with |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for attack in ATTACKS:
            found: Counter[str] = Counter()
            slowest, exits = 0.0, ""
            for case in attack(model, a.every):
                attacked(model, case, copy)
                begin = time.perf_counter()
                said = outcome(copy, original)
                slowest = max(slowest, time.perf_counter() - begin)
                if said == "refused" and not exits:
                    exits = predicted(copy)
                if said not in ("refused", "the same"):
                    print(f"{attack.__name__}: {said}", file=sys.stderr)
                found[said] += 1
            others = found.total() - found["refused"] - found["the same"]
            wrong += others + (exits != "4")
            counts = f"{found.total():,} | {found['refused']:,} | {found['the same']:,} | {others} | {slowest:.2f} s"
            print(f"| {attack.__name__.replace('_', ' ')} | {counts} | {exits} |", flush=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024
    print(f"\nMemory grew by {grown:.0f} MB at most, the attacks' own files included.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
