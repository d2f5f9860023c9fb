"""Predictions from raw bytes: in order, calibrated, in bounded memory, and the same as training's."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from steadylens.data.images import Preprocessing, Refusal, decode, fit_array
from steadylens.deployment.artifact import pack
from steadylens.deployment.predictor import LOGIT_TOLERANCE, Prediction, Predictor, load, verify
from steadylens.errors import ArtifactError, DataError
from steadylens.evaluation.calibration import apply_temperature
from steadylens.models import NetworkSpec, build
from steadylens.models.inference import logits_of

CLASSES = ("ant", "bee", "cat")
SIZE = 16
PREPROCESSING = Preprocessing(SIZE, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))
TEMPERATURE = 0.6


def image_bytes(seed: int, *, size: tuple[int, int] = (21, 13), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    spec = NetworkSpec("cnn-s", classes=3, image_size=SIZE, depth=1, width=0.25, dropout=0.5)
    torch.manual_seed(0)
    pack(
        folder / "model",
        build(spec),
        spec=spec,
        classes=CLASSES,
        preprocessing=PREPROCESSING,
        temperature=TEMPERATURE,
        scores={},
        recipe={},
    )
    return folder


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return load(run)


@pytest.fixture(scope="module")
def samples(run: Path) -> list[tuple[bytes, NDArray[np.float32]]]:
    """Image files and the logits that training would have seen for them, all in one batch."""
    from steadylens.deployment.artifact import load as load_artifact

    contents = [image_bytes(seed, kind=kind) for seed in range(6) for kind in ("PNG", "JPEG", "BMP")]
    logits = logits_of(load_artifact(run / "model").network, pixels_of(contents), PREPROCESSING)
    return list(zip(contents, logits, strict=True))


def pixels_of(contents: list[bytes]) -> NDArray[np.uint8]:
    decoded = [decode(content, SIZE) for content in contents]
    return np.stack([image for image in decoded if not isinstance(image, Refusal)])


def test_a_prediction_names_the_most_probable_class(predictor: Predictor) -> None:
    (got,) = predictor.predict_bytes([image_bytes(0)])
    assert isinstance(got, Prediction)
    assert tuple(got.probabilities) == predictor.classes == CLASSES
    assert sum(got.probabilities.values()) == pytest.approx(1.0)
    assert got.class_name == CLASSES[got.label]
    assert got.probability == max(got.probabilities.values()) == got.probabilities[got.class_name]


def test_probabilities_are_calibrated(predictor: Predictor, samples: list[tuple[bytes, NDArray[np.float32]]]) -> None:
    expected = apply_temperature(np.stack([logits for _, logits in samples]), TEMPERATURE)
    got = predictor.predict_bytes([content for content, _ in samples])
    rows = [list(answer.probabilities.values()) for answer in got if isinstance(answer, Prediction)]
    assert np.array(rows) == pytest.approx(expected, abs=1e-5)


def test_refusals_stand_where_their_images_stood(predictor: Predictor) -> None:
    got = predictor.predict_bytes([b"", image_bytes(0), b"<html>", image_bytes(1)[:200], image_bytes(1)])
    assert [isinstance(answer, Refusal) for answer in got] == [True, False, True, True, False]
    assert got[0] == Refusal("empty file")
    assert predictor.predict_bytes([b""]) == [Refusal("empty file")]
    assert predictor.predict_bytes([]) == []


def write_images(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for seed, path in enumerate(paths):
        path.write_bytes(image_bytes(seed))
    return paths


@pytest.mark.parametrize("batch", [1, 3, 7, 100])
def test_files_give_what_their_bytes_give_in_the_same_order(predictor: Predictor, tmp_path: Path, batch: int) -> None:
    paths = write_images(tmp_path, 7)
    paths[2].write_bytes(b"not an image")
    got = list(predictor.predict_files(paths, batch=batch))
    assert [path for path, _ in got] == paths
    expected = predictor.predict_bytes([path.read_bytes() for path in paths])
    for (_, answer), other in zip(got, expected, strict=True):
        if isinstance(answer, Prediction) and isinstance(other, Prediction):
            assert answer.label == other.label
            assert answer.probability == pytest.approx(other.probability, abs=1e-5)
        else:
            assert answer == other


def test_a_file_that_cannot_be_opened_is_refused(predictor: Predictor, tmp_path: Path) -> None:
    paths = [tmp_path / "missing.png", tmp_path]
    answers = [answer for _, answer in predictor.predict_files(paths)]
    assert answers == [
        Refusal("could not be opened: No such file or directory"),
        Refusal("could not be opened: Is a directory"),
    ]


def test_no_files_give_no_answers(predictor: Predictor) -> None:
    assert list(predictor.predict_files([])) == []


def test_the_stream_reads_at_most_two_batches_ahead(predictor: Predictor, tmp_path: Path) -> None:
    path = write_images(tmp_path, 1)[0]
    taken = 0

    def endless() -> Iterator[Path]:
        nonlocal taken
        while True:
            taken += 1
            yield path

    stream = predictor.predict_files(endless(), batch=4)
    for _ in range(9):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert taken <= 16  # the ninth answer is in the third batch, and one more is being decoded


def test_arrays_of_any_size_are_fitted_as_files_are(predictor: Predictor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), dtype=np.uint8)
    fitted = np.stack([fit_array(image, SIZE) for image in images])
    assert predictor.probabilities_of_arrays(images) == pytest.approx(predictor.probabilities(fitted))
    grey = images[..., 0]
    coloured = np.repeat(grey[..., None], 3, axis=3)
    assert predictor.probabilities_of_arrays(grey) == pytest.approx(predictor.probabilities_of_arrays(coloured))


def test_many_arrays_are_answered_in_order(predictor: Predictor) -> None:
    images = np.random.default_rng(0).integers(0, 256, (300, SIZE, SIZE, 3), dtype=np.uint8)
    assert predictor.probabilities_of_arrays(images) == pytest.approx(predictor.probabilities(images), abs=1e-5)


def test_no_arrays_give_no_rows(predictor: Predictor) -> None:
    assert predictor.probabilities_of_arrays(np.zeros((0, 9, 9, 3), np.uint8)).shape == (0, 3)
    assert predictor.probabilities(np.zeros((0, SIZE, SIZE, 3), np.uint8)).shape == (0, 3)


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), np.float32),
        np.zeros((2, 8, 8, 4), np.uint8),
        np.zeros((8, 8), np.uint8),
    ],
)
def test_arrays_of_another_kind_are_refused(predictor: Predictor, images: NDArray[np.uint8]) -> None:
    with pytest.raises(DataError, match="must be an array of uint8"):
        predictor.probabilities_of_arrays(images)


def test_a_run_and_its_model_folder_load_alike(run: Path, predictor: Predictor) -> None:
    content = [image_bytes(3)]
    assert load(run / "model").predict_bytes(content) == predictor.predict_bytes(content)
    assert load(str(run)).predict_bytes(content) == predictor.predict_bytes(content)


def test_a_run_without_a_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="holds no model"):
        load(tmp_path)
    with pytest.raises(ArtifactError, match="There is no model folder"):
        load(tmp_path / "missing")


def test_a_true_artifact_is_verified(run: Path, samples: list[tuple[bytes, NDArray[np.float32]]]) -> None:
    assert verify(run / "model", samples) <= LOGIT_TOLERANCE
    for sample in samples[:5]:  # one image alone: another batch size than the samples came from
        assert verify(run / "model", [sample]) <= LOGIT_TOLERANCE


@pytest.mark.parametrize("change", [3e-4, float("nan"), float("inf")])
def test_one_logit_that_differs_is_told(
    run: Path, samples: list[tuple[bytes, NDArray[np.float32]]], change: float
) -> None:
    content, logits = samples[3]
    other = logits.copy()
    other[1] += change
    with pytest.raises(ArtifactError, match="does not predict what was trained"):
        verify(run / "model", [*samples, (content, other)])


def test_another_preprocessing_is_told(run: Path, samples: list[tuple[bytes, NDArray[np.float32]]]) -> None:
    """A mean that is wrong by one grey level, the smallest mistake that a person could make, is found."""
    from steadylens.deployment.artifact import load as load_artifact

    contents = [content for content, _ in samples]
    wrong = Preprocessing(SIZE, (0.5 + 1 / 255, 0.4, 0.3), PREPROCESSING.std)
    logits = logits_of(load_artifact(run / "model").network, pixels_of(contents), wrong)
    with pytest.raises(ArtifactError, match="does not predict what was trained"):
        verify(run / "model", list(zip(contents, logits, strict=True)))


def test_a_sample_that_is_refused_is_told(run: Path, samples: list[tuple[bytes, NDArray[np.float32]]]) -> None:
    with pytest.raises(ArtifactError, match="empty file"):
        verify(run / "model", [(b"", samples[0][1])])


def test_verifying_nothing_is_a_mistake(run: Path) -> None:
    with pytest.raises(ValueError, match="at least one sample"):
        verify(run / "model", [])
