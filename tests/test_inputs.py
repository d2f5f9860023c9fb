"""What `ImageClassifier` is given: which forms are told apart, and what is refused before anything is read."""

from pathlib import Path

import numpy as np
import pytest

from steadylens.errors import ConfigError, DataError
from steadylens.inputs import is_pixels, is_source, labels_of, paths_of, reader_of, required, shown

PIXELS = np.zeros((2, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("data", "pixels", "source"),
    [
        (PIXELS, True, False),
        (PIXELS.astype(np.float64), True, False),  # of the wrong type, and refused as pixels
        (np.array(["a.png", "b.png"]), False, False),
        ("photos", False, True),
        (Path("photos.zip"), False, True),
        (["a.png"], False, False),
    ],
)
def test_the_forms_are_told_apart(data: object, pixels: bool, source: bool) -> None:
    assert is_pixels(data) == pixels
    assert is_source(data) == source


def test_labels_keep_their_type() -> None:
    assert labels_of(None) is None
    assert [type(label) for label in labels_of([1, 2]) or []] == [np.int64, np.int64]
    assert labels_of(("cat", "dog")) == ["cat", "dog"]
    with pytest.raises(DataError, match=r"shape \(1, 2\)"):
        labels_of([["cat", "dog"]])


@pytest.mark.parametrize(
    "missing", [None, float("nan"), np.float64("nan"), np.datetime64("NaT"), " ", type("NAType", (), {})()]
)
def test_a_missing_label_is_no_class(missing: object) -> None:
    with pytest.raises(DataError, match=r"The label in position 1 is missing"):
        labels_of(["cat", missing, "dog"])


def test_labels_can_be_required() -> None:
    assert required(["cat"]) == ["cat"]
    with pytest.raises(ConfigError, match="give y"):
        required(None)


def test_paths_may_be_text() -> None:
    assert paths_of(["a.png", Path("b.png")]) == [Path("a.png"), Path("b.png")]
    with pytest.raises(ConfigError, match="with bytes in it"):
        paths_of([b"a.png"])


def test_what_cannot_be_read_is_refused_before_reading() -> None:
    with pytest.raises(ConfigError, match="leave y out"):
        reader_of("photos", ["cat"], None)
    with pytest.raises(ConfigError, match="pair"):
        reader_of(PIXELS, ["cat", "dog"], PIXELS)


def test_large_arguments_are_shown_by_their_length() -> None:
    assert shown(Path("photos")) == "'photos'"
    assert shown(PIXELS) == "<ndarray of 2>"
    assert shown(3) == "3"
