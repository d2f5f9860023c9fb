"""The decoder: every mode and rotation that a file can have, and nothing but a Refusal for what is damaged."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from steadylens.data.images import PIXEL_CEILING, Header, Refusal, decode, fit_array, read_header

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (12, 8, 3), dtype=np.uint8)  # taller than wide, so that a rotation shows


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:  # noqa: A002 - Pillow's own word
    content = BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def pixels(content: bytes, image_size: int = 8) -> NDArray[np.uint8]:
    image = decode(content, image_size)
    assert not isinstance(image, Refusal), image.reason
    assert image.shape == (image_size, image_size, 3)
    assert image.dtype == np.uint8
    return image


def reason(content: bytes) -> str:
    """The reason for which `decode` refuses some bytes."""
    refusal = decode(content, 8)
    assert isinstance(refusal, Refusal)
    return refusal.reason


def plain(value: object, mode: str = "L", side: int = 8) -> Image.Image:
    return Image.new(mode, (side, side), value)  # type: ignore[arg-type]


def png(mode: int, depth: int, row: bytes, side: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG written by hand, for the bit depths that Pillow does not write."""
    header = struct.pack(">IIBBBBB", side, side, depth, mode, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress((b"\0" + row) * side)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "PPM"])
def test_a_lossless_file_of_the_right_size_comes_back_unchanged(format: str) -> None:  # noqa: A002
    square = PHOTO[:8]
    assert np.array_equal(pixels(saved(Image.fromarray(square), format)), square)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_every_supported_format_is_read(format: str) -> None:  # noqa: A002
    content = saved(Image.fromarray(PHOTO), format)
    assert read_header(content) == Header(8, 12, format)
    pixels(content)


def test_a_file_and_an_array_are_resized_alike() -> None:
    assert np.array_equal(pixels(saved(Image.fromarray(PHOTO)), 5), fit_array(PHOTO, 5))


def test_a_grey_array_becomes_rgb() -> None:
    grey = PHOTO[:8, :, 0]
    assert np.array_equal(fit_array(grey, 8), np.repeat(grey[..., None], 3, axis=2))


def test_the_whole_image_is_squashed_and_nothing_is_cropped() -> None:
    wide = np.zeros((8, 32, 3), np.uint8)
    wide[:, 24:] = 255
    squashed = pixels(saved(Image.fromarray(wide)))
    assert squashed[:, :4].max() < 40
    assert squashed[:, 7].min() > 215


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_exif_orientations_are_undone(format: str, orientation: int) -> None:  # noqa: A002
    turns: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {  # how a camera stores an upright scene
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    scene = np.zeros((24, 16, 3), np.uint8)  # four quarters of four greys: no two orientations look alike
    scene[:12, :8], scene[:12, 8:], scene[12:, :8], scene[12:, 8:] = 0, 80, 160, 240
    exif = Image.Exif()
    exif[274] = orientation
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](scene)))
    options = {"lossless": True} if format == "WEBP" else {}
    content = saved(stored, format, exif=exif, **options)
    assert read_header(content) == Header(16, 24, format)
    assert np.abs(pixels(content, 8).astype(int) - fit_array(scene, 8)).max() <= (6 if format == "JPEG" else 0)


def test_a_broken_exif_block_does_not_cost_the_image() -> None:
    content = saved(Image.fromarray(PHOTO), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffgarbage")
    assert read_header(content) == Header(8, 12, "JPEG")
    pixels(content)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (plain(1, "1"), (255, 255, 255)),
        (plain(90), (90, 90, 90)),
        (plain((200, 10, 10), "RGB").quantize(4), (200, 10, 10)),
        (plain((90, 255), "LA"), (90, 90, 90)),
        (plain((90, 0), "LA"), (255, 255, 255)),
        (plain((10, 20, 30, 255), "RGBA"), (10, 20, 30)),
        (plain((10, 20, 30, 0), "RGBA"), (255, 255, 255)),
        (plain((0, 0, 0, 128), "RGBA"), (127, 127, 127)),
    ],
)
def test_every_png_mode_becomes_rgb_with_transparency_on_white(image: Image.Image, expected: tuple[int, ...]) -> None:
    assert (pixels(saved(image)) == expected).all()


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("CMYK", (0, 0, 0, 0), (255, 255, 255)),
        ("CMYK", (255, 0, 0, 0), (0, 255, 255)),
        ("YCbCr", (128, 128, 128), (128, 128, 128)),
        ("LAB", (255, 128, 128), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 0), (255, 255, 255)),
        ("RGBX", (1, 2, 3, 0), (1, 2, 3)),
        ("I;16", 0x8080, (128, 128, 128)),
        ("I", 257 * 7, (7, 7, 7)),
    ],
)
def test_every_tiff_mode_becomes_rgb(mode: str, value: object, expected: tuple[int, ...]) -> None:
    assert np.abs(pixels(saved(plain(value, mode), "TIFF")).astype(int) - expected).max() <= 1


def test_premultiplied_alpha_is_put_on_white() -> None:
    content = saved(plain((0, 0, 100, 128), "RGBA"), "TIFF")
    straight, premultiplied = (struct.pack("<HHIH", 338, 3, 1, kind) for kind in (2, 1))  # TIFF 6.0, ExtraSamples
    assert straight in content
    assert np.abs(pixels(content.replace(straight, premultiplied)).astype(int) - (127, 127, 227)).max() <= 1


def test_a_palette_with_transparent_entries_shows_white_behind_them() -> None:
    image = plain(0, "P")
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((0, 0), 1)
    assert (pixels(saved(image, transparency=bytes([0, 255])))[0, 0] == (0, 0, 200)).all()
    assert (pixels(saved(image, transparency=bytes([0, 255])))[1:] == 255).all()
    assert (pixels(saved(image, "GIF", transparency=0))[1:] == 255).all()


@pytest.mark.parametrize(("mode", "value"), [("L", 9), ("RGB", (9, 8, 7)), ("1", 0)])
def test_a_transparent_colour_is_white(mode: str, value: object) -> None:
    assert (pixels(saved(plain(value, mode), transparency=value)) == 255).all()


@pytest.mark.parametrize(
    ("mode", "depth", "row", "transparent"),
    [
        (0, 2, b"\x55\x55", struct.pack(">H", 1)),  # grey, 2 bits: all pixels 1
        (0, 4, b"\x33" * 4, struct.pack(">H", 3)),
        (0, 16, b"\x12\x34" * 8, struct.pack(">H", 0x1234)),
        (2, 16, b"\x12\x34" * 24, struct.pack(">3H", 0x1234, 0x1234, 0x1234)),
    ],
)
def test_a_transparent_colour_is_found_at_every_bit_depth(
    mode: int, depth: int, row: bytes, transparent: bytes
) -> None:
    assert (pixels(png(mode, depth, row, 8, (b"tRNS", transparent))) == 255).all()
    assert (pixels(png(mode, depth, row, 8)) < 255).all()


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (128, 0), (129, 1), (65535, 255), (32768, 128)])
def test_sixteen_bit_grey_is_scaled_and_rounded(value: int, expected: int) -> None:
    image = Image.fromarray(np.full((8, 8), value, np.uint16))
    for format_ in ("PNG", "TIFF"):
        assert (pixels(saved(image, format_)) == expected).all()
    big_endian = b"P5 8 8 65535\n" + np.full((8, 8), value, ">u2").tobytes()
    assert (pixels(big_endian) == expected).all()


def test_pixels_without_a_defined_range_are_refused() -> None:
    assert "floating-point" in reason(saved(plain(0.5, "F"), "TIFF"))
    assert "from 70000 to 70000" in reason(saved(plain(70000, "I"), "TIFF"))
    assert "from -1 to -1" in reason(saved(plain(-1, "I"), "TIFF"))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(format: str) -> None:  # noqa: A002
    content = saved(plain(250), format, save_all=True, append_images=[plain(5), plain(90)])
    assert (np.abs(pixels(content).astype(int) - 250) <= 1).all()


def test_a_picture_of_several_pictures_counts_as_jpeg_and_gives_the_first() -> None:
    content = saved(plain(200, side=64), "MPO", save_all=True, append_images=[plain(20, side=64)])
    assert read_header(content) == Header(64, 64, "JPEG")
    assert (np.abs(pixels(content).astype(int) - 200) <= 2).all()


def test_a_large_jpeg_decoded_at_reduced_size_looks_like_the_full_one() -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    scene = np.stack([np.tile(ramp, (320, 1)), np.tile(ramp[:, None], (1, 256)).repeat(2, 0)[:320]] * 2, -1)[..., :3]
    content = saved(Image.fromarray(np.ascontiguousarray(scene)), "JPEG", quality=95)
    full = np.asarray(Image.open(BytesIO(content)).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.abs(pixels(content, 16).astype(int) - full).max() <= 4


def test_what_is_no_image_says_what_it_is() -> None:
    assert reason(b"") == "empty file"
    assert reason(b"<!doctype html><title>404</title>") == "not an image (it begins with text)"
    assert reason("später ".encode() * 500) == "not an image (it begins with text)"
    assert reason(b"\x00\x01\x02\xff" * 90).startswith("not an image in a supported format (JPEG, PNG")
    assert reason(saved(plain(3), "ICO")).startswith("not an image in a supported format")
    assert reason(saved(Image.fromarray(PHOTO), "JPEG")[:12]).startswith("truncated or damaged: ")
    assert reason(b"BM") == "truncated or damaged: its header cannot be read"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
def test_a_truncated_file_is_refused(format: str) -> None:  # noqa: A002
    content = saved(Image.fromarray(RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format)
    assert reason(content[: len(content) * 2 // 3]).startswith("truncated or damaged: ")


def test_the_pixel_ceiling_names_the_sides() -> None:
    huge = png(0, 8, b"\0", 20_000)
    assert reason(huge) == "too many pixels: 20000 x 20000"
    assert read_header(huge) == Refusal("too many pixels: 20000 x 20000")
    assert 13_377**2 <= PIXEL_CEILING < 13_378**2
    assert isinstance(read_header(png(0, 8, b"\0", 13_377)), Header)


def test_the_pixel_ceiling_holds_when_the_host_lifts_that_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert reason(png(0, 8, b"\0", 20_000)) == "too many pixels: 20000 x 20000"


def test_no_warning_leaks_and_the_filters_are_as_before() -> None:
    large = png(0, 8, b"\0", 10_000)  # Pillow warns from 89 megapixels on
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        threads = [threading.Thread(target=read_header, args=(large,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert list(warnings.filters) == before
        warnings.warn("of someone else", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["of someone else"]


SAMPLES = [
    saved(Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)), format_)
    for format_ in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
] + [saved(plain((1, 2), "LA")), saved(plain(4, "I;16"), "TIFF", compression="tiff_lzw"), saved(plain(7), "TIFF")]


def must_not_raise(content: bytes) -> None:
    header, image = read_header(content), decode(content, 8)
    assert isinstance(header, Header | Refusal)
    assert isinstance(image, Refusal) or (image.shape == (8, 8, 3) and image.dtype == np.uint8)
    for outcome in (header, image):
        if isinstance(outcome, Refusal):
            assert 0 < len(outcome.reason) < 200
            assert "\n" not in outcome.reason


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([b"", *(sample[:8] for sample in SAMPLES)]), st.binary(max_size=300))
def test_random_bytes_never_raise(beginning: bytes, rest: bytes) -> None:
    must_not_raise(beginning + rest)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_files_never_raise(sample: bytes, data: st.DataObject) -> None:
    content = bytearray(sample)
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, max_size=12)):
        content[place] = value
    must_not_raise(bytes(content[: data.draw(st.integers(0, len(content)))]))


@pytest.mark.parametrize(("width", "height"), [(60, 30), (30, 60), (40, 40), (400, 3)])
def test_a_padded_image_keeps_its_shape_and_all_of_its_pixels(width: int, height: int) -> None:
    pixels = np.full((height, width, 3), 40, np.uint8)
    square = fit_array(pixels, 20, fit="pad")
    assert square.shape == (20, 20, 3)
    inside = (square == 40).all(2)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    longer = max(width, height)
    assert len(columns) == max(1, round(20 * width / longer))
    assert len(rows) == max(1, round(20 * height / longer))
    assert (square[~inside] == 255).all()
    top, left = rows[0], columns[0]
    assert abs((19 - rows[-1]) - top) <= 1, "in the middle"
    assert abs((19 - columns[-1]) - left) <= 1, "in the middle"


def test_files_and_arrays_are_padded_and_filtered_alike() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    found = set()
    for fit in ("squash", "pad"):
        for interpolation in ("bicubic", "bilinear"):
            how = {"fit": fit, "interpolation": interpolation}
            from_file = decode(content.getvalue(), 24, **how)
            assert not isinstance(from_file, Refusal)
            assert np.array_equal(from_file, fit_array(pixels, 24, **how))
            found.add(from_file.tobytes())
    assert len(found) == 4
