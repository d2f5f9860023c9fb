"""What all tests share: a cache of their own, one thread, and small folders of images."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

# Before torch is imported. On images of a few pixels, threads cost more than they gain, and much more where
# several test runs share the processor.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell lets what it starts in the background ignore Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("steadylens", deadline=None)
settings.load_profile("steadylens")

COUNTS = {"bolt": 30, "nut": 18, "washer": 12}
MakeImages = Callable[..., Path]
MakeWeights = Callable[..., Path]
MakeArrays = Callable[..., tuple[NDArray[np.uint8], list[str]]]


@pytest.fixture(scope="session", autouse=True)
def cache() -> Iterator[Path]:
    """A cache of decoded images that ends with the tests; commands started by a test use it too."""
    with tempfile.TemporaryDirectory(prefix="steadylens-tests-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STEADYLENS_CACHE", folder)
        yield Path(folder)


@pytest.fixture(autouse=True)
def signals_as_they_were() -> Iterator[None]:
    """The command, run within a test, heeds signals and in the end ignores them; what follows must not inherit that."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, action in before.items():
        if signal.getsignal(number) is not action:
            signal.signal(number, action)


@pytest.fixture(scope="session")
def images_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 12 px that colour alone tells apart, imbalanced; not to be written to."""
    return write_images(tmp_path_factory.mktemp("data") / "parts", COUNTS)


@pytest.fixture
def make_images(tmp_path: Path) -> MakeImages:
    """Writes a folder of classes with so many images each."""

    def make(counts: Mapping[str, int] = COUNTS, name: str = "parts", seed: int = 0) -> Path:
        return write_images(tmp_path / name, counts, seed)

    return make


@pytest.fixture
def make_arrays() -> MakeArrays:
    """Gives the pixels and the names of such images, uint8 (n, 12, 12, 3)."""
    return arrays


@pytest.fixture
def make_weights(tmp_path: Path) -> MakeWeights:
    """Writes random weights of a tiny network of timm with their sidecar, as if they were pretrained."""

    def make(name: str = "backbone", *, half: bool = False, image_size: int = 32, **said: Any) -> Path:  # noqa: ANN401
        import safetensors.torch  # noqa: PLC0415 - most tests need none of these, and they take seconds to import
        import timm  # noqa: PLC0415
        import torch  # noqa: PLC0415

        torch.manual_seed(0)
        tensors = timm.create_model("test_efficientnet", num_classes=7).state_dict()
        if half:
            tensors = {key: t.half() if t.is_floating_point() else t for key, t in tensors.items()}
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(safetensors.torch.save(tensors))
        about = {
            "network": "timm:test_efficientnet", "arguments": {}, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3],
            "image_size": image_size, "interpolation": "bicubic",
        }  # fmt: skip
        path.with_suffix(".json").write_text(json.dumps({**about, **said}), "utf-8")
        return path

    return make


def write_images(root: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Write a folder of classes with so many images each."""
    pixels, labels = arrays(counts, seed)
    numbers = dict.fromkeys(counts, 0)
    for image, label in zip(pixels, labels, strict=True):
        (root / label).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(root / label / f"{numbers[label]:03d}.png")
        numbers[label] += 1
    return root


def arrays(counts: Mapping[str, int], seed: int = 0) -> tuple[NDArray[np.uint8], list[str]]:
    """Noise around one colour for each class, uint8 (n, 12, 12, 3), with the names."""
    rng = np.random.default_rng(seed)
    colours = ((60, 120, 180), (180, 60, 120), (120, 180, 60))
    labels = [name for name, count in counts.items() for _ in range(count)]
    means = np.array([colours[list(counts).index(name) % 3] for name in labels])[:, None, None, :]
    noise = rng.normal(0, 30, (len(labels), 12, 12, 3))
    return (means + noise).clip(0, 255).astype(np.uint8), labels
