"""Reading sources: every layout, name and mishap that a folder of images can have."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from steadylens.data.sources import (
    ImageIndex,
    RefusedImage,
    drop_refused,
    index_arrays,
    index_paths,
    read_index,
    read_index_to_measure,
)
from steadylens.data.split import split
from steadylens.errors import DataError


def picture(shade: int, width: int = 6, height: int = 4) -> bytes:
    content = BytesIO()
    Image.new("RGB", (width, height), (shade, 0, 0)).save(content, "PNG")
    return content.getvalue()


def lay(root: Path, *names: str) -> Path:
    """Write a different image under every name."""
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    return root


def shown(index: ImageIndex) -> list[str]:
    assert index.root is not None
    return [Path(path).relative_to(index.root).as_posix() for path in index.paths]


def class_names(index: ImageIndex) -> list[str]:
    return [index.classes[label] for label in index.labels]


def test_a_folder_of_class_folders(tmp_path: Path) -> None:
    lay(tmp_path, "dog/b.png", "cat/2.png", "cat/nested/1.png", "dog/a.jpg")
    index = read_index(tmp_path)
    assert index.classes == ("cat", "dog")
    assert shown(index) == ["cat/2.png", "cat/nested/1.png", "dog/a.jpg", "dog/b.png"]
    assert index.labels.tolist() == [0, 0, 1, 1]
    assert (str(index.labels.dtype), str(index.widths.dtype)) == ("int64", "int32")
    assert index.widths.tolist() == [6] * 4
    assert index.heights.tolist() == [4] * 4
    assert index.splits == ("",) * 4
    assert len(set(index.sha256)) == len(index) == 4
    assert (index.refusals, index.notes, index.groups) == ((), (), ("",) * 4)


@pytest.mark.parametrize("validation", ["validation", "val", "Val"])
def test_a_folder_of_splits(tmp_path: Path, validation: str) -> None:
    lay(tmp_path, "train/cat/1.png", "train/dog/1.png", f"{validation}/cat/1.png", "test/dog/1.png")
    index = read_index(tmp_path)
    assert sorted(zip(class_names(index), index.splits, strict=True)) == [
        ("cat", "train"), ("cat", "validation"), ("dog", "test"), ("dog", "train"),
    ]  # fmt: skip


def test_a_further_test_folder(tmp_path: Path) -> None:
    source = lay(tmp_path / "a", "cat/1.png", "dog/1.png")
    test = lay(tmp_path / "b", "dog/2.png")
    index = read_index(source, test=test)
    assert list(zip(class_names(index), index.splits, strict=True)) == [("cat", ""), ("dog", ""), ("dog", "test")]
    whole = lay(tmp_path / "c", "train/cat/1.png", "train/dog/3.png", "test/cat/4.png")
    assert {Path(path).name for path in read_index(source, test=whole).paths} == {"1.png", "4.png"}
    assert read_index(whole, test=whole / "test").splits == read_index(whole).splits
    with pytest.raises(DataError, match="two test splits"):
        read_index(whole, test=test)


def test_a_folder_named_as_a_split_among_others_may_be_a_class(tmp_path: Path) -> None:
    assert read_index(lay(tmp_path, "train/1.png", "bus/1.png")).classes == ("bus", "train")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train/cat/1.png", "train/dog/1.png", "val/cat/1.png", "validation/cat/1.png"], "'val', 'validation'"),
        (["train/cat/1.png", "train/dog/1.png", "valid/cat/1.png"], "'valid'"),
        (["train/cat/1.png", "train/dog/1.png", "test/dog/1.png", "holdout/cat/1.png"], "'holdout'"),
        (["train/cat/1.png", "extra/1.png"], "splits or classes"),
        (["test/cat/1.png", "val/cat/1.png"], "no train/"),
        (["train/1.png", "test/1.png"], "no class folders in .*train"),
        (["1.png", "2.png"], "no class folders"),
        (["cat/1.png"], "only one class, 'cat'"),
        (["train/cat/1.png", "train/dog/1.png", "test/hog/1.png"], "without a usable training image: 'hog'"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_index(lay(tmp_path, *names))


def test_a_source_that_is_missing_or_a_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_index(tmp_path / "nowhere")
    (tmp_path / "data.doc").write_text("path,label\n")
    with pytest.raises(DataError, match=r"is a file of another kind. steadylens reads"):
        read_index(tmp_path / "data.doc")
    os.mkfifo(tmp_path / "data.zip")
    with pytest.raises(DataError, match="neither a folder nor a file"):
        read_index(tmp_path / "data.zip")


def test_test_classes_that_are_not_in_training_are_named(tmp_path: Path) -> None:
    source = lay(tmp_path / "a", "cat/1.png", "dog/1.png")
    with pytest.raises(DataError, match="'eel', 'hog'"):
        read_index(source, test=lay(tmp_path / "b", "dog/1.png", "hog/1.png", "eel/1.png"))


def test_unusable_files_are_refused_each_with_its_reason(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/text.jpg").write_text("<html>not found</html>")
    (tmp_path / "cat/empty.png").write_bytes(b"")
    (tmp_path / "dog/gone.png").symlink_to(tmp_path / "nowhere")
    index = read_index(tmp_path)
    assert {refusal.path: (refusal.class_name, refusal.reason) for refusal in index.refusals} == {
        "cat/text.jpg": ("cat", "not an image (it begins with text)"),
        "cat/empty.png": ("cat", "empty file"),
        "dog/gone.png": ("dog", "could not be opened: No such file or directory"),
    }
    assert len(index) == 2


@pytest.mark.skipif(os.getuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")
    (tmp_path / "cat/2.png").chmod(0)
    assert [refusal.reason for refusal in read_index(tmp_path).refusals] == ["could not be opened: Permission denied"]


def test_pipes_are_never_opened(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png")
    os.mkfifo(tmp_path / "cat/pipe.png")
    (tmp_path / "cat/link.png").symlink_to(tmp_path / "cat/pipe.png")
    index = read_index(tmp_path)
    assert index.stray_files == ("cat/pipe.png",)
    assert [refusal.reason for refusal in index.refusals] == ["could not be opened: not a regular file"]


def test_hidden_and_system_files_are_passed_over(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png", ".cache/1.png", "cat/.hidden.png", "cat/Thumbs.db", "dog/.git/1.png")
    lay(tmp_path, "cat/desktop.ini", "cat/.DS_Store", "__MACOSX/cat/1.png")
    index = read_index(tmp_path)
    assert (len(index), index.refusals, index.notes) == (2, (), ())


def test_stray_files_are_counted_and_noted_not_refused(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png", "cat/labels.csv", "dog/deep/README.MD", "loose.png")
    index = read_index(tmp_path)
    assert index.stray_files == ("cat/labels.csv", "dog/deep/README.MD")
    assert index.refusals == ()
    assert any("2 files passed over" in note for note in index.notes)
    assert any("1 file directly in" in note and "'loose.png'" in note for note in index.notes)


def test_folders_beside_the_splits_are_noted(tmp_path: Path) -> None:
    lay(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/cat/1.png", "annotations/a.png", "notes.txt")
    index = read_index(tmp_path)
    assert index.classes == ("cat", "dog")
    assert any("1 folder beside the splits" in note and "'annotations'" in note for note in index.notes)
    assert any("'notes.txt'" in note for note in index.notes)


def test_a_run_made_inside_the_data_is_no_class_and_its_plots_are_no_images(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png", "run/examples/1.png", "dog/trained/examples/2.png", "runs/a/examples/3.png")
    for run in ("run", "dog/trained", "runs/a"):
        (tmp_path / run / "checkpoints").mkdir()
        (tmp_path / run / "checkpoints/begun.json").write_text("{}")
    index = read_index(tmp_path)
    assert (len(index), index.classes) == (2, ("cat", "dog"))
    note = "3 folders of a training passed over, whose images are copies and plots: 'dog/trained', 'run', 'runs/a'."
    assert note in index.notes


def test_links_to_folders_are_noted_and_not_followed(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/loop").symlink_to(tmp_path)
    (tmp_path / "hog").symlink_to(tmp_path / "cat")
    index = read_index(tmp_path)
    assert (len(index), index.classes) == (2, ("cat", "dog"))
    assert any("2 links to folders not followed: 'cat/loop', 'hog'" in note for note in index.notes)


def test_a_split_that_is_a_link_is_refused_and_other_links_beside_splits_are_noted(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    data, elsewhere = tmp_path / "data", make_images({"bolt": 3, "nut": 3}, "elsewhere")
    shutil.copytree(elsewhere, data / "train")
    shutil.copytree(elsewhere, data / "val")
    (data / "more").symlink_to(elsewhere)
    assert any("1 link to folders not followed: 'more'" in note for note in read_index(data).notes)
    (data / "test").symlink_to(elsewhere)
    with pytest.raises(DataError, match=r"'test' in .*: links to folders are not followed"):
        read_index(data)


def test_a_test_split_without_a_usable_image_is_not_replaced_by_another(
    tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    data = make_images({"bolt": 12, "nut": 12})
    for name in ("bolt", "nut"):
        (tmp_path / "test" / name).mkdir(parents=True)
    with pytest.raises(DataError, match=r"There are no images in .*test, which was given to test on"):
        read_index(data, test=tmp_path / "test")
    (tmp_path / "test" / "nut" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"A test split was given, but none of its images can be used"):
        split(read_index(data, test=tmp_path / "test"), 0)


@pytest.mark.parametrize(
    "folders", [("Training/bolt", "Training/nut", "Testing/bolt", "Testing/nut"), ("bolt", "nut", "test/bolt")]
)
def test_splits_of_other_names_are_not_taken_for_classes(tmp_path: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / folder / "1.png")
    with pytest.raises(DataError, match=r"with folders of classes in them: splits or classes\?"):
        read_index(tmp_path)


def test_a_class_may_be_called_test_and_classes_may_have_folders(tmp_path: Path) -> None:
    for number, folder in enumerate(("exam/a", "exam/b", "test/a", "test/b")):
        (tmp_path / folder).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / folder / "1.png")
    assert read_index(tmp_path).classes == ("exam", "test")


def test_what_was_learned_from_is_no_test(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    elsewhere = make_images({"bolt": 3, "nut": 3}, "elsewhere")
    for split_name in ("train", "val"):
        shutil.copytree(elsewhere, tmp_path / "data" / split_name)
    with pytest.raises(DataError, match="gives splits but no test split"):
        read_index_to_measure(tmp_path / "data")


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/self.png").symlink_to(tmp_path / "cat/self.png")
    assert [refusal.path for refusal in read_index(tmp_path).refusals] == ["cat/self.png"]


def test_a_link_to_a_file_of_the_class_is_passed_over_and_other_links_are_read(tmp_path: Path) -> None:
    lay(tmp_path / "data", "cat/1.png", "dog/1.png")
    lay(tmp_path / "elsewhere", "x.png")
    (tmp_path / "data/cat/again.png").symlink_to("1.png")
    (tmp_path / "data/cat/z-once.png").symlink_to(tmp_path / "elsewhere/x.png")
    (tmp_path / "data/cat/z-twice.png").symlink_to(tmp_path / "elsewhere/x.png")
    (tmp_path / "data/dog/cat.png").symlink_to(tmp_path / "data/cat/1.png")  # another class: the audit says so
    (tmp_path / "way").symlink_to(tmp_path / "data")  # the top folder itself may be reached by a link
    index = read_index(tmp_path / "way")
    assert shown(index) == ["cat/1.png", "cat/z-once.png", "dog/1.png", "dog/cat.png"]
    assert any("2 links to files that are in the same class" in note for note in index.notes)


class Unreadable:
    """os.scandir for which some folders cannot be read; permissions would not stop root."""

    def __init__(self, *folders: Path) -> None:
        self.folders, self.scandir = {str(folder) for folder in folders}, os.scandir

    def __call__(self, folder: str) -> Any:  # noqa: ANN401 - what os.scandir returns has no public type
        if str(folder) in self.folders:
            raise PermissionError(13, "Permission denied", folder)
        return self.scandir(folder)


def test_an_unreadable_folder_is_refused_and_the_rest_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path, "cat/1.png", "cat/in/2.png", "dog/1.png", "hog/1.png")
    monkeypatch.setattr(os, "scandir", Unreadable(tmp_path / "cat/in", tmp_path / "hog"))
    index = read_index(tmp_path)
    reason = "a folder that could not be read: Permission denied. Whatever it holds is missing"
    assert index.refusals == (RefusedImage("cat/in", "cat", reason), RefusedImage("hog", "hog", reason))
    assert shown(index) == ["cat/1.png", "dog/1.png"]
    assert index.empty_classes == ("hog",)


@pytest.mark.parametrize("folder", [".", "train", "test"])
def test_an_unreadable_top_or_split_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    lay(tmp_path, "train/cat/1.png", "train/dog/1.png", "test/dog/1.png")
    monkeypatch.setattr(os, "scandir", Unreadable(tmp_path / folder))
    with pytest.raises(DataError, match=r"could not be read: Permission denied"):
        read_index(tmp_path)


def test_what_vanishes_during_the_scan_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png")

    def vanish(done: int, _found: int) -> None:  # called first when all files are listed and none is opened
        if done == 0:
            (tmp_path / "cat/2.png").unlink(missing_ok=True)

    (refusal,) = read_index(tmp_path, advance=vanish).refusals
    assert (refusal.path, refusal.reason) == ("cat/2.png", "could not be opened: No such file or directory")


def test_progress_grows_to_all_files(tmp_path: Path) -> None:
    source = lay(tmp_path / "a", *(f"{name}/{number}.png" for name in ("cat", "dog") for number in range(70)))
    calls: list[tuple[int, int]] = []
    read_index(source, test=lay(tmp_path / "b", "dog/1.png"), advance=lambda *call: calls.append(call))
    assert calls == [(0, 70), (0, 140), (0, 141), (64, 141), (128, 141), (141, 141)]


def test_only_the_test_split_is_measured_on(tmp_path: Path) -> None:
    index = read_index_to_measure(lay(tmp_path / "a", "train/cat/1.png", "test/dog/2.png", "test/dog/3.png"))
    assert (shown(index), index.classes, index.splits) == (["test/dog/2.png", "test/dog/3.png"], ("dog",), ("", ""))
    assert any("Only the test split" in note for note in index.notes)
    for name in ("test", "val"):  # without the training images, which are not needed to measure
        lay(tmp_path / "b", f"{name}/cat/1.png")
    assert shown(read_index_to_measure(tmp_path / "b")) == ["test/cat/1.png"]
    assert len(read_index_to_measure(lay(tmp_path / "c", "cat/1.png"))) == 1


def test_a_further_test_source_without_a_test_split_is_said(tmp_path: Path) -> None:
    source = lay(tmp_path / "a", "cat/1.png", "dog/1.png")
    with pytest.raises(DataError, match="gives splits but no test split"):
        read_index(source, test=lay(tmp_path / "b", "train/cat/1.png", "val/cat/1.png"))
    assert read_index(source, test=lay(tmp_path / "c", "test/cat/1.png")).splits == ("", "", "test")


def test_empty_classes_are_left_out_and_noted(tmp_path: Path) -> None:
    lay(tmp_path, "b/1.png", "d/1.png")
    (tmp_path / "a").mkdir()
    (tmp_path / "c").mkdir()
    (tmp_path / "c/bad.png").write_bytes(b"\0\1\2")
    index = read_index(tmp_path)
    assert index.classes == ("b", "d")
    assert index.labels.tolist() == [0, 1]
    assert index.empty_classes == ("a", "c")
    assert any("'a' has no usable image: left out" in note for note in index.notes)
    assert any("'c' has no usable image (1 refused)" in note for note in index.notes)


def test_no_usable_image_at_all_says_why(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"no usable images .*2 images refused, most often because: empty file"):
        read_index(tmp_path)


def test_a_class_whose_training_images_are_all_refused_may_not_be_tested(tmp_path: Path) -> None:
    lay(tmp_path, "train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/1.png")
    (tmp_path / "train/c/1.png").write_bytes(b"")
    with pytest.raises(DataError, match="'c'"):
        read_index(tmp_path)


def test_any_name_works(tmp_path: Path) -> None:
    classes = ["mit\nUmbruch", "„Zitat“ 'x' \"y\"", "猫", "a b", "[*]?", "%s{0}"]
    lay(tmp_path, *(f"{name}/{name}.png" for name in classes))
    index = read_index(tmp_path)
    assert index.classes == tuple(sorted(classes))
    assert class_names(index) == [Path(path).stem for path in index.paths]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names themselves")
def test_names_that_are_not_unicode_are_refused_in_words_that_can_be_saved(tmp_path: Path) -> None:
    lay(tmp_path, "cat/1.png", "dog/1.png", "cat/b\udcff.png")
    (refusal,) = read_index(tmp_path).refusals
    assert refusal.path.encode() == rb"cat/b\udcff.png"
    assert "not valid Unicode" in refusal.reason
    lay(tmp_path, "b\udcff/1.png")
    with pytest.raises(DataError, match="not valid Unicode"):
        read_index(tmp_path)


def test_a_source_whose_name_is_not_unicode_is_said(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    lay(root, "cat/1.png", "dog/1.png")
    with pytest.raises(DataError, match=r"caf\\udce9 is not valid Unicode.*Rename it"):
        read_index(root)


def test_paths_keep_their_order_and_numeric_labels_theirs(tmp_path: Path) -> None:
    lay(tmp_path, "x.png", "sub/y.png", "z.png")
    index = index_paths([tmp_path / "z.png", str(tmp_path / "sub/y.png"), tmp_path / "x.png"], [10, 9, 10])
    assert index.classes == ("9", "10")
    assert index.labels.tolist() == [1, 0, 1]
    assert shown(index) == ["z.png", "sub/y.png", "x.png"]


def test_a_missing_path_is_refused(tmp_path: Path) -> None:
    lay(tmp_path, "x.png", "y.png")
    names = [tmp_path / "x.png", tmp_path / "gone.png", tmp_path / "y.png"]
    index = index_paths(names, ["a", "a", "b"])
    assert [(refusal.path, refusal.class_name) for refusal in index.refusals] == [("gone.png", "a")]
    assert index.labels.tolist() == [0, 1]


def test_paths_listed_twice_are_refused(tmp_path: Path) -> None:
    lay(tmp_path, "x.png", "y.png", "z.png")
    names = [str(tmp_path / name) for name in ("x.png", "y.png", "./x.png", "z.png", "z.png")]
    index = index_paths([*names, tmp_path / "w.png"], ["a", "b", "a", "a", "b", "a"])
    assert shown(index) == ["x.png", "y.png"]
    assert [(refusal.path, refusal.reason) for refusal in index.refusals] == [
        ("x.png", "listed more than once: it counts once"),
        ("z.png", "listed more than once, each time with another label ('a', 'b'): keep the right one"),
        ("z.png", "listed more than once, each time with another label ('a', 'b'): keep the right one"),
        ("w.png", "could not be opened: No such file or directory"),
    ]


@pytest.mark.parametrize("shape", [(3, 4, 5, 3), (3, 4, 5)])
def test_arrays(shape: tuple[int, ...]) -> None:
    images = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    index = index_arrays(images, ["b", "a", "b"], test=(images[:1], ["a"]))
    assert index.classes == ("a", "b")
    assert index.labels.tolist() == [1, 0, 1, 0]
    assert index.splits == ("", "", "", "test")
    assert index.paths == ("array[0]", "array[1]", "array[2]", "array[3]")
    assert index.sha256[0] == index.sha256[3] != index.sha256[1]
    assert (index.widths.tolist(), index.heights.tolist(), index.root) == ([5] * 4, [4] * 4, None)
    assert index.arrays is not None
    assert index.arrays.shape == (4, *shape[1:])


def test_the_same_bytes_in_another_shape_are_another_image() -> None:
    flat = np.zeros((2, 2, 8), np.uint8)
    assert index_arrays(flat, [0, 1]).sha256 != index_arrays(flat.reshape(2, 4, 4), [0, 1]).sha256


IMAGES = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES.astype(np.float32), [0, 1], "float32: uint8"),
        (IMAGES[..., :2], [0, 1], "shape"),
        (IMAGES[0, 0], [0, 1, 2, 3], "shape"),
        (IMAGES[:, :0], [0, 1], "shape"),
        (IMAGES, [0, 1, 2], "2 images and 3 labels"),
        (IMAGES, [0, None], "position 1 is missing"),
        (IMAGES, [float("nan"), 1.0], "position 0 is missing"),
        (IMAGES, ["", "a"], "position 0 is missing"),
        (IMAGES, [5, 5], "only one class, '5'"),
    ],
)
def test_unusable_arrays_are_said(images: np.ndarray, labels: list[object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        index_arrays(images, labels)


def test_unusable_test_arrays_are_said() -> None:
    with pytest.raises(DataError, match="shape"):
        index_arrays(IMAGES, [0, 1], test=(IMAGES[:, :2], [0, 1]))
    with pytest.raises(DataError, match="'7'"):
        index_arrays(IMAGES, [0, 1], test=(IMAGES, [0, 7]))


def test_numeric_labels_are_ordered_as_numbers_and_text_as_text() -> None:
    images = np.zeros((3, 2, 2), np.uint8)
    assert index_arrays(images, list(np.array([10, 2, 1]))).classes == ("1", "2", "10")
    assert index_arrays(images, list(np.array(["10", "2", "1"]))).classes == ("1", "10", "2")


def test_dropping_rows_renumbers_and_records(tmp_path: Path) -> None:
    index = read_index(lay(tmp_path, "a/1.png", "b/1.png", "c/1.png", "c/2.png"))
    left = drop_refused(index, {0: "damaged", 3: "damaged"})
    assert left.classes == ("b", "c")
    assert class_names(left) == ["b", "c"]
    assert [(refusal.path, refusal.class_name) for refusal in left.refusals] == [("a/1.png", "a"), ("c/2.png", "c")]
    assert left.empty_classes == ("a",)
    assert any("'a' has no usable image (1 refused)" in note for note in left.notes)
    assert left.sha256 == index.sha256[1:3]
    assert drop_refused(index, {}) is index
    with pytest.raises(DataError, match="only one class, 'c'"):
        drop_refused(index, {0: "damaged", 1: "damaged"})


def test_animated_images_are_named_as_long_as_they_are_in_the_index(tmp_path: Path) -> None:
    lay(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    frames = [Image.new("L", (4, 4), shade) for shade in (10, 200)]
    for name in ("a/2.png", "b/2.png"):
        frames[0].save(tmp_path / name, "GIF", save_all=True, append_images=frames[1:])
    index = read_index(tmp_path)
    assert index.animated == (str(tmp_path / "a/2.png"), str(tmp_path / "b/2.png"))
    assert drop_refused(index, {1: "damaged"}).animated == (str(tmp_path / "b/2.png"),)
