"""Images are made ready by what may be known before a training: never by those of a given test split."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from steadylens import preparation
from steadylens.config import parse
from steadylens.console import Console
from steadylens.data.sources import read_index
from steadylens.errors import ResourceError
from steadylens.preparation import Prepared, Stopwatch, prepare, tidy_cache

MakeImages = Callable[..., Path]


def prepared(data: Path, test: Path | None = None) -> Prepared:
    config = parse({"device": "cpu", "network": "cnn-s"})
    return prepare(
        lambda advance: read_index(data, test=test, advance=advance), config, Console(quiet=True), Stopwatch(), None
    )


def test_the_size_of_given_test_images_has_no_say(make_images: MakeImages, tmp_path: Path) -> None:
    data = make_images({"bolt": 8, "nut": 8})
    rng = np.random.default_rng(0)
    for name in ("bolt", "nut"):
        (tmp_path / "test" / name).mkdir(parents=True)
        for number in range(30):
            pixels = rng.integers(0, 256, (60, 60, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "test" / name / f"{number}.png")
    found = prepared(data, tmp_path / "test")
    assert len(found.splits.test) == 60
    assert found.preprocessing.image_size == 12


def test_a_cache_that_cannot_be_tidied_is_said_and_no_failure(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ResourceError("It is busy.")

    monkeypatch.setattr(preparation, "prune", fail)
    tidy_cache(prepared(make_images({"bolt": 8, "nut": 8})), Console())
    assert "could not be kept within bounds: It is busy." in capsys.readouterr().err


def test_images_that_show_the_same_are_one_unit(make_images: MakeImages) -> None:
    data = make_images({"bolt": 8, "nut": 8})
    first = sorted((data / "bolt").iterdir())[0]
    shutil.copy(first, first.with_name("copy.png"))
    found = prepared(data)
    names = [Path(path).name for path in found.store.index.paths]
    folders = [Path(path).parent.name for path in found.store.index.paths]
    same = [i for i in range(len(names)) if folders[i] == "bolt" and names[i] in (first.name, "copy.png")]
    assert found.units[same[0]] == found.units[same[1]]
    assert len(np.unique(found.units)) == 16
