"""Odd images: each kind on both sides of its threshold, planted among images that are all alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from steadylens.data.findings import Finding
from steadylens.data.odd_images import FEWEST_IMAGES, measure, odd_images
from steadylens.data.sources import ImageIndex, index_arrays

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels], Pixels]


def scenes(n: int, side: int = 32, seed: int = 0) -> Pixels:
    """Coloured blocks of random size and place: edges, plain areas, and a little noise, as photographs have them."""
    rng = np.random.default_rng(seed)
    images = np.empty((n, side, side, 3))
    images[:] = rng.uniform(60, 200, (n, 1, 1, 3))
    for image in images:
        for _ in range(12):
            (top, left), (height, width) = rng.integers(0, side - 4, 2), rng.integers(3, side // 2, 2)
            image[top : top + height, left : left + width] = rng.uniform(20, 240, 3)
    return (images + rng.normal(0, 3, images.shape)).clip(0, 255).astype(np.uint8)


def index_of(pixels: Pixels) -> ImageIndex:
    return index_arrays(pixels, [("a", "b")[i % 2] for i in range(len(pixels))])


def found(pixels: Pixels, index: ImageIndex | None = None) -> dict[str, Finding]:
    return {finding.kind: finding for finding in odd_images(index or index_of(pixels), pixels)}


def with_changed(change: Change, rows: tuple[int, ...] = (7, 30), n: int = 200) -> Pixels:
    pixels = scenes(n)
    for row in rows:
        pixels[row] = change(pixels[row])
    return pixels


def noise(low: int, high: int) -> Change:
    return lambda image: np.random.default_rng(1).integers(low, high, image.shape, dtype=np.uint8)


def blurred(sigma: float) -> Change:
    return lambda image: ndimage.gaussian_filter(image.astype(np.float32), (sigma, sigma, 0)).round().astype(np.uint8)


def greyed(image: Pixels) -> Pixels:
    return np.repeat(image.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)


def one_colour(image: Pixels) -> Pixels:
    return np.full_like(image, (180, 40, 90))


def test_nothing_is_odd_about_images_that_are_alike() -> None:
    assert found(scenes(200)) == {}
    assert found(scenes(200, side=64)) == {}


@pytest.mark.parametrize(
    ("kind", "odd", "fine"),
    [
        ("blank", one_colour, noise(100, 110)),
        ("blank", noise(100, 103), noise(100, 110)),
        ("dark", noise(0, 35), noise(0, 60)),
        ("light", noise(220, 256), noise(190, 256)),
        ("blurred", blurred(1.5), blurred(0.4)),
        ("grey", greyed, lambda image: (greyed(image) * (1.0, 0.95, 0.85)).astype(np.uint8)),
    ],
)
def test_looks_on_both_sides_of_their_thresholds(kind: str, odd: Change, fine: Change) -> None:
    findings = found(with_changed(odd))
    assert set(findings[kind].paths) == {"array[7]", "array[30]"}
    assert kind not in found(with_changed(fine))
    other_looks = set(findings) - {kind}
    assert not other_looks  # an image is odd in one way


def test_blank_images_are_suggested_to_be_dropped_and_others_only_to_be_looked_at() -> None:
    assert [s.action for s in found(with_changed(one_colour))["blank"].suggestions] == ["drop", "drop"]
    assert found(with_changed(greyed))["grey"].suggestions == ()


@pytest.mark.parametrize("kind", ["dark", "light", "blurred", "grey"])
def test_what_many_share_is_not_odd(kind: str) -> None:
    change: Change = {"dark": noise(0, 35), "light": noise(220, 256), "blurred": blurred(1.5), "grey": greyed}[kind]
    share = 0.01 if kind == "grey" else 0.05
    for count, told in ((round(300 * share), True), (max(3, round(300 * share)) + 3, False)):
        assert (kind in found(with_changed(change, tuple(range(count)), 300))) == told


def test_blank_images_are_told_however_many_they_are() -> None:
    assert len(found(with_changed(one_colour, tuple(range(100))))["blank"].paths) == 100


def test_blank_and_dark_images_do_not_hide_a_few_grey_or_blurred_ones() -> None:
    pixels = with_changed(greyed, (0, 1))
    pixels[2:5] = [blurred(2.0)(image) for image in pixels[2:5]]
    pixels[10:40], pixels[40:45] = 128, noise(0, 35)(pixels[40:45])
    assert {kind: len(one.paths) for kind, one in found(pixels).items()} == {
        "blank": 30, "dark": 5, "blurred": 3, "grey": 2,
    }  # fmt: skip


def test_few_images_have_no_usual_look() -> None:
    for n, told in ((FEWEST_IMAGES - 1, False), (FEWEST_IMAGES, True)):
        findings = found(with_changed(greyed, (0,), n))
        assert ("grey" in findings) == told


def sized(sizes: list[tuple[int, int]], n: int = 100) -> dict[str, Finding]:
    """The findings where the first images have these widths and heights, and the others about 400 x 300."""
    pixels, rng = scenes(n), np.random.default_rng(0)
    widths, heights = 400 + rng.integers(-20, 21, n), 300 + rng.integers(-15, 16, n)
    for row, (width, height) in enumerate(sizes):
        widths[row], heights[row] = width, height
    index = replace(index_of(pixels), widths=widths.astype(np.int32), heights=heights.astype(np.int32))
    return found(pixels, index)


def test_sizes_on_both_sides_of_a_third_and_of_three_times_the_usual() -> None:
    assert sized([(140, 105), (1150, 860)]) == {}
    small = sized([(128, 96), (64, 48)])["odd-size"]
    assert small.paths == ("array[1]", "array[0]")  # the oddest first
    assert "down to 64 x 48 px where" in small.text
    large = sized([(1300, 975)])["odd-size"]
    assert large.paths == ("array[0]",)
    assert "up to 1300 x 975 px" in large.text


def test_shapes_on_both_sides_of_twice_as_long_lying_or_standing() -> None:
    assert sized([(500, 200), (300, 400), (300, 300)]) == {}
    shapes = sized([(600, 200), (150, 800)])
    assert shapes["odd-shape"].paths == ("array[1]", "array[0]")
    assert "up to 5.3 to 1 where 1.3 to 1 is usual" in shapes["odd-shape"].text


def test_sizes_that_vary_much_are_not_odd() -> None:
    pixels, rng = scenes(200), np.random.default_rng(0)
    side = np.exp(rng.normal(5.5, 0.6, 200)).astype(np.int32)
    assert found(pixels, replace(index_of(pixels), widths=side, heights=side)) == {}


def test_looks_do_not_depend_on_the_pieces_they_are_measured_in(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = scenes(50)
    whole = measure(pixels)
    monkeypatch.setattr("steadylens.data.odd_images._PIECE_PIXELS", 7 * 32 * 32)
    pieces = measure(pixels)
    for name in whole.__slots__:
        np.testing.assert_allclose(getattr(whole, name), getattr(pieces, name), rtol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3])
def test_tiny_images_can_be_measured(side: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, side, side, 3), dtype=np.uint8)
    list(odd_images(index_of(pixels), pixels))
    assert len(measure(pixels[:0]).spread) == 0
