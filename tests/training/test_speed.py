"""Speeds are measured by steps as they will be done, where memory allows it, and precision by a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from steadylens.data.batches import LabelledPixels
from steadylens.data.images import Preprocessing
from steadylens.errors import ResourceError
from steadylens.models import NetworkSpec
from steadylens.training import speed
from steadylens.training.speed import BATCHES, choose_precision, measure_speed

PIXELS = np.random.default_rng(0).integers(0, 256, (70, 8, 8, 3), dtype=np.uint8)
IMAGES = LabelledPixels(PIXELS, np.arange(70), np.arange(70) % 3)
FRAME = Preprocessing(8, (0.4,) * 3, (0.25,) * 3)
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]


def spec(name: str, width: float = 0.25) -> NetworkSpec:
    return NetworkSpec(name, classes=3, image_size=8, depth=1, width=width, dropout=0.0)


def test_precision_is_given_or_one_of_two_with_the_figure() -> None:
    assert choose_precision("bf16", "cpu") == ("bf16", "given")
    chosen, why = choose_precision("auto", "cpu")
    assert chosen in ("fp32", "bf16")
    assert "times as long" in why


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["cnn-s", "keras-blog"])
@pytest.mark.parametrize("device", DEVICES)
def test_both_speeds_are_positive(device: str, name: str, precision: str) -> None:
    training, prediction = measure_speed(spec(name), IMAGES, FRAME, device, precision)
    assert training > 0
    assert prediction > 0


def test_a_network_of_many_times_the_work_is_slower() -> None:
    (fast, sooner), (slow, later) = (measure_speed(spec("cnn-s", w), IMAGES, FRAME, "cpu", "fp32") for w in (0.1, 4.0))
    assert fast > slow
    assert sooner < later


def test_where_memory_is_short_speed_is_measured_on_fewer_images(monkeypatch: pytest.MonkeyPatch) -> None:
    timed, sizes = speed._timed, list[int]()

    def greedy(*arguments: Any) -> tuple[float, float]:  # noqa: ANN401
        sizes.append(arguments[-1])
        if arguments[-1] > 20:
            raise MemoryError
        return timed(*arguments)

    monkeypatch.setattr(speed, "_timed", greedy)
    assert measure_speed(spec("cnn-s"), IMAGES, FRAME, "cpu", "fp32")[0] > 0
    assert sizes == [BATCHES["cpu"], 32, 16, 16]
    monkeypatch.setattr(speed, "_timed", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(ResourceError, match="and for the smallest batch too"):
        measure_speed(spec("cnn-s"), IMAGES, FRAME, "cpu", "fp32")
