"""Near-duplicates: changed copies are found, and nothing else is, whatever the order of the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from photos import brightened, cropped, photo, photos, reencoded, resized

from steadylens.data.duplicates import NEIGHBOURS, NearDuplicates, find_near_duplicates
from steadylens.data.sources import index_arrays

OTHERS = photos(range(1000, 1040))


def search(pixels: NDArray[np.uint8]) -> NearDuplicates:
    return find_near_duplicates(
        index_arrays(pixels, ["a", "b"] * (len(pixels) // 2) + ["a"] * (len(pixels) % 2)), pixels
    )


def tied(copies: list[NDArray[np.uint8]]) -> list[set[int]]:
    """The clusters of several images where some stand before forty photographs without copies."""
    found = search(np.concatenate([np.array(copies), OTHERS])).clusters
    return [set(np.flatnonzero(found == cluster).tolist()) for cluster in np.unique(found) if sum(found == cluster) > 1]


def test_photographs_without_copies() -> None:
    found = search(photos(range(200)))
    assert found.pairs.shape == (0, 2)
    assert found.clusters.tolist() == list(range(200))
    assert found.similarity.shape == (0,)


@settings(max_examples=25)
@given(
    st.integers(0, 300),
    st.sampled_from(["re-encoded", "resized", "cropped", "brightened"]),
    st.tuples(*[st.integers(1, 2)] * 4),
    st.floats(0, 1),
)
def test_changed_copies_are_found(number: int, kind: str, sides: tuple[int, int, int, int], amount: float) -> None:
    image = photo(number)
    if kind == "re-encoded":
        copy = reencoded(image, 55 + round(40 * amount))
    elif kind == "resized":
        copy = resized(resized(image, 24 + round(24 * amount)), 32)
    elif kind == "cropped":
        copy = cropped(image, *sides)
    else:
        copy = brightened(image, 1.1 + 0.15 * amount)
    assert tied([image, copy]) == [{0, 1}]


@pytest.mark.parametrize("side", [16, 48, 100])
def test_at_any_size(side: int) -> None:
    pixels = photos(range(30), side)
    found = search(np.concatenate([pixels, [brightened(pixels[3], 1.2), reencoded(pixels[7], 80)]]))
    assert sorted(map(sorted, found.pairs.tolist())) == [[3, 30], [7, 31]]
    assert np.all((found.similarity > 0.9) & (found.similarity <= 1.0))


def test_what_is_no_copy() -> None:
    image = photo(5)
    assert tied([image, image[:, ::-1]]) == []  # mirrored
    assert tied([image, 255 - image]) == []  # a negative
    assert tied([image, image[..., ::-1]]) == []  # in other colours
    assert tied([image, np.roll(image, 8, axis=1)]) == []  # another section


def test_an_object_on_a_plain_ground_must_itself_be_the_same() -> None:
    scenes = []
    for number in range(2):
        scene = np.full((32, 32, 3), 250, np.uint8)
        scene[8:24, 10:22] = photo(number)[8:24, 10:22]
        scenes.append(scene)
    assert tied(scenes) == []


def test_blank_and_nearly_blank_images_are_no_copies_of_each_other() -> None:
    rng = np.random.default_rng(0)
    blank = [np.full((32, 32, 3), grey, np.uint8) for grey in (0, 128, 255)]
    noisy = [(128 + rng.normal(0, 2, (32, 32, 3))).astype(np.uint8) for _ in range(5)]
    slopes = [
        np.broadcast_to(np.linspace(50, end, 32)[:, None], (32, 32))[..., None].repeat(3, 2) for end in (150, 180)
    ]
    assert tied([*blank, *noisy, *(slope.astype(np.uint8) for slope in slopes)]) == []


def test_equal_files_belong_together_whatever_they_show() -> None:
    blank = np.zeros((32, 32, 3), np.uint8)
    found = search(np.array([blank, photo(1), blank, photo(2), photo(1)]))
    assert found.clusters.tolist() == [0, 1, 0, 2, 1]
    assert len(found.pairs) == 0  # pairs are of different files


def test_equal_pixels_in_different_files() -> None:
    pixels = np.array([photo(1), photo(2), photo(1), np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)])
    index = replace(index_arrays(pixels, list("ababa")), sha256=tuple("vwxyz"))
    found = find_near_duplicates(index, pixels)
    assert (found.pairs.tolist(), found.similarity.tolist()) == ([[0, 2]], [1.0])
    assert found.clusters[3] != found.clusters[4]  # blank images tell nothing


def test_of_tiny_images_only_equal_pixels_count() -> None:
    small = photos(range(20), 8)
    pixels = np.concatenate([small, [brightened(small[0], 1.05), small[1]]])
    index = replace(index_arrays(pixels, ["a", "b"] * 11), sha256=tuple(map(str, range(22))))
    assert find_near_duplicates(index, pixels).pairs.tolist() == [[1, 21]]
    enlarged = np.array([resized(image, 32) for image in pixels])  # enlarging them adds no knowledge
    assert find_near_duplicates(index, enlarged).pairs.tolist() == [[1, 21]]


def test_more_copies_than_neighbours_are_one_cluster() -> None:
    rng = np.random.default_rng(0)
    frames = [(photo(9) + rng.normal(0, 1, (32, 32, 3))).clip(0, 255).astype(np.uint8) for _ in range(4 * NEIGHBOURS)]
    assert tied(frames) == [set(range(4 * NEIGHBOURS))]


def test_a_chain_is_one_cluster_though_its_ends_differ() -> None:
    wide = resized(photo(3, 48), 128)
    frames = [resized(wide[:, shift : shift + 100][:100], 32) for shift in range(0, 28, 3)]
    assert tied([frames[0], frames[-1]]) == []
    assert tied(frames) == [set(range(len(frames)))]


@settings(max_examples=10)
@given(st.permutations(range(12)))
def test_the_order_of_the_images_does_not_matter(order: list[int]) -> None:
    originals = photos(range(6))
    pixels = np.concatenate([originals, [cropped(image, 1, 2, 1, 2) for image in originals[:4]], photos(range(20, 22))])
    found = search(pixels[order])
    pairs = {frozenset(order[row] for row in pair) for pair in found.pairs.tolist()}
    assert pairs == {frozenset((row, row + 6)) for row in range(4)}


def test_progress_ends_at_one_and_never_goes_back() -> None:
    seen: list[float] = []
    rng = np.random.default_rng(0)
    frames = [(photo(9) + rng.normal(0, 1, (32, 32, 3))).clip(0, 255).astype(np.uint8) for _ in range(4 * NEIGHBOURS)]
    find_near_duplicates(index_arrays(np.array(frames), ["a", "b"] * (2 * NEIGHBOURS)), np.array(frames), seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
