#!/usr/bin/env python3
"""Throw damaged images of every format at the decoder: only pixels of the right shape or a refusal may come out.

fuzz_decoder.py [--seconds 300] [--crashes FOLDER]

Needs `pip install atheris` (libFuzzer for Python), which follows which lines of Pillow and of the decoder an input
reaches and goes on from those that reach new ones; half of the inputs are splices of two files. An exception, a crash,
an answer that takes longer than 20 seconds or a process of more than 3 GB stops the run, and the input is saved under
--crashes. Ends with libFuzzer's own count of executions.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

with atheris.instrument_imports(include=["PIL", "steadylens.data.images"]):
    import numpy as np
    from PIL import Image, features

    Image.init()  # Pillow's readers are imported here, where they are instrumented, and not when one is needed
    from steadylens.data.images import Header, Refusal, decode, read_header

SIDE = 8


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    """An image as the bytes of a file."""
    content = BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def seeds() -> list[bytes]:
    """Small whole files of every format and of many of their forms."""
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8))
    grey, wide = photo.convert("L"), Image.fromarray(np.full((8, 8), 4660, np.uint16))
    exif = Image.Exif()
    exif[274] = 6
    more = {"save_all": True, "append_images": [photo.rotate(180)]}
    found = [saved(photo, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")]
    found += [saved(photo, form, exif=exif) for form in ("JPEG", "PNG", "WEBP", "TIFF")]
    found += [saved(photo, form, **more) for form in ("GIF", "PNG", "WEBP", "TIFF", "MPO")]
    found += [saved(photo.convert(mode), "TIFF") for mode in ("CMYK", "YCbCr", "LAB", "RGBA", "LA", "P", "1", "I", "F")]
    found += [saved(photo, "TIFF", compression=name) for name in ("tiff_lzw", "jpeg", "packbits", "tiff_adobe_deflate")]
    found += [saved(photo.convert(mode), "PNG") for mode in ("P", "LA", "1", "RGBA")]
    found += [saved(grey, "PPM"), saved(photo.convert("1"), "PPM"), saved(photo.convert("P"), "BMP"), b"P3 1 1 9 1 2 3"]
    found += [saved(wide, "PNG"), saved(wide, "TIFF"), saved(photo.convert("CMYK"), "JPEG"), saved(grey, "JPEG")]
    found += [saved(photo, "JPEG", progressive=True), saved(photo, "WEBP", lossless=True)]
    if features.check("avif"):
        found.append(saved(photo, "AVIF"))
    return found


SEEDS = seeds()


def spliced(content: bytes, longest: int, seed: int) -> bytes:
    """Either one of libFuzzer's own mutations, or the beginning of one file and the end of another."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    if chance.random() < 0.5:
        mutated: bytes = atheris.Mutate(content, longest)
        return mutated
    other = chance.choice(SEEDS)
    return (content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other)) :])[:longest]


def check(content: bytes) -> None:
    """Raise whatever the decoder raises, and an AssertionError for an answer that is none."""
    for outcome in (read_header(content), decode(content, SIDE)):
        if isinstance(outcome, Refusal):
            assert 0 < len(outcome.reason) < 200, outcome  # noqa: S101 - what a fuzzer stops at
            assert "\n" not in outcome.reason, outcome  # noqa: S101
        elif not isinstance(outcome, Header):
            assert outcome.shape == (SIDE, SIDE, 3), outcome.shape  # noqa: S101
            assert outcome.dtype == np.uint8, outcome.dtype  # noqa: S101


def main() -> None:
    """Parse and fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--crashes", type=Path, default=Path("crashes"))
    a = parser.parse_args()
    a.crashes.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS):
            (Path(corpus) / f"{number:02d}").write_bytes(seed)
        limits = ["-timeout=20", "-rss_limit_mb=3000", "-max_len=4096", f"-artifact_prefix={a.crashes}/"]
        words = [sys.argv[0], corpus, f"-max_total_time={a.seconds}", *limits, "-print_final_stats=1", "-verbosity=0"]
        atheris.Setup(words, check, custom_mutator=spliced)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
