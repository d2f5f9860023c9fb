"""Raw image bytes to calibrated predictions, by the same decoder and the same arithmetic as in training."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from steadylens.data.images import Preprocessing, Refusal, decode, fit_array
from steadylens.data.reading import read_content
from steadylens.deployment import artifact as artifacts
from steadylens.deployment.artifact import Artifact
from steadylens.errors import ArtifactError, DataError
from steadylens.evaluation.calibration import apply_temperature
from steadylens.models.folding import folded
from steadylens.models.inference import logits_of

BATCH = 256  # images that a stream holds at a time, the batch size of `logits_of`

# Measured on networks of this package with logits of size 1 to 20: another batch size or number of
# threads sums in another order and changes a float32 logit by 1e-5 at most. A mean that is wrong by
# one grey level changes it by 1e-3 to 1e-1, a wrong order of colours by more. This lies between.
LOGIT_TOLERANCE = 1e-4

_Path = TypeVar("_Path", str, Path)


class _Resize(TypedDict):
    image_size: int
    fit: str
    interpolation: str


@dataclass(frozen=True)
class Prediction:
    """What an image shows: the most probable class, and the calibrated probability of every class by name."""

    label: int
    class_name: str
    probability: float
    probabilities: dict[str, float]


class Predictor:
    """A loaded artifact that predicts; what it cannot decode it refuses, and says why.

    Attributes:
        artifact: what was loaded.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self._decode = partial(decode, **_resize(artifact.preprocessing))

    @cached_property
    def _network(self) -> nn.Module:
        """As it predicts: folded once, and not for each request."""
        return folded(self.artifact.network, self.artifact.preprocessing.image_size)

    @property
    def classes(self) -> tuple[str, ...]:
        """The names, in the order of the probabilities."""
        return self.artifact.classes

    def predict_bytes(self, contents: Sequence[bytes]) -> list[Prediction | Refusal]:
        """One answer for each image file's content, in the same order."""
        return self._answer([self._decode(content) for content in contents])

    def predict_files(
        self, paths: Iterable[_Path], *, batch: int = BATCH, read: Callable[[str], bytes | Refusal] = read_content
    ) -> Iterator[tuple[_Path, Prediction | Refusal]]:
        """Each path with its answer, in the same order, as a stream; `read` gives the bytes of a path.

        Threads read and decode one batch while the network works on the one before it, so that
        two batches are in memory at a time, however many paths there are.
        """
        remaining = iter(paths)
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            chunk = list(islice(remaining, batch))
            decoding = pool.map(partial(self._read, read), chunk)
            while chunk:
                following = list(islice(remaining, batch))
                images, decoding = list(decoding), pool.map(partial(self._read, read), following)
                yield from zip(chunk, self._answer(images), strict=True)
                chunk = following
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # an interruption does not wait for a read that does not end

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Calibrated probabilities (n, classes) of decoded pixels, uint8 (n, image_size, image_size, 3)."""
        if len(pixels) == 0:
            return np.zeros((0, len(self.classes)))
        logits = logits_of(self._network, pixels, self.artifact.preprocessing)
        return apply_temperature(logits, self.artifact.temperature)

    def probabilities_of_arrays(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Calibrated probabilities (n, classes) of images of any size, uint8 (n, h, w, 3) or (n, h, w).

        Raises:
            DataError: the array has another type or shape.
        """
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
            raise DataError(
                "Images must be an array of uint8 with the shape (n, height, width, 3) or (n, height, width). "
                f"Got {images.dtype} with the shape {images.shape}: convert it, with values from 0 to 255."
            )
        starts = range(0, len(images), BATCH)
        chunks = [self.probabilities(self._fit(images[start : start + BATCH])) for start in starts]
        return np.concatenate([np.zeros((0, len(self.classes))), *chunks])

    def _fit(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        resize = _resize(self.artifact.preprocessing)
        return np.stack([fit_array(image, **resize) for image in images])

    def _read(self, read: Callable[[str], bytes | Refusal], path: str | Path) -> NDArray[np.uint8] | Refusal:
        content = read(str(path))
        return content if isinstance(content, Refusal) else self._decode(content)

    def _answer(self, images: Sequence[NDArray[np.uint8] | Refusal]) -> list[Prediction | Refusal]:
        decoded = [image for image in images if not isinstance(image, Refusal)]
        rows = iter(self.probabilities(np.stack(decoded)) if decoded else ())
        return [image if isinstance(image, Refusal) else self._prediction(next(rows)) for image in images]

    def _prediction(self, row: NDArray[np.float64]) -> Prediction:
        label = int(row.argmax())
        by_name = {name: float(value) for name, value in zip(self.classes, row, strict=True)}
        return Prediction(label, self.classes[label], float(row[label]), by_name)


def _resize(preprocessing: Preprocessing) -> _Resize:
    """What of the preprocessing the decoder does."""
    return {
        "image_size": preprocessing.image_size,
        "fit": preprocessing.fit,
        "interpolation": preprocessing.interpolation,
    }


def load(path: Path | str) -> Predictor:
    """The predictor of a run, or of an artifact folder (RUN/model) itself.

    Raises:
        ArtifactError: there is no whole model there.
    """
    folder = Path(path)
    if (folder / artifacts.DOCUMENT).exists() or not folder.is_dir():
        return Predictor(artifacts.load(folder))
    if not (folder / "model").is_dir():
        raise ArtifactError(f"{folder} holds no model. Give a run whose training is finished, or its model folder.")
    return Predictor(artifacts.load(folder / "model"))


def verify(artifact_folder: Path, samples: Sequence[tuple[bytes, NDArray[np.float32]]]) -> float:
    """The largest difference between the artifact's logits on raw image bytes and the logits that training saw.

    Args:
        artifact_folder: loaded anew, as any user of it would.
        samples: at least one image file's content with its logits (classes,) before calibration.

    Raises:
        ArtifactError: an image is refused, or a logit differs by more than `LOGIT_TOLERANCE`.
        ValueError: there are no samples, so nothing would be verified.
    """
    if not samples:
        raise ValueError("verify needs at least one sample")
    artifact = artifacts.load(artifact_folder)
    images = [decode(content, **_resize(artifact.preprocessing)) for content, _ in samples]
    refused = [image.reason for image in images if isinstance(image, Refusal)]
    if refused:
        raise ArtifactError(f"{artifact_folder} refuses an image on which it was trained: {refused[0]}. Train again.")
    pixels = np.stack([image for image in images if not isinstance(image, Refusal)])
    got = logits_of(artifact.network, pixels, artifact.preprocessing)
    difference = float(np.abs(got - np.stack([logits for _, logits in samples])).max())
    if not difference <= LOGIT_TOLERANCE:  # so that NaN fails too
        raise ArtifactError(
            f"{artifact_folder} does not predict what was trained: a logit differs by {difference:.2g}, and "
            f"{LOGIT_TOLERANCE:g} is allowed. Do not use it; train again."
        )
    return difference
