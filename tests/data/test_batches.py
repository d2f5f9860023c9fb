"""Which images come when depends on the seed, the epoch and the step, and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from steadylens.data.batches import LabelledPixels, batches, colours, epoch_order, step_seed, to_input

Case = tuple[NDArray[np.int64], NDArray[np.float64]]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Shuffled labels of 1 to 6 classes, each with an image, and any shares."""
    counts = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    raw = np.array(draw(st.lists(st.floats(0, 1), min_size=len(counts), max_size=len(counts))))
    shares = (raw + 1e-3) / (raw + 1e-3).sum()
    return rng.permutation(np.repeat(np.arange(len(counts)), counts)), shares


seeds, epochs = st.integers(0, 2**32 - 1), st.integers(0, 10**6)


@given(cases(), seeds, epochs)
def test_an_epoch_keeps_the_shares_and_draws_evenly_within_a_class(case: Case, seed: int, epoch: int) -> None:
    labels, shares = case
    order = epoch_order(labels, shares, seed, epoch)
    assert order.shape == labels.shape
    drawn = np.bincount(labels[order], minlength=len(shares))
    assert (np.abs(drawn - shares * len(labels)) < 1).all()
    times = np.bincount(order, minlength=len(labels))
    for label in range(len(shares)):
        assert np.ptp(times[labels == label]) <= 1


@given(cases(), seeds, epochs)
def test_the_classes_own_shares_give_every_image_once(case: Case, seed: int, epoch: int) -> None:
    labels, _ = case
    order = epoch_order(labels, np.bincount(labels) / len(labels), seed, epoch)
    assert np.array_equal(np.sort(order), np.arange(len(labels)))


@given(cases(), seeds, epochs)
@settings(max_examples=30)
def test_an_epochs_order_depends_on_the_seed_and_the_epoch_alone(case: Case, seed: int, epoch: int) -> None:
    labels, shares = case
    order = epoch_order(labels, shares, seed, epoch)
    np.random.default_rng(0).random()
    epoch_order(labels, shares, seed, epoch + 1)
    assert np.array_equal(epoch_order(labels, shares, seed, epoch), order)


def test_epochs_and_seeds_differ_in_their_order() -> None:
    labels, shares = np.arange(100) % 2, np.array([0.5, 0.5])
    orders = {tuple(epoch_order(labels, shares, seed, epoch)) for seed in range(5) for epoch in range(5)}
    assert len(orders) == 25


def test_an_order_is_shuffled_over_the_classes_too() -> None:
    labels = np.repeat([0, 1], 500)
    drawn = labels[epoch_order(labels, np.array([0.5, 0.5]), 0, 1)]
    assert abs(int(drawn[:500].sum()) - 250) < 60


def test_oversampling_goes_through_all_of_a_small_class_before_repeating() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    times = np.bincount(epoch_order(labels, np.array([0.5, 0.5]), 7, 3), minlength=100)
    assert (times[labels == 1] == 5).all()
    assert times[labels == 0].max() == 1


@given(st.integers(1, 500), st.integers(2, 100))
def test_batches_cut_the_order_into_nearly_equal_parts(n: int, batch_size: int) -> None:
    order = np.random.default_rng(n).permutation(n)
    cut = batches(order, batch_size)
    sizes = [len(part) for part in cut]
    assert np.array_equal(np.concatenate(cut), order)
    assert max(sizes) - min(sizes) <= 1
    # Rounding to the nearest number of batches leaves them within a third below and a half above what was asked.
    assert len(cut) == 1 or batch_size * 2 / 3 - 1 <= min(sizes) <= max(sizes) <= batch_size * 1.5 + 1


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 100])
def test_no_batch_is_too_small_to_normalise_over(n: int) -> None:
    """Batch normalisation of a 1 by 1 map needs two images; an odd number of images must not leave one alone."""
    assert min(len(part) for part in batches(np.arange(n), 2)) >= 2


def test_step_seeds_are_distinct_and_reproducible() -> None:
    places = [(seed, epoch, step) for seed in range(10) for epoch in range(10) for step in range(10)]
    drawn = [step_seed(*place) for place in places]
    assert len(set(drawn)) == len(places)
    assert [step_seed(*place) for place in places] == drawn
    assert all(0 <= seed < 2**63 for seed in drawn), "torch takes no more than 63 bits from Python"
    torch.Generator().manual_seed(max(drawn))


@given(seeds, epochs, epochs)
def test_any_step_has_a_seed_that_torch_takes(seed: int, epoch: int, step: int) -> None:
    torch.Generator().manual_seed(step_seed(seed, epoch, step))


def test_input_is_the_pixels_normalised_as_numpy_would() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 9, 9, 3), dtype=np.uint8)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.25, 0.3)
    expected = ((pixels / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    got = to_input(pixels, mean, std)
    assert got.dtype == torch.float32
    assert got.shape == (5, 3, 9, 9)
    assert got.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-5)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_a_sample_has_every_class_and_no_more_than_its_size(counts: list[int], size: int, seed: int) -> None:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    rows = np.arange(len(labels)) + 1000
    whole = LabelledPixels(np.zeros((0, 4, 4, 3), np.uint8), rows, labels)
    part = whole.sample(size, seed)
    taken = np.bincount(part.labels, minlength=len(counts))

    assert len(part) == len(part.rows) == len(part.labels) <= max(size, len(counts))
    assert (taken >= 1).all()
    assert np.array_equal(part.labels, labels[part.rows - 1000])
    assert len(np.unique(part.rows)) == len(part)
    if size >= len(counts):
        assert len(part) == min(size, len(labels)), "what one class lacks is left to the others"
        cut = taken[taken < np.array(counts)]
        assert len(cut) == 0 or cut.max() - cut.min() <= 1, "classes that are not taken whole get equal parts"


def test_a_sample_depends_on_its_seed_alone() -> None:
    whole = LabelledPixels(np.zeros((0, 4, 4, 3), np.uint8), np.arange(300), np.arange(300) % 3)
    first = whole.sample(30, 5)
    assert np.array_equal(whole.sample(30, 5).rows, first.rows)
    assert not np.array_equal(whole.sample(30, 6).rows, first.rows)


def test_pixels_are_taken_by_row_and_labels_by_position() -> None:
    pixels = np.arange(10, dtype=np.uint8).repeat(12).reshape(10, 2, 2, 3)
    part = LabelledPixels(pixels, np.array([7, 2, 5]), np.array([1, 0, 1]))
    assert part[:][:, 0, 0, 0].tolist() == [7, 2, 5]
    assert part[1:2][:, 0, 0, 0].tolist() == [2]
    assert part[-1][0, 0].tolist() == [5, 5, 5]
    assert len(part) == 3
    part[:][:] = 0
    assert pixels[7].min() == 7, "what is taken is a copy"
    taken, labels = part.take(np.array([2, 0, 2]))
    assert taken[:, 0, 0, 0].tolist() == [5, 7, 5]
    assert labels.tolist() == [1, 1, 1]


def test_the_colours_of_images_are_those_of_all_their_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steadylens.data.batches._PIECE_BYTES", 200)  # two images at a time
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 5, 3), dtype=np.uint8)
    images = LabelledPixels(pixels, np.array([6, 0, 2, 3, 4]), np.zeros(5, np.int64))
    assert [len(piece) for piece in images.pieces()] == [2, 2, 1]
    mean, std = colours(images)
    chosen = pixels[[6, 0, 2, 3, 4]] / 255.0
    np.testing.assert_allclose(mean, chosen.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, chosen.std((0, 1, 2)), rtol=1e-9)


def test_images_of_one_colour_have_no_deviation() -> None:
    mean, std = colours(LabelledPixels(np.full((3, 2, 2, 3), 77, np.uint8), np.arange(3), np.zeros(3, np.int64)))
    np.testing.assert_allclose(mean, 77 / 255)
    np.testing.assert_allclose(std, 0.0, atol=1e-7)
