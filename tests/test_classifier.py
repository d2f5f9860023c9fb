"""The Python face: what scikit-learn's users expect, and what the command does."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import cross_val_score
from typer.testing import CliRunner

import steadylens
from steadylens.cli import app
from steadylens.config import Config
from steadylens.errors import ArtifactError, ConfigError, DataError
from steadylens.files import sha256_of_file

COUNTS = {"bolt": 30, "nut": 18, "washer": 12}
CLASSES = list(COUNTS)
SMALL: dict[str, Any] = {"network": "cnn-s", "width": 0.2, "epochs": 2, "precision": "fp32"}
WEIGHTS = "model.safetensors"
MakeImages = Callable[..., Path]
MakeArrays = Callable[..., tuple[NDArray[np.uint8], list[str]]]


def classifier(**options: Any) -> steadylens.ImageClassifier:  # noqa: ANN401 - each is checked by name
    return steadylens.ImageClassifier(**{**SMALL, **options})


@pytest.fixture(scope="session")
def fitted(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> steadylens.ImageClassifier:
    """A classifier of the folder, whose run is kept."""
    return classifier(out=tmp_path_factory.mktemp("runs") / "kept").fit(images_folder)


def test_a_folder_gives_the_names_of_its_classes(fitted: steadylens.ImageClassifier, images_folder: Path) -> None:
    assert fitted.classes_.tolist() == ["bolt", "nut", "washer"]
    paths = sorted(images_folder.rglob("*.png"))
    probabilities = fitted.predict_proba(paths)
    assert probabilities.shape == (60, 3)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(fitted.predict(paths), fitted.classes_[probabilities.argmax(1)])
    np.testing.assert_array_equal(fitted.predict_proba(images_folder), probabilities)


def test_the_run_is_kept_where_it_was_asked_for(fitted: steadylens.ImageClassifier, images_folder: Path) -> None:
    assert fitted.run_ == fitted.out
    assert fitted.run_ is not None
    written = json.loads((fitted.run_ / "report.json").read_text("utf-8"))
    assert fitted.report_ is not None
    assert fitted.report_["test"] == written["test"]
    assert written["command"].endswith(f".fit({str(images_folder)!r})")


def test_it_does_exactly_what_the_command_does(
    fitted: steadylens.ImageClassifier, images_folder: Path, tmp_path: Path
) -> None:
    words = [word for name, value in SMALL.items() for word in ("--set", f"{name}={value}")]
    done = CliRunner().invoke(app, ["train", str(images_folder), *words, "--out", str(tmp_path / "run"), "--quiet"])
    assert done.exit_code == 0, done.output
    assert fitted.run_ is not None
    by_command, by_python = (sha256_of_file(run / "model" / WEIGHTS) for run in (tmp_path / "run", fitted.run_))
    assert by_command == by_python


def test_train_does_too(fitted: steadylens.ImageClassifier, images_folder: Path, tmp_path: Path) -> None:
    run = steadylens.train(images_folder, out=tmp_path / "run", quiet=True, **SMALL)
    assert run.folder == tmp_path / "run"
    assert fitted.report_ is not None
    assert run.report["test"] == fitted.report_["test"]
    assert run.report["command"].startswith(f"steadylens.train({str(images_folder)!r}, network='cnn-s'")
    assert steadylens.load(run.folder).classes == ("bolt", "nut", "washer")


def test_train_takes_a_free_name(images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert steadylens.train(images_folder, quiet=True, **SMALL).folder == Path("parts-run")


def test_paths_with_labels(images_folder: Path) -> None:
    paths = sorted(images_folder.rglob("*.png"))
    labels = [path.parent.name == "bolt" for path in paths]
    one = classifier().fit(paths, ["yes" if label else "no" for label in labels])
    assert one.classes_.tolist() == ["no", "yes"]
    assert one.predict([str(path) for path in paths]).shape == (60,)
    assert one.report_ is not None
    assert one.report_["data"]["per_class"] == {"no": 30, "yes": 30}
    other = classifier().fit(paths, labels)
    assert other.predict(paths).dtype == np.bool_
    assert other.predict([]).shape == (0,)


@pytest.mark.parametrize("form", ["zip", "csv", "pyarrow", "pandas"])
def test_every_form_gives_what_the_folder_gives(
    fitted: steadylens.ImageClassifier, images_folder: Path, tmp_path: Path, form: str
) -> None:
    paths = sorted(images_folder.rglob("*.png"))
    columns = {"path": [str(path) for path in paths], "label": [path.parent.name for path in paths]}
    data: Any
    if form == "zip":
        data = shutil.make_archive(str(tmp_path / "parts"), "zip", images_folder)
    elif form == "csv":
        data = tmp_path / "parts.csv"
        data.write_text("\n".join(map(",".join, [("path", "label"), *zip(*columns.values(), strict=True)])))
    elif form == "pyarrow":
        data = pa.table(columns)
    else:
        data = pytest.importorskip("pandas").DataFrame(columns)
    one = classifier().fit(data)
    assert one.classes_.tolist() == fitted.classes_.tolist()
    np.testing.assert_array_equal(one.predict_proba(data), fitted.predict_proba(images_folder))
    assert one.score(data) == fitted.score(images_folder)


def test_a_frame_with_numbers_as_labels_and_a_test_of_another_form(images_folder: Path, tmp_path: Path) -> None:
    paths = sorted(images_folder.rglob("*.png"))
    numbers = [CLASSES.index(path.parent.name) for path in paths]
    frame = pa.table({"path": [str(path) for path in paths], "label": numbers})
    one = classifier().fit(frame, test=(paths[:35], numbers[:35]))
    assert one.classes_.tolist() == [0, 1, 2]
    assert one.predict(paths[:1]).dtype == np.int64
    assert one.report_ is not None
    assert one.report_["data"]["splits"]["test"] == {"0": 30, "1": 5, "2": 0}
    run = steadylens.train(paths, numbers, test=frame, out=tmp_path / "run", quiet=True, **SMALL)
    assert run.report["data"]["splits"]["test"] == {"0": 30, "1": 18, "2": 12}
    assert run.report["command"].startswith("steadylens.train(<list of 60>, labels=<list of 60>, test=<Table of 60>,")


@pytest.mark.parametrize("grey", [False, True])
def test_arrays_with_text_labels(make_arrays: MakeArrays, grey: bool) -> None:
    pixels, labels = make_arrays(COUNTS)
    images = pixels[..., 0] if grey else pixels
    one = classifier().fit(images, labels)
    predicted = one.predict(images)
    assert set(predicted) <= set(COUNTS)
    assert one.score(images, labels) == pytest.approx(balanced_accuracy_score(labels, predicted))
    np.testing.assert_array_equal(one.predict(images), one.classes_[one.predict_proba(images).argmax(1)])


@pytest.mark.parametrize("values", [np.array([-3, 2, 10]), np.array([7, 8, 9], np.uint8)], ids=str)
def test_numbers_as_labels_come_back_as_they_were(
    make_arrays: MakeArrays, values: NDArray[Any], tmp_path: Path
) -> None:
    pixels, names = make_arrays(COUNTS)
    labels = values[[list(COUNTS).index(name) for name in names]]
    one = classifier().fit(pixels, labels)
    assert one.classes_.dtype == values.dtype
    np.testing.assert_array_equal(one.classes_, values)
    assert one.predict(pixels).dtype == values.dtype
    assert one.score(pixels, labels) == pytest.approx(balanced_accuracy_score(labels, one.predict(pixels)))
    one.save(tmp_path / "model")
    loaded = steadylens.ImageClassifier.load(tmp_path / "model")
    assert loaded.classes_.tolist() == [str(value) for value in values]  # an artifact holds names
    assert loaded.score(pixels, labels) == one.score(pixels, labels)


def test_a_list_of_ints_gives_ints(make_arrays: MakeArrays) -> None:
    pixels, names = make_arrays(COUNTS)
    one = classifier().fit(pixels, [list(COUNTS).index(name) for name in names])
    assert one.predict(pixels).dtype == np.int64


def test_a_test_set_of_its_own(make_arrays: MakeArrays, images_folder: Path, make_images: MakeImages) -> None:
    pixels, labels = make_arrays(COUNTS)
    others, their_labels = make_arrays({"bolt": 2, "nut": 3, "washer": 4}, 1)
    expected = {"bolt": 2, "nut": 3, "washer": 4}
    of_arrays = classifier().fit(pixels, labels, test=(others, np.array(their_labels)))
    of_folders = classifier().fit(images_folder, test=make_images(expected, "other", 1))
    for report in (of_arrays.report_, of_folders.report_):
        assert report is not None
        assert report["data"]["splits"]["test"] == expected


def test_save_and_load_give_equal_probabilities(
    fitted: steadylens.ImageClassifier, images_folder: Path, tmp_path: Path
) -> None:
    fitted.save(tmp_path / "model")
    expected = fitted.predict_proba(images_folder)
    assert fitted.run_ is not None
    for place in (tmp_path / "model", str(tmp_path / "model"), fitted.run_, fitted.run_ / "model"):
        loaded = steadylens.ImageClassifier.load(place)
        np.testing.assert_array_equal(loaded.predict_proba(images_folder), expected)
        assert (loaded.run_, loaded.report_) == (None, None)
    assert sha256_of_file(tmp_path / "model" / WEIGHTS) == sha256_of_file(fitted.run_ / "model" / WEIGHTS)
    with pytest.raises(ArtifactError):
        steadylens.ImageClassifier.load(images_folder)


def test_score_of_a_folder_is_balanced_accuracy(fitted: steadylens.ImageClassifier, images_folder: Path) -> None:
    paths = sorted(images_folder.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    expected = balanced_accuracy_score(labels, fitted.predict(paths))
    assert fitted.score(images_folder) == pytest.approx(expected)
    assert fitted.score(paths, labels) == pytest.approx(expected)


def test_splits_of_an_earlier_run_are_kept(
    fitted: steadylens.ImageClassifier, images_folder: Path, tmp_path: Path
) -> None:
    again = classifier(seed=7, splits=fitted.run_, out=tmp_path / "again").fit(images_folder)
    other = classifier(seed=7, out=tmp_path / "other").fit(images_folder)
    before, kept, redrawn = (splits_in(one.run_) for one in (fitted, again, other))
    assert kept == before
    assert redrawn != before
    run = steadylens.train(images_folder, splits=fitted.run_, out=tmp_path / "run", quiet=True, **SMALL, seed=8)
    assert splits_in(run.folder) == before


def splits_in(run: Path | None) -> list[str]:
    assert run is not None
    split: list[str] = pq.read_table(run / "index.parquet")["split"].to_pylist()
    return split


def test_scikit_learn_can_clone_it_and_set_it(fitted: steadylens.ImageClassifier) -> None:
    twin = clone(fitted)
    assert twin.get_params() == fitted.get_params()
    assert not hasattr(twin, "classes_")
    assert twin.set_params(epochs=3, imbalance="none").get_params() == {
        **fitted.get_params(),
        "epochs": 3,
        "imbalance": "none",
    }
    with pytest.raises(ValueError, match="nonsense"):
        twin.set_params(nonsense=1)


def test_scikit_learn_can_cross_validate_and_copy_it(make_arrays: MakeArrays) -> None:
    pixels, labels = make_arrays(COUNTS)
    scores = cross_val_score(classifier(), pixels, labels, cv=2)
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    one = classifier().fit(pixels, labels)
    copy = pickle.loads(pickle.dumps(one))  # noqa: S301 - our own bytes, as scikit-learn's workers pass them on
    np.testing.assert_array_equal(copy.predict_proba(pixels), one.predict_proba(pixels))


def test_a_run_that_was_not_asked_for_ends_with_the_classifier(make_arrays: MakeArrays) -> None:
    one = classifier().fit(*make_arrays(COUNTS))
    run = one.run_
    assert run is not None
    assert (run / "report.html").is_file()
    del one
    assert not run.exists()


def test_every_option_of_the_configuration_is_a_parameter() -> None:
    defaults = {field.name: field.default for field in fields(Config) if field.name != "given"}
    assert steadylens.ImageClassifier().get_params() == {**defaults, "splits": None, "out": None, "quiet": True}


def test_before_fit_it_says_so(make_arrays: MakeArrays, tmp_path: Path) -> None:
    pixels, labels = make_arrays(COUNTS)
    for call in (
        lambda: classifier().predict(pixels),
        lambda: classifier().predict_proba(pixels),
        lambda: classifier().score(pixels, labels),
        lambda: classifier().save(tmp_path / "model"),
    ):
        with pytest.raises(NotFittedError):
            call()


def test_what_fit_refuses(make_arrays: MakeArrays, images_folder: Path, tmp_path: Path) -> None:
    pixels, labels = make_arrays(COUNTS)
    paths = sorted(images_folder.rglob("*.png"))
    cases: list[tuple[tuple[Any, ...], type[Exception], str]] = [
        ((pixels,), ConfigError, "give y"),
        ((paths,), ConfigError, "give y"),
        ((images_folder, labels), ConfigError, "leave y out"),
        ((pixels, labels[:-1]), DataError, "59 labels"),
        ((paths, labels[:-1]), DataError, "59 labels"),
        ((pixels.astype(np.float32), labels), DataError, "uint8"),
        ((pixels[..., :2], labels), DataError, "shape"),
        ((pixels, ["bolt"] * 60), DataError, "two"),
        ((pixels, [None, *labels[1:]]), DataError, "position 0"),
        ((pixels, np.array(labels)[:, None]), DataError, "shape"),
        ((list(pixels), labels), ConfigError, "ndarray"),
        ((tmp_path / "missing",), DataError, "does not exist"),
    ]
    for arguments, kind, says in cases:
        with pytest.raises(kind, match=says):
            classifier().fit(*arguments)
    with pytest.raises(ConfigError, match="pair"):
        classifier().fit(pixels, labels, test=pixels)
    with pytest.raises(ConfigError, match="give y"):
        classifier().fit(images_folder, test=paths)
    with pytest.raises(ConfigError, match="pair"):
        classifier().fit(pixels, labels, test=images_folder)
    with pytest.raises(ConfigError, match="leave y out"):
        classifier().fit(pa.table({"path": ["a"], "label": ["b"]}), labels)
    with pytest.raises(DataError, match="'label' is missing"):
        classifier().fit(pa.table({"path": ["a"]}))
    with pytest.raises(ConfigError, match=r"imbalance .*\n.* width "):
        classifier(width=99, imbalance="class-weight").fit(pixels, labels)


def test_what_predict_and_score_refuse(
    fitted: steadylens.ImageClassifier, make_arrays: MakeArrays, make_images: MakeImages, images_folder: Path
) -> None:
    pixels, labels = make_arrays(COUNTS)
    with pytest.raises(DataError, match="uint8"):
        fitted.predict(pixels.astype(np.float64))
    with pytest.raises(DataError, match="2 labels"):
        fitted.score(pixels, labels[:2])
    with pytest.raises(DataError, match="spring"):
        fitted.score(pixels, ["spring", *labels[1:]])
    with pytest.raises(ConfigError, match="give y"):
        fitted.score(pixels)
    with pytest.raises(ConfigError, match="sample_weight"):
        fitted.score(pixels, labels, np.ones(len(labels)))  # type: ignore[arg-type]
    broken = Path(shutil.copy(images_folder / "bolt" / "000.png", make_images() / "broken.png"))
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(DataError, match=r"broken\.png"):
        fitted.predict([images_folder / "bolt" / "000.png", broken])


def test_the_package_has_no_other_names() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        steadylens.nonsense  # noqa: B018


def test_no_row_is_left_out_in_silence(fitted: steadylens.ImageClassifier, images_folder: Path, tmp_path: Path) -> None:
    paths = sorted(map(str, images_folder.rglob("*.png")))[::12]
    frame = pa.table(
        {"path": [*paths, str(tmp_path / "gone.png")], "label": [Path(p).parent.name for p in paths] + ["nut"]}
    )
    for ask in (fitted.predict, fitted.predict_proba, fitted.score):
        with pytest.raises(DataError, match=r"Some images cannot be used; leave them out:\n.*gone.png"):
            ask(frame)
    assert len(fitted.predict(frame.slice(0, len(paths)))) == len(paths)
