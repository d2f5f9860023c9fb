"""Small pictures of the images that findings are about, for the pages."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from steadylens import files
from steadylens.data.folders import shown
from steadylens.data.images import Refusal, decode, fit_array
from steadylens.data.reading import in_threads
from steadylens.data.sources import ImageIndex

_SIDE = 112  # of the longer side, in pixels: as large as they are shown
_LOSSLESS = 48  # of images up to this side every pixel is shown, and counts


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A small picture, in its true proportions.

    Attributes:
        path: of the image, as findings name it.
        place: that path as people see it.
        class_name: its class.
        split: its given split, or "".
        width: of the image itself, in pixels.
        height: of the image itself, in pixels.
        content: a JPEG or PNG.
    """

    path: str
    place: str
    class_name: str
    split: str
    width: int
    height: int
    content: bytes

    @property
    def source(self) -> str:
        """The picture as a data URI, or "" where there is none."""
        content = base64.b64encode(self.content).decode()
        return f"data:image/{self.kind};base64,{content}" if content else ""

    @property
    def kind(self) -> str:
        """The format of its content, "png" or "jpeg"."""
        return "png" if self.content.startswith(b"\x89PNG") else "jpeg"

    @property
    def hard_pixels(self) -> bool:
        """Whether it is so small that it is shown with hard pixels, not blurred."""
        return max(self.width, self.height) < _SIDE / 2


def draw_thumbnails(index: ImageIndex, pixels: NDArray[np.uint8], paths: Iterable[str]) -> list[Thumbnail]:
    """Draw the pictures of some images of the index; what is no image of it has none.

    Args:
        index: of the images.
        pixels: uint8, (n, side, side, 3): what is shown of an image that cannot be read again in a finer size.
        paths: as the index has them; each is drawn once.
    """
    wanted = set(paths)
    rows = {path: row for row, path in enumerate(index.paths) if path in wanted}

    def draw(path: str) -> Thumbnail:
        row = rows[path]
        width, height = int(index.widths[row]), int(index.heights[row])
        content = _encoded(_pixels_of(index, pixels, row, min(_SIDE, max(width, height))), width / height)
        name = index.classes[index.labels[row]]
        return Thumbnail(path, shown(path, index.root), name, index.splits[row], width, height, content)

    return list(in_threads(draw, [path for path in dict.fromkeys(paths) if path in rows]))


def save_thumbnails(folder: Path, thumbnails: Sequence[Thumbnail], root: Path | None) -> None:
    """Write the pictures and their list to a folder, in place of those that were there; `root` is that of the images.

    Raises:
        ResourceError: the folder cannot be written.
    """
    files.remove(folder)
    files.make_folder(folder)
    rows = []
    for number, one in enumerate(thumbnails):
        name = f"{number:03d}.{one.kind}"
        files.write_bytes(folder / name, one.content)
        about = {"path": one.path, "place": one.place, "class": one.class_name, "split": one.split}
        rows.append({"file": name, **about, "width": one.width, "height": one.height})
    listed = {"root": None if root is None else str(root), "pictures": rows}
    files.write_json(folder / "thumbnails.json", listed)  # last: a list that exists is complete


def read_thumbnails(folder: Path, rows: Sequence[dict[str, Any]]) -> list[Thumbnail]:
    """The pictures of a list that `save_thumbnails` wrote; of one whose file is gone, all but the picture."""
    return [
        Thumbnail(
            path=str(row["path"]),
            place=str(row["place"]),
            class_name=str(row["class"]),
            split=str(row["split"]),
            width=int(row["width"]),
            height=int(row["height"]),
            content=_picture(folder / PurePath(str(row["file"])).name),
        )
        for row in rows
    ]


def _picture(path: Path) -> bytes:
    content = path.read_bytes() if path.is_file() else b""
    return content if content.startswith((b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")) else b""


def _pixels_of(index: ImageIndex, pixels: NDArray[np.uint8], row: int, side: int) -> NDArray[np.uint8]:
    """An image squeezed into a square of at least `side`, or what the store has of it."""
    if pixels.shape[1] >= side:
        return np.asarray(pixels[row])
    if index.arrays is not None:
        return fit_array(index.arrays[row], side)
    content = index.read(index.paths[row])
    image = decode(content, side) if isinstance(content, bytes) else content
    return np.asarray(pixels[row]) if isinstance(image, Refusal) else image


def _encoded(square: NDArray[np.uint8], ratio: float) -> bytes:
    """A square brought back to its proportions, width over height, as a JPEG, or a PNG where it is very small."""
    side = min(len(square), _SIDE)
    size = (side, max(1, round(side / ratio))) if ratio >= 1 else (max(1, round(side * ratio)), side)
    image = Image.fromarray(square).resize(size, Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    if side <= _LOSSLESS:
        image.save(buffer, "PNG", optimize=True)
    else:
        image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
