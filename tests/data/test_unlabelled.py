"""Images to predict on are found by file, folder and pattern, and what is passed over is said."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from steadylens.data.unlabelled import find_images
from steadylens.errors import DataError


def lay(root: Path, *names: str) -> Path:
    """Empty files: none is opened."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_images_for_prediction_are_found_by_file_folder_and_pattern(tmp_path: Path) -> None:
    lay(tmp_path, "b.png", "a.png", "deep/er/c.png", "deep/notes.txt", ".hidden.png", "[x].png")
    names = {path.name for path in find_images([str(tmp_path)])}
    assert names == {"a.png", "b.png", "c.png", "[x].png"}
    assert find_images([str(tmp_path / "b.png"), str(tmp_path / "[x].png")]) == [
        tmp_path / "b.png",
        tmp_path / "[x].png",
    ]
    assert find_images([str(tmp_path / "?.png")]) == [tmp_path / "a.png", tmp_path / "b.png"]
    assert find_images([str(tmp_path / "**/c.*")]) == [tmp_path / "deep/er/c.png"]


@pytest.mark.parametrize(
    ("argument", "message"), [("gone.png", "does not exist"), ("*.gif", "No file matches"), ("empty", "no images in")]
)
def test_arguments_that_name_nothing_are_said(tmp_path: Path, argument: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=message):
        find_images([str(tmp_path / argument)])


def test_what_is_passed_over_in_a_folder_is_said(tmp_path: Path) -> None:
    lay(tmp_path, "a.png", "notes.txt", "run/checkpoints/begun.json", "run/examples/1.png", "deep/b.png")
    (tmp_path / "deep/up").symlink_to(tmp_path)
    said: list[str] = []
    assert find_images([str(tmp_path)], said.append) == [tmp_path / "a.png", tmp_path / "deep/b.png"]
    assert said == [
        f"1 file passed over, not an image by its extension: '{tmp_path}/notes.txt'.",
        f"1 link passed over, links to folders are not followed: '{tmp_path}/deep/up'.",
        f"1 folder passed over, written by a training: '{tmp_path}/run'.",
    ]


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refuse(folder: str) -> Any:  # noqa: ANN401 - what os.scandir returns has no public type
        if Path(folder).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(folder)

    lay(tmp_path, "a.png", "closed/b.png")
    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"closed is a folder that could not be read: Permission denied"):
        find_images([str(tmp_path)])
