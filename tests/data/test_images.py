"""The decoder: every mode and rotation that a file can have, and nothing but a Refusal for what is damaged."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from collections.abc import Callable
from datetime import timedelta
from io import BytesIO
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, features

from steadylens.data.images import FORMATS, PIXEL_CEILING, Header, Refusal, decode, fit_array, read_header

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


@pytest.mark.parametrize("format", FORMATS)
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


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP", "JPEG", *({"AVIF"} & set(FORMATS))])
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
    lossless: dict[str, dict[str, object]] = {
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    }
    content = saved(stored, format, exif=exif, **lossless.get(format, {}))
    assert read_header(content) == Header(16, 24, format)
    assert np.abs(pixels(content, 8).astype(int) - fit_array(scene, 8)).max() <= (
        6 if format in ("JPEG", "AVIF") else 0
    )


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
        ("LA", (90, 0), (255, 255, 255)),
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


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG", *({"AVIF"} & set(FORMATS))])
def test_the_header_says_that_frames_follow_the_first(format: str) -> None:  # noqa: A002
    several = saved(plain(250), format, save_all=True, append_images=[plain(5), plain(90)])
    assert read_header(several) == Header(8, 8, format, animated=True)
    assert read_header(saved(plain(250), format)) == Header(8, 8, format, animated=False)


def test_a_chain_of_tiff_pages_that_bites_its_own_tail_ends() -> None:
    content = saved(plain(7), "TIFF")
    first = struct.unpack("<I", content[4:8])[0]
    next_page = first + 2 + 12 * struct.unpack("<H", content[first : first + 2])[0]
    looped = content[:next_page] + struct.pack("<I", first) + content[next_page + 4 :]
    assert isinstance(read_header(looped), Header)
    pixels(looped)


def test_a_picture_of_several_pictures_counts_as_jpeg_and_gives_the_first() -> None:
    content = saved(plain(200, side=64), "MPO", save_all=True, append_images=[plain(20, side=64)])
    assert read_header(content) == Header(64, 64, "JPEG", animated=False)
    assert (np.abs(pixels(content).astype(int) - 200) <= 2).all()


def test_a_large_jpeg_decoded_at_reduced_size_looks_like_the_full_one() -> None:
    ramp = np.linspace(0, 255, 256).astype(np.uint8)
    scene = np.stack([np.tile(ramp, (320, 1)), np.tile(ramp[:, None], (1, 256)).repeat(2, 0)[:320]] * 2, -1)[..., :3]
    content = saved(Image.fromarray(np.ascontiguousarray(scene)), "JPEG", quality=95)
    full = np.asarray(Image.open(BytesIO(content)).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.abs(pixels(content, 16).astype(int) - full).max() <= 4


def test_a_progressive_jpeg_is_the_same_picture() -> None:
    image = Image.fromarray(PHOTO).resize((64, 96))
    once, in_steps = (pixels(saved(image, "JPEG", progressive=progressive)) for progressive in (False, True))
    assert np.abs(once.astype(int) - in_steps).max() <= 1


@pytest.mark.parametrize("rest", [bytes(5000), b"\xff\xd8\xff\xe0 another", b"SEFH and what phones append" * 50])
def test_what_follows_the_end_of_a_jpeg_changes_nothing(rest: bytes) -> None:
    content = saved(Image.fromarray(PHOTO), "JPEG")
    assert np.array_equal(pixels(content + rest), pixels(content))


def test_an_interlaced_png_is_read() -> None:
    passes = ((0, 8, 0, 8), (0, 8, 4, 8), (4, 8, 0, 4), (0, 4, 2, 4), (2, 4, 0, 2), (0, 2, 1, 2), (1, 2, 0, 1))
    grey = PHOTO[:8, :8, 0]
    parts = (grey[top::down, left::right] for top, down, left, right in passes)  # Adam7: PNG specification, 8.2
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for part in parts for row in part))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    assert np.array_equal(pixels(content), np.repeat(grey[..., None], 3, 2))


@pytest.mark.parametrize(("ink", "expected"), [((0, 0, 0, 0), (255, 255, 255)), ((255, 0, 0, 0), (0, 255, 255))])
def test_a_cmyk_jpeg_as_adobe_writes_it_is_not_inverted(ink: tuple[int, ...], expected: tuple[int, ...]) -> None:
    content = saved(plain(ink, "CMYK", 64), "JPEG", quality=95)
    assert b"Adobe" in content
    assert np.abs(pixels(content).astype(int) - expected).max() <= 3


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_colour_profile_is_not_applied(format: str) -> None:  # noqa: A002
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"?XYZ").replace(b"gXYZ", b"rXYZ").replace(b"?XYZ", b"gXYZ")  # red means green
    image = plain((200, 30, 60), "RGB")
    meant = ImageCms.profileToProfile(image, ImageCms.ImageCmsProfile(BytesIO(swapped)), ImageCms.createProfile("sRGB"))
    assert meant is not None
    assert np.abs(np.asarray(meant).astype(int) - np.asarray(image)).max() > 50
    assert np.array_equal(pixels(saved(image, format, icc_profile=swapped)), pixels(saved(image, format)))


def heif(brand: bytes, *more: bytes) -> bytes:
    """The beginning of a file of the HEIF family, which AVIF belongs to as well."""
    names = brand + bytes(4) + b"".join(more)
    return struct.pack(">I4s", 8 + len(names), b"ftyp") + names + b"\0\0\0\x08meta" + bytes(100)


@pytest.mark.parametrize("content", [heif(b"heic", b"mif1"), heif(b"mif1", b"heic"), heif(b"hevc"), heif(b"heix")])
def test_heic_is_refused_by_name_where_it_cannot_be_read(content: bytes) -> None:
    assert reason(content) == "HEIC, which cannot be read here: convert it to JPEG or PNG"


def test_heic_is_read_where_a_plugin_of_pillow_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    inside = saved(plain((9, 8, 7), "RGB"))

    def opens(_: object, name: str | bytes) -> ImageFile.ImageFile:
        return PngImagePlugin.PngImageFile(BytesIO(inside), name)  # stands for a real reader

    monkeypatch.setitem(Image.OPEN, "HEIF", (opens, lambda beginning: beginning[4:12] == b"ftypheic"))
    assert (pixels(heif(b"heic")) == (9, 8, 7)).all()


def test_avif_is_refused_by_name_where_it_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert features.check("avif") == ("AVIF" in FORMATS)
    assert reason(heif(b"avif", b"mif1")).startswith("truncated or damaged" if "AVIF" in FORMATS else "AVIF, which")
    monkeypatch.setattr("steadylens.data.images.FORMATS", ("JPEG", "PNG"))
    assert reason(heif(b"avif", b"mif1")) == "AVIF, which cannot be read here: convert it to JPEG or PNG"


def test_one_pixel_and_one_row_fill_the_square() -> None:
    assert (pixels(saved(plain((1, 2, 3), "RGB", 1))) == (1, 2, 3)).all()
    assert (pixels(saved(plain((1, 2, 3), "RGB").crop((0, 0, 8, 1)))) == (1, 2, 3)).all()


def test_what_is_no_image_says_what_it_is() -> None:
    assert reason(b"") == "empty file"
    assert reason(b"<!doctype html><title>404</title>") == "not an image (it begins with text)"
    assert reason("später ".encode() * 500) == "not an image (it begins with text)"
    assert reason(b"\x00\x01\x02\xff" * 90).startswith("not an image in a supported format (JPEG, PNG")
    assert reason(saved(plain(3), "ICO")).startswith("not an image in a supported format")
    assert reason(saved(Image.fromarray(PHOTO), "JPEG")[:12]).startswith("truncated or damaged: ")
    assert reason(b"BM") == "truncated or damaged: its header cannot be read"


@pytest.mark.parametrize("format", FORMATS)
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


SAMPLES = (
    [
        saved(Image.fromarray(RNG.integers(0, 256, (16, 16, 3), dtype=np.uint8)), format_)
        for format_ in (*FORMATS, "MPO")
    ]
    + [
        saved(plain(250), format_, save_all=True, append_images=[plain(5), plain(90)])
        for format_ in ("GIF", "PNG", "WEBP", "TIFF")
    ]
    + [saved(plain((1, 2), "LA")), saved(plain(4, "I;16"), "TIFF", compression="tiff_lzw"), saved(plain(7), "TIFF")]
)


def must_not_raise(content: bytes) -> None:
    # With a lower ceiling: a damaged header that claims 100 megapixels takes as long as such an image does.
    with patch("steadylens.data.images.PIXEL_CEILING", 1_000_000):
        header, image = read_header(content), decode(content, 8)
    assert isinstance(header, Header | Refusal)
    assert isinstance(image, Refusal) or (image.shape == (8, 8, 3) and image.dtype == np.uint8)
    for outcome in (header, image):
        if isinstance(outcome, Refusal):
            assert 0 < len(outcome.reason) < 200
            assert "\n" not in outcome.reason


# An answer takes milliseconds; ten seconds are for a busy machine, and far below what an endless loop takes.
IN_TIME = timedelta(seconds=10)


@settings(max_examples=150, deadline=IN_TIME)
@given(st.sampled_from([b"", *(sample[:8] for sample in SAMPLES)]), st.binary(max_size=300))
def test_random_bytes_never_raise(beginning: bytes, rest: bytes) -> None:
    must_not_raise(beginning + rest)


@settings(max_examples=300, deadline=IN_TIME)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_files_never_raise(sample: bytes, data: st.DataObject) -> None:
    content = bytearray(sample)
    places = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, value in data.draw(st.lists(places, max_size=12)):
        content[place] = value
    must_not_raise(bytes(content[: data.draw(st.integers(0, len(content)))]))


@settings(max_examples=300, deadline=IN_TIME)
@given(st.sampled_from(SAMPLES), st.data())
def test_flipped_bits_never_raise(sample: bytes, data: st.DataObject) -> None:
    content = bytearray(sample)
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=12)):
        content[bit // 8] ^= 1 << bit % 8
    must_not_raise(bytes(content))


@settings(max_examples=300, deadline=IN_TIME)
@given(st.sampled_from(SAMPLES), st.sampled_from(SAMPLES), st.data())
def test_splices_never_raise(first: bytes, second: bytes, data: st.DataObject) -> None:
    end, start = data.draw(st.integers(0, len(first))), data.draw(st.integers(0, len(second)))
    must_not_raise(first[:end] + second[start:])


def test_damage_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Not from Python, and not from the C libraries either, which write past it; libtiff alone does so, at will."""
    rng = np.random.default_rng(0)
    for sample in [sample for sample in SAMPLES if sample[:2] not in (b"II", b"MM")] * 20:
        content = np.frombuffer(sample, np.uint8).copy()
        content[rng.integers(0, len(content), 6)] = rng.integers(0, 256, 6)
        must_not_raise(content[: rng.integers(1, len(content) + 1)].tobytes())
    assert capfd.readouterr() == ("", "")


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


def test_a_cut_file_is_refused_whatever_pillow_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(whole, "JPEG")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    assert isinstance(decode(whole.getvalue()[:-900], 32), Refusal)
    assert ImageFile.LOAD_TRUNCATED_IMAGES, "what others set is as it was"
