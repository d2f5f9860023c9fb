"""Thumbnails: as large as they are shown, in true proportions, saved and read back."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadylens.data.sources import ImageIndex, index_arrays, read_index
from steadylens.report.thumbnails import Thumbnail, draw_thumbnails, read_thumbnails, save_thumbnails

MakeImages = Callable[..., Path]


def folder_with(data: Path, width: int, height: int) -> ImageIndex:
    """A folder in which bolt/000.png is a picture of this size, red on the left and blue on the right."""
    image = np.zeros((height, width, 3), np.uint8)
    image[:, : width // 2, 0] = image[:, width // 2 :, 2] = 255
    Image.fromarray(image).save(data / "bolt" / "000.png")
    return read_index(data)


def store_of(index: ImageIndex, side: int = 8) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.full((len(index), side, side, 3), 128, np.uint8)


@pytest.mark.parametrize(
    ("size", "shown"),
    [
        ((400, 300), (112, 84)),
        ((300, 400), (84, 112)),
        ((64, 64), (64, 64)),
        ((20, 10), (20, 10)),
        ((900, 3), (112, 1)),
    ],
)
def test_proportions_are_true_and_small_images_stay_small(
    make_images: MakeImages, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    index = folder_with(make_images(), *size)
    (one,) = draw_thumbnails(index, store_of(index), [index.paths[0]])
    image = Image.open(io.BytesIO(one.content))
    assert image.size == shown
    assert (one.place, one.class_name, one.split, one.width, one.height) == ("bolt/000.png", "bolt", "", *size)
    left = np.asarray(image.convert("RGB"))[:, : max(1, shown[0] // 3)].mean((0, 1))
    assert left[0] > 200  # read again from the file: the store is grey
    assert left[2] < 60


def test_the_store_is_shown_where_it_is_fine_enough_or_the_file_is_gone(make_images: MakeImages) -> None:
    index = folder_with(make_images(), 400, 300)
    (fine,) = draw_thumbnails(index, store_of(index, 128), [index.paths[0]])
    Path(index.paths[0]).unlink()
    (gone,) = draw_thumbnails(index, store_of(index, 8), [index.paths[0]])
    for one in (fine, gone):
        assert np.abs(np.asarray(Image.open(io.BytesIO(one.content)).convert("RGB")).astype(int) - 128).max() < 8


def test_each_is_drawn_once_and_what_is_no_image_of_the_index_is_not(make_images: MakeImages) -> None:
    index = read_index(make_images())
    asked = [index.paths[3], "bolt/refused.png", index.paths[1], index.paths[3]]
    assert [one.path for one in draw_thumbnails(index, store_of(index), asked)] == [index.paths[3], index.paths[1]]


def test_arrays_have_thumbnails(make_arrays: Callable[..., tuple[np.ndarray, list[str]]]) -> None:
    pixels, labels = make_arrays({"bolt": 3, "nut": 2})
    index = index_arrays(pixels, labels)
    (one,) = draw_thumbnails(index, store_of(index), ["array[2]"])
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(one.content))), pixels[2])  # 12 px: a PNG, to the bit


def test_saved_thumbnails_are_read_back_and_a_missing_file_is_a_missing_picture(
    make_images: MakeImages, tmp_path: Path
) -> None:
    import json

    index = folder_with(make_images(), 400, 300)
    drawn = draw_thumbnails(index, store_of(index), index.paths[:3])
    folder = tmp_path / "audit"
    save_thumbnails(folder, [*drawn, *drawn], index.root)
    save_thumbnails(folder, drawn, index.root)
    assert sorted(path.name for path in folder.iterdir()) == ["000.jpeg", "001.png", "002.png", "thumbnails.json"]
    listed = json.loads((folder / "thumbnails.json").read_text("utf-8"))
    assert (listed["root"], read_thumbnails(folder, listed["pictures"])) == (str(index.root), drawn)
    (folder / "001.png").unlink()
    (folder / "002.png").write_text("not a picture")
    assert [one.source[:15] for one in read_thumbnails(folder, listed["pictures"])] == ["data:image/jpeg", "", ""]


def test_a_list_cannot_name_a_file_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "audit").mkdir()
    row = {"file": "../secret.png", "path": "a", "place": "a", "class": "a", "split": "", "width": 1, "height": 1}
    assert read_thumbnails(tmp_path / "audit", [row]) == [Thumbnail("a", "a", "a", "", 1, 1, b"")]
