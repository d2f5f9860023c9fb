"""The only decoder: the bytes of an image file become RGB pixels, or a refusal that says why.

Training, prediction, export checks and the server all come through `decode`, so that the same
bytes give the same pixels everywhere. The order of its steps is fixed: the header and its pixel
ceiling, the pixels of the first frame, the rotation that the EXIF orientation asks for, RGB with
transparency on white, and one resize.

Colour profiles are not applied: the numbers in the file are taken as sRGB, as networks' training
data are, whatever profile comes with them. A profile can be missing, wrong or hostile, applying it
costs more than decoding, and another runtime that is to give the same answers would have to apply
it to the bit.
"""

from __future__ import annotations

import codecs
import logging
import math
import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError, features

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", *(["AVIF"] if features.check("avif") else []))
# ISO/IEC 23008-12 and the AV1 image specification: what the files of the two families name themselves.
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AVIF_BRANDS = {b"avif", b"avis"}
_FAMILY_NAMES = {"HEIF": "HEIC", "AVIF": "AVIF"}  # as people call them
# The limit at which Pillow itself refuses to open an image: twice 1 GiB / 4 bytes / 3 channels.
PIXEL_CEILING = 178_956_970
BACKGROUND = (255, 255, 255)
# Pillow's filters, antialiased when they shrink; bicubic unless pretrained weights saw their images by another.
RESIZE_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
FITS = ("squash", "pad")

_ROWS_AT_ONCE = 256
_SIXTEEN_BIT_MODES = ("I", "I;16", "I;16L", "I;16B", "I;16N")
_UPRIGHT = {  # EXIF 2.32, tag 274: what undoes each orientation; 1 needs nothing
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BEGINNINGS = re.compile(  # how a file of each supported format begins
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|RIFF....WEBP|BM|GIF8[79]a|II\*\x00|MM\x00\*|II\+\x00|MM\x00\+|P[1-6]\s"
    rb"|....ftypavi[fs]",
    re.DOTALL,
)

# Pillow logs some damage before it raises; a logger without any handler would print it on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an image is not used, in a few words."""

    reason: str


NO_MEMORY = Refusal("it does not fit into memory")  # now; another time it may


@dataclass(frozen=True, slots=True)
class Header:
    """What the header says: width and height in pixels as displayed (after EXIF rotation), and the format.

    `animated` says whether further frames or pages, which are not used, follow the first.
    """

    width: int
    height: int
    format: str
    animated: bool = False


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Everything that turns bytes into the network's input; it travels into the artifact.

    `mean` and `std` are per channel, of pixels / 255. `fit` "squash" resizes the whole image to
    image_size x image_size: the aspect ratio is not kept and nothing is cropped. "pad" keeps the
    ratio and fills the square with the background on both sides. `background` is also the colour
    that shows through transparency; `interpolation` is one of `RESIZE_FILTERS`.
    """

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fit: str = "squash"
    background: tuple[int, int, int] = BACKGROUND
    interpolation: str = "bicubic"


def read_header(content: bytes) -> Header | Refusal:
    """Read the size and format of an image file without decoding its pixels; never raises on any bytes."""
    try:
        with warnings_silenced():
            image = _open(content)
            if isinstance(image, Refusal):
                return image
            width, height = image.size
            # Pillow reports the size of a rotated TIFF as displayed, that of every other format as stored.
            if image.format != "TIFF" and _header_orientation(image, content) >= 5:
                width, height = height, width
            return Header(width, height, _format_name(image), _is_animated(image))
    except Exception as error:  # hostile bytes raise anything: see `_damage`
        return _damage(error)


def decode(
    content: bytes, image_size: int, *, fit: str = "squash", interpolation: str = "bicubic"
) -> NDArray[np.uint8] | Refusal:
    """Decode an image file into RGB pixels of shape (image_size, image_size, 3); never raises on any bytes.

    `fit` and `interpolation` are those of `Preprocessing`. All formats give the first frame, and
    colour profiles are not applied. A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is
    still at least twice `image_size` on both sides. 16-bit grey is scaled to 8 bits.
    """
    try:
        with warnings_silenced():
            image = _open(content)
            if isinstance(image, Refusal):
                return image
            if image.format == "TIFF" and _covered(image) < math.prod(image.size):
                return Refusal("truncated or damaged: there is not data for every row")
            image.draft(None, (2 * image_size, 2 * image_size))
            image.load()
            turn = _UPRIGHT.get(_orientation(image))
            flat = _flatten(image if turn is None else image.transpose(turn), content)
            return flat if isinstance(flat, Refusal) else _resize(flat, image_size, fit, interpolation)
    except Exception as error:  # hostile bytes raise anything: see `_damage`
        return _damage(error)


def fit_array(
    image: NDArray[np.uint8], image_size: int, *, fit: str = "squash", interpolation: str = "bicubic"
) -> NDArray[np.uint8]:
    """Resize pixels (height, width, 3) or (height, width) to (image_size, image_size, 3), as `decode` does."""
    return _resize(Image.fromarray(image).convert("RGB"), image_size, fit, interpolation)


def _resize(image: Image.Image, image_size: int, fit: str, interpolation: str) -> NDArray[np.uint8]:
    longer, square = max(image.size), (image_size, image_size)
    size = square
    if fit == "pad":
        width, height = (max(1, round(side * image_size / longer)) for side in image.size)
        size = (width, height)
    if image.size != size:
        image = image.resize(size, RESIZE_FILTERS[interpolation], reducing_gap=None)
    if size != square:
        padded = Image.new("RGB", square, BACKGROUND)
        padded.paste(image, ((image_size - size[0]) // 2, (image_size - size[1]) // 2))
        image = padded
    return np.asarray(image)


def _open(content: bytes) -> ImageFile.ImageFile | Refusal:
    """Read the header, and refuse what is empty, of no supported format, or too large."""
    if not content:
        return Refusal("empty file")
    family = _family_of(content)
    if family and family not in _formats():
        return Refusal(f"{_FAMILY_NAMES[family]}, which cannot be read here: convert it to JPEG or PNG")
    try:
        image = Image.open(BytesIO(content), formats=_formats())
    except UnidentifiedImageError:
        return _unidentified(content)
    except Image.DecompressionBombError as error:
        return _oversize(content, error)
    width, height = image.size
    if width * height > PIXEL_CEILING:
        return Refusal(f"too many pixels: {width} x {height}")
    return image


def _formats() -> tuple[str, ...]:
    """The formats that are read: HEIC too where the program around this one has registered a plugin of Pillow's."""
    return (*FORMATS, "HEIF") if "HEIF" in Image.OPEN else FORMATS


def _family_of(content: bytes) -> str:
    """HEIF (with HEIC in it, as phones write) or AVIF by what the file names itself, both built alike; else ""."""
    if content[4:8] != b"ftyp":
        return ""
    size = int.from_bytes(content[:4])
    brands = {content[start : start + 4] for start in range(8, min(size, 256), 4)}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    return "HEIF" if brands & _HEIC_BRANDS else ""


def _unidentified(content: bytes) -> Refusal:
    if _BEGINNINGS.match(content):
        return Refusal("truncated or damaged: its header cannot be read")
    with suppress(UnicodeDecodeError):
        # Incremental, because the cut after the first kilobyte may split a character.
        beginning = codecs.getincrementaldecoder("utf-8")().decode(content[:1024])
        if all(character.isprintable() or character.isspace() for character in beginning.lstrip("\ufeff")):
            return Refusal("not an image (it begins with text)")
    return Refusal("not an image in a supported format (" + ", ".join(_formats()) + ")")


def _oversize(content: bytes, error: Exception) -> Refusal:
    """Name the sides of an image that Pillow refuses: its own message gives only their product."""
    for name in _formats():
        reader, accepts = Image.OPEN[name]
        with suppress(Exception):
            if accepts is None or accepts(content[:16]) is True:
                width, height = reader(BytesIO(content), "").size
                return Refusal(f"too many pixels: {width} x {height}")
    return Refusal(f"too many pixels: {error}")


def _damage(error: Exception) -> Refusal:
    """Put what Pillow raised into words.

    On hostile bytes Pillow raises OSError, SyntaxError, ValueError, struct.error, zlib.error,
    EOFError, IndexError, KeyError, OverflowError, MemoryError and more, differently from release to
    release; one file must never stop a run, so every exception becomes a refusal, which is counted
    and shown.
    """
    if isinstance(error, MemoryError):
        return NO_MEMORY
    lines = str(error).splitlines()
    # Figures in brackets, such as "(3 bytes not processed)", differ from file to file and tell a person nothing.
    what = re.sub(r"\s*\([^)]*\)", "", lines[0])[:120].strip() if lines else ""
    return Refusal(f"truncated or damaged: {what or type(error).__name__}")


def _format_name(image: Image.Image) -> str:
    """MPO, which cameras and phones write, is a JPEG with further pictures behind the first."""
    return "JPEG" if image.format == "MPO" else str(image.format)


def _covered(image: ImageFile.ImageFile) -> int:
    """How many pixels there is data for; Pillow leaves the rest black, so that 400 bytes can claim 100 megapixels."""
    boxes = [box or (0, 0, *image.size) for _, box, *_ in image.tile]
    return sum((right - left) * (lower - upper) for left, upper, right, lower in boxes)


def _is_animated(image: ImageFile.ImageFile) -> bool:
    """Whether more than one frame or page is there; what an MPO holds behind the first are previews and depths."""
    with suppress(Exception):  # damage behind the first frame is none of ours
        if image.format == "TIFF":
            image.seek(1)  # Pillow's `is_animated` would walk through all pages, of which there may be millions
            return True
        return bool(image.format != "MPO" and getattr(image, "is_animated", False))
    return False


def _header_orientation(image: ImageFile.ImageFile, content: bytes) -> int:
    """The EXIF orientation from the header alone: Pillow would decode a PNG to look for EXIF behind its pixels."""
    if image.format == "PNG" and "exif" not in image.info and b"eXIf" not in content:
        return 1
    return _orientation(image)


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; an image whose EXIF data cannot be read is shown as stored, as browsers do."""
    if image.format == "JPEG" and image.info.keys().isdisjoint(("exif", "xmp")):
        return 1  # as below, in a fraction of the time
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # the EXIF parser raises as much as the decoders do
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _flatten(image: Image.Image, content: bytes) -> Image.Image | Refusal:
    """Turn any mode into RGB, with what lies behind transparency in white."""
    if image.mode == "F":
        return Refusal("floating-point pixels have no defined range")
    if image.mode in _SIXTEEN_BIT_MODES:
        return _from_16_bit(image)
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    _match_transparency(image, content)
    layer = image.convert("RGBA")
    flat = Image.new("RGB", layer.size, BACKGROUND)
    flat.paste(layer, mask=layer.getchannel("A"))
    return flat


def _from_16_bit(image: Image.Image) -> Image.Image | Refusal:
    """Scale 0..65535 to 0..255, rounded; Pillow's own conversion saturates at 255."""
    values = np.asarray(image)
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        return Refusal(f"pixel values from {low} to {high} have no defined range")
    grey = np.empty(values.shape, np.uint8)
    for rows in range(0, len(values), _ROWS_AT_ONCE):  # in 32 bits, all at once would take as much again as the image
        part = slice(rows, rows + _ROWS_AT_ONCE)
        grey[part] = (values[part].astype(np.uint32) + 128) // 257
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _match_transparency(image: Image.Image, content: bytes) -> None:
    """Bring a PNG's transparent colour, stated in the file's bit depth, to the 8 bits of Pillow's pixels."""
    transparent: Any = image.info.get("transparency")
    if image.mode not in ("L", "RGB") or content[:4] != b"\x89PNG":
        return
    depth = content[24]  # PNG specification, 11.2.2: the byte after width and height in IHDR
    if image.mode == "L" and depth < 8:
        image.info["transparency"] = transparent * 255 // (2**depth - 1)
    elif image.mode == "RGB" and depth == 16:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


_silence = threading.Lock()
if hasattr(os, "register_at_fork"):  # a fork must not copy it while another thread holds it
    os.register_at_fork(before=_silence.acquire, after_in_parent=_silence.release, after_in_child=_silence.release)
_silencing = 0
_silencing_filter: Any = None
_truncated_was_fine = False


@contextmanager
def warnings_silenced() -> Iterator[None]:
    """Keep Pillow's warnings about a file (large, odd metadata) from the user, who gets a refusal where one is due.

    A file that is cut off is refused too where `ImageFile.LOAD_TRUNCATED_IMAGES` is set, as in many a notebook.

    Every call of this module does so; around many of them, it is done once for all, which is faster.
    `warnings.catch_warnings` puts back the filters that it found, which is wrong when threads
    overlap; so the first thread in adds one filter, and the last one out removes that one.
    """
    global _silencing, _silencing_filter, _truncated_was_fine  # noqa: PLW0603 - what this counts for is global itself
    with _silence:
        if _silencing == 0:
            _truncated_was_fine, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _silencing_filter = warnings.filters[0]
        _silencing += 1
    try:
        yield
    finally:
        with _silence:
            _silencing -= 1
            if _silencing == 0:
                ImageFile.LOAD_TRUNCATED_IMAGES = _truncated_was_fine
                with suppress(ValueError):  # someone else reset the filters meanwhile
                    cast("list[Any]", warnings.filters).remove(_silencing_filter)
