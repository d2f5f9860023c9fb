"""Whatever a training takes its images from, it gets those at the positions that it asked for."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from steadylens.data.batches import LabelledPixels
from steadylens.training.source import FromStore, Resident, images_bytes, source_of

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 5, 5, 3), dtype=np.uint8)
IMAGES = LabelledPixels(PIXELS, np.arange(29, 9, -1), np.arange(20) % 3)
CPU = torch.device("cpu")


def test_on_a_processor_images_stay_in_the_store() -> None:
    assert isinstance(source_of(IMAGES, CPU), FromStore)


@given(st.lists(st.integers(0, 19), min_size=1, max_size=40))
def test_both_sources_give_the_images_at_the_positions(positions: list[int]) -> None:
    resident = Resident(torch.from_numpy(IMAGES[:]), torch.from_numpy(IMAGES.labels))
    for source in (FromStore(IMAGES, CPU), resident):
        pixels, labels = source(torch.tensor(positions))
        assert np.array_equal(pixels.numpy(), PIXELS[29 - np.array(positions)])
        assert labels.tolist() == [position % 3 for position in positions]


def test_the_size_is_that_of_the_images_alone() -> None:
    assert images_bytes(IMAGES) == 20 * 5 * 5 * 3
