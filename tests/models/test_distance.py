"""What is like no known image is far from all of them."""

from __future__ import annotations

import numpy as np

from steadylens.models.distance import distances_to_known


def test_the_distance_is_the_mean_cosine_distance_to_the_ten_nearest() -> None:
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(40, 6)).astype(np.float32), rng.normal(size=(5, 6)).astype(np.float32)
    unit = [a / np.linalg.norm(a, axis=1, keepdims=True) for a in (known, asked)]
    expected = np.sort(1 - unit[1] @ unit[0].T, axis=1)[:, :10].mean(1)
    np.testing.assert_allclose(distances_to_known(known, asked), expected, atol=1e-5)


def test_few_known_images_are_all_neighbours() -> None:
    known = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    np.testing.assert_allclose(distances_to_known(known, np.array([[2.0, 0.0]], np.float32)), [0.5], atol=1e-6)


def test_no_images_have_no_distances() -> None:
    assert distances_to_known(np.ones((3, 2), np.float32), np.ones((0, 2), np.float32)).shape == (0,)
