"""Prediction depends on the image, the weights and the preprocessing, and on nothing around them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from steadylens.data.batches import LabelledPixels, to_input
from steadylens.data.images import Preprocessing
from steadylens.models import NETWORKS, NetworkSpec, build
from steadylens.models.inference import features_of, logits_of

PREPROCESSING = Preprocessing(16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def network_of(name: str = "cnn-s") -> nn.Module:
    torch.manual_seed(0)
    network = build(NetworkSpec(name, classes=4, image_size=16, depth=1, width=0.25, dropout=0.5))
    with torch.no_grad():
        network.train()(torch.randn(32, 3, 16, 16))  # so that norms hold more than their first values
    return network


def pixels_of(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (n, 16, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_size_of_a_batch_does_not_matter(name: str) -> None:
    network, pixels = network_of(name), pixels_of(21)
    whole = logits_of(network, pixels, PREPROCESSING)
    assert whole.shape == (21, 4)
    assert whole.dtype == np.float32
    for batch_size in (1, 2, 20, 21, 500):
        np.testing.assert_allclose(
            logits_of(network, pixels, PREPROCESSING, batch_size=batch_size), whole, rtol=1e-5, atol=1e-5
        )


def test_logits_are_the_networks_own_in_evaluation_mode() -> None:
    network, pixels = network_of(), pixels_of(6)
    with torch.inference_mode():
        expected = network.eval()(to_input(pixels, PREPROCESSING.mean, PREPROCESSING.std)).numpy()
    np.testing.assert_allclose(logits_of(network.train(), pixels, PREPROCESSING), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_every_weight_are_as_before(training: bool) -> None:
    network = network_of().train(training)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = logits_of(network, pixels_of(6), PREPROCESSING)
    assert network.training is training
    assert all(module.training is training for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert np.array_equal(logits_of(network, pixels_of(6), PREPROCESSING), first)


def test_images_of_a_split_give_the_same_as_their_pixels() -> None:
    network, pixels = network_of(), pixels_of(30)
    rows = np.array([4, 29, 0, 7])
    part = LabelledPixels(pixels, rows, np.zeros(4, np.int64))
    assert np.array_equal(
        logits_of(network, part, PREPROCESSING, batch_size=3),
        logits_of(network, pixels[rows], PREPROCESSING, batch_size=3),
    )


def test_read_only_pixels_are_fine() -> None:
    pixels = pixels_of(3)
    pixels.flags.writeable = False
    assert np.isfinite(logits_of(network_of(), pixels, PREPROCESSING)).all()


def test_bf16_is_near_fp32() -> None:
    network, pixels = network_of(), pixels_of(8)
    exact, rough = (logits_of(network, pixels, PREPROCESSING, precision=p) for p in ("fp32", "bf16"))
    assert rough.dtype == np.float32
    np.testing.assert_allclose(rough, exact, atol=0.05 * np.abs(exact).max())


def test_no_images_give_an_empty_array_with_a_column_for_each_class() -> None:
    assert logits_of(network_of(), pixels_of(0), PREPROCESSING).shape == (0, 4)


@pytest.mark.parametrize("name", NETWORKS)
def test_features_are_what_the_last_layer_sees(name: str) -> None:
    network, pixels = network_of(name), pixels_of(9)
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    features = features_of(network, pixels, PREPROCESSING, batch_size=4)
    with torch.inference_mode():
        logits = last(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(logits, logits_of(network, pixels, PREPROCESSING), rtol=1e-4, atol=1e-4)
