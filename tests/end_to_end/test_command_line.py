"""The command as people run it: what it writes, where it says what, and how it leaves."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from steadylens import cli, pipeline
from steadylens.errors import ConfigError

CLASSES = ["bolt", "nut", "washer"]
# Few and narrow neurons and a fixed arithmetic: quick, and equal to the bit on every run.
SMALL = ["--network", "cnn-s", "--width", "0.2", "--epochs", "2", "--set", "precision=fp32"]
FIGURES = ("accuracy", "balanced_accuracy", "macro_f1", "worst_class_recall", "log_loss", "balanced_log_loss", "ece")
ESCAPE = "\x1b"


@dataclass(frozen=True)
class Left:
    """How a command left, and what it had said."""

    code: int
    out: str
    err: str


Invoke = Callable[..., Left]


def command(*arguments: str | Path, stdin: bytes | None = None) -> Left:
    """Run the real command in a process of its own."""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "steadylens", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=environment(),
        check=False,
        timeout=120,
    )
    return Left(done.returncode, done.stdout.decode(), done.stderr.decode())


def environment() -> dict[str, str]:
    forcing = {"FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "CLICOLOR_FORCE"}
    return {name: value for name, value in os.environ.items() if name not in forcing}


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Invoke]:
    """Runs the same entry point in this process, which spares the seconds that imports take."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*arguments: str | Path) -> Left:
        monkeypatch.setattr(sys, "argv", ["steadylens", *map(str, arguments)])
        monkeypatch.setattr(cli, "STARTED", time.perf_counter())
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        said = capsys.readouterr()
        return Left(int(exit_.value.code or 0), said.out, said.err)

    yield run
    for number, action in signals.items():
        signal.signal(number, action)


@pytest.fixture(scope="session")
def trained(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Left]:
    """A run made by the real command, and what it said; not to be written to."""
    run = tmp_path_factory.mktemp("runs") / "run"
    return run, command("train", images_folder, *SMALL, "--out", run)


@pytest.fixture
def run(trained: tuple[Path, Left]) -> Path:
    return trained[0]


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(run, tmp_path / "own run"))


def read(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    return json.loads(path.read_text("utf-8"))


# Train


def test_a_run_holds_exactly_what_the_contract_says(trained: tuple[Path, Left]) -> None:
    run, left = trained
    assert left.code == 0, left.err
    assert sorted(path.name for path in run.iterdir()) == [
        ".lock", "audit", "audit.json", "checkpoints", "examples", "fixes.csv", "index.parquet", "metrics.jsonl",
        "model", "recipe.json", "report.html", "report.json",
    ]  # fmt: skip
    assert sorted(path.name for path in (run / "model").iterdir()) == ["model.json", "model.safetensors"]
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["begun.json"]
    assert [path.name for path in run.rglob("*") if path.name.startswith(".") or path.suffix == ".tmp"] == [".lock"]


def test_results_go_to_stdout_and_messages_to_stderr_without_escape_codes(trained: tuple[Path, Left]) -> None:
    run, left = trained
    assert ESCAPE not in left.out + left.err
    assert "\r" not in left.err
    assert "epoch   1" in left.err
    assert "epoch   1" not in left.out
    report = read(run / "report.json")
    assert f"{report['test']['balanced_accuracy']['value']:.1%}" in left.out
    assert str(run / "report.html") in left.out


def test_the_report_has_every_key_of_its_contract(run: Path) -> None:
    report = read(run / "report.json")
    assert report.keys() >= {
        "schema", "steadylens_version", "command", "classes", "seed", "device", "data", "selection", "training",
        "diagnosis", "validation", "test", "robustness", "timing", "environment",
    }  # fmt: skip
    assert (report["schema"], report["classes"], report["seed"], report["device"]) == (1, CLASSES, 0, "cpu")
    assert report["data"].keys() >= {
        "images", "refused", "per_class", "imbalance_factor", "duplicates", "near_duplicates", "leakage",
        "label_issues",
    }  # fmt: skip
    assert report["data"]["per_class"] == {"bolt": 30, "nut": 18, "washer": 12}
    assert report["data"]["imbalance_factor"] == 2.5
    assert report["training"].keys() >= {
        "epochs", "best_epoch", "stopped", "seconds", "images_per_second", "precision", "resumed",
    }  # fmt: skip
    assert (report["training"]["epochs"], report["training"]["stopped"]) == (2, "epochs")
    assert report["diagnosis"].keys() >= {
        "verdict", "train_balanced_accuracy", "validation_balanced_accuracy", "gap", "text",
    }  # fmt: skip
    assert report["environment"].keys() >= {"python", "torch", "cpu", "gpu"}
    assert all(seconds >= 0 for seconds in report["timing"].values())


def test_the_selection_names_its_trials_and_reasons(run: Path) -> None:
    report = read(run / "report.json")
    selection, recipe = report["selection"], read(run / "recipe.json")
    assert selection.keys() >= {"trials", "chosen", "why"}
    assert selection["trials"][0].keys() >= {"recipe", "validation", "seconds", "stopped_at"}
    names = {"balanced_accuracy", "balanced_log_loss", "worst_class_recall"}
    assert selection["trials"][0]["validation"] == {name: report["validation"][name]["value"] for name in names}
    assert selection["chosen"] == recipe
    assert selection["why"].keys() == {*recipe.keys(), "trials"}
    assert all(isinstance(reason, str) and reason for reason in selection["why"].values())
    assert "auto" not in recipe.values()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_figures_of_a_split_are_whole(run: Path, split: str) -> None:
    scores = read(run / "report.json")[split]
    rows = pq.read_table(run / "index.parquet").to_pylist()
    assert scores["n"] == sum(row["split"] == split for row in rows)
    for name in FIGURES:
        assert scores[name]["low"] <= scores[name]["value"] <= scores[name]["high"]
    assert [row["class"] for row in scores["per_class"]] == CLASSES
    assert all(row.keys() == {"class", "support", "precision", "recall", "f1"} for row in scores["per_class"])
    assert [sum(row) for row in scores["confusion"]] == [row["support"] for row in scores["per_class"]]
    assert "abstention" in scores


def test_the_index_lists_every_image_with_its_split(run: Path, images_folder: Path) -> None:
    table = pq.read_table(run / "index.parquet")
    assert table.column_names == ["path", "label", "split", "group", "sha256", "width", "height", "refusal"]
    rows = table.to_pylist()
    assert sorted(row["path"] for row in rows) == sorted(str(path) for path in images_folder.rglob("*.png"))
    assert {row["split"] for row in rows} == {"train", "validation", "test"}
    assert {(row["width"], row["height"], row["refusal"]) for row in rows} == {(12, 12, None)}
    assert all(len(row["sha256"]) == 64 for row in rows)


def test_the_curve_has_one_line_an_epoch(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2]
    assert lines[0].keys() >= {"train_loss", "train_balanced_accuracy", "validation_balanced_accuracy"}


def test_the_same_command_twice_gives_the_same_bytes_and_figures(
    run: Path, images_folder: Path, tmp_path: Path
) -> None:
    left = command("train", images_folder, *SMALL, "--out", tmp_path / "again", "--json", "--quiet")
    assert (left.code, left.err) == (0, "")
    again, first = json.loads(left.out), read(run / "report.json")
    written = read(tmp_path / "again" / "report.json")
    assert {**again, "timing": None} == {**written, "timing": None}  # the file cannot know how long writing it took
    for name in ("validation", "test", "diagnosis", "data", "classes"):
        assert again[name] == first[name]
    weights = Path("model") / "model.safetensors"
    assert (tmp_path / "again" / weights).read_bytes() == (run / weights).read_bytes()


def test_another_seed_gives_other_weights(run: Path, images_folder: Path, tmp_path: Path, invoke: Invoke) -> None:
    left = invoke("train", images_folder, *SMALL, "--seed", "1", "--out", tmp_path / "run", "--quiet")
    assert left.code == 0
    weights = Path("model") / "model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() != (run / weights).read_bytes()


def test_without_out_a_run_takes_a_free_name_in_the_current_folder(
    images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, invoke: Invoke
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts-run").mkdir()
    left = invoke("train", images_folder, *SMALL, "--quiet")
    assert left.code == 0
    assert (tmp_path / "parts-run-2" / "report.html").is_file()


def test_broken_files_and_empty_classes_are_trained_around_and_named(make_images: Callable[..., Path]) -> None:
    data = make_images()
    jpeg = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc0000b0800")
    (data / "bolt" / "cut-off.jpg").write_bytes(jpeg)
    (data / "nut" / "page.jpg").write_text("<html>not found</html>", "utf-8")
    (data / "cog").mkdir()
    left = command("train", data, *SMALL, "--out", data.parent / "run")
    assert left.code == 0, left.err
    run = data.parent / "run"
    report, page = read(run / "report.json"), (run / "report.html").read_text("utf-8")
    assert {row["path"]: row["class"] for row in report["data"]["refusals"]} == {
        "bolt/cut-off.jpg": "bolt",
        "nut/page.jpg": "nut",
    }
    assert (report["data"]["refused"], report["classes"]) == (2, CLASSES)
    assert any("cog" in finding["text"] for finding in read(run / "audit.json"))
    for name in ("cut-off.jpg", "page.jpg", "cog"):
        assert name in page
    assert "cog" in left.err
    refused = [row for row in pq.read_table(run / "index.parquet").to_pylist() if row["refusal"]]
    assert {row["path"] for row in refused} == {str(data / "bolt" / "cut-off.jpg"), str(data / "nut" / "page.jpg")}


def test_another_folder_can_be_the_test_split(make_images: Callable[..., Path], invoke: Invoke) -> None:
    data = make_images()
    other = make_images({"bolt": 3, "nut": 4, "washer": 5}, "other", 1)
    left = invoke("train", data, "--test", other, *SMALL, "--out", data.parent / "run", "--json", "--quiet")
    assert json.loads(left.out)["data"]["splits"]["test"] == {"bolt": 3, "nut": 4, "washer": 5}


def test_archives_and_manifests_give_what_the_folder_gives(
    run: Path, images_folder: Path, tmp_path: Path, invoke: Invoke
) -> None:
    zipped = shutil.make_archive(str(tmp_path / "parts"), "zip", images_folder)
    tar = shutil.make_archive(str(tmp_path / "wrapped"), "tar", images_folder.parent, images_folder.name)
    manifest = tmp_path / "parts.csv"
    rows = [f"{path},{path.parent.name},test" for path in sorted(images_folder.rglob("*.png"))]
    manifest.write_text("\n".join(["path,label,split", *rows]), "utf-8")

    left = invoke("train", zipped, *SMALL, "--out", tmp_path / "run", "--json", "--quiet")
    assert left.code == 0, left.err
    weights = "model/model.safetensors"
    assert (tmp_path / "run" / weights).read_bytes() == (run / weights).read_bytes()
    paths = [row["path"] for row in pq.read_table(tmp_path / "run/index.parquet").to_pylist()]
    assert paths[0] == f"{zipped}/bolt/000.png"

    tested = invoke("train", tar, "--test", manifest, *SMALL, "--out", tmp_path / "tested", "--json", "--quiet")
    assert json.loads(tested.out)["data"]["splits"]["test"] == {"bolt": 30, "nut": 18, "washer": 12}
    scores = [
        json.loads(invoke("evaluate", run, form, "--json").out) for form in (images_folder, zipped, tar, manifest)
    ]
    assert all(score == scores[0] for score in scores)


def test_added_images_leave_the_splits_of_an_earlier_run_alone(
    run: Path, images_folder: Path, tmp_path: Path, invoke: Invoke
) -> None:
    data = Path(shutil.copytree(images_folder, tmp_path / "parts"))
    for name in CLASSES:
        for number in range(9):
            pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), np.uint8)
            Image.fromarray(pixels).save(data / name / f"new {number}.png")
    left = invoke("train", data, "--splits", run, *SMALL, "--seed", "9", "--out", tmp_path / "run", "--quiet")
    assert left.code == 0, left.err
    before, after = (pq.read_table(one / "index.parquet").to_pylist() for one in (run, tmp_path / "run"))
    old = {row["sha256"]: row["split"] for row in before}
    assert {row["sha256"]: row["split"] for row in after if row["sha256"] in old} == old
    assert {row["split"] for row in after if row["sha256"] not in old} == {"train", "validation", "test"}


def test_splits_of_what_is_no_run_end_before_the_images_are_read(images_folder: Path, invoke: Invoke) -> None:
    left = invoke("train", images_folder, "--splits", images_folder, "--out", images_folder.parent / "none")
    assert left.code == ConfigError.exit_code
    assert "Name the folder of a run" in left.err
    assert "Reading" not in left.err


def test_near_duplicates_and_near_leaks_are_found_and_reported(tmp_path: Path, invoke: Invoke) -> None:
    for split, first, count in (("train", 0, 12), ("test", 100, 6)):
        for number in range(count):
            folder = tmp_path / "photos" / split / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(drawn_photo(first + number)).save(folder / f"{number}.png")
    Image.fromarray(drawn_photo(0)).save(tmp_path / "photos/train/a/copy.jpg", quality=70)
    Image.fromarray(drawn_photo(2)[1:31, 1:30]).save(tmp_path / "photos/test/a/crop.png")
    left = invoke("train", tmp_path / "photos", *SMALL, "--out", tmp_path / "run", "--json")
    data = json.loads(left.out)["data"]
    assert (data["duplicates"], data["near_duplicates"], data["leakage"]) == (0, 2, 1)
    sets = {finding["kind"]: finding["sets"] for finding in data["findings"]}
    root = tmp_path / "photos"
    assert sets["near-duplicate"] == [[str(root / "train/a/0.png"), str(root / "train/a/copy.jpg")]]
    assert sets["near-leakage"] == [[str(root / "train/a/2.png"), str(root / "test/a/crop.png")]]
    assert "1 image of test also in train" in left.err


def drawn_photo(number: int) -> NDArray[np.uint8]:
    """Smooth noise on two scales, (32, 32, 3)."""
    rng = np.random.default_rng(number)
    coarse, fine = (
        Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).resize((32, 32)) for side in (4, 12)
    )
    return np.asarray(Image.blend(coarse, fine, 0.4))


GIVEN: dict[str, tuple[str, Any]] = {
    "budget": ("10m", 600.0), "network": ("keras-blog", "keras-blog"), "depth": ("2", 2), "width": ("0.5", 0.5),
    "image_size": ("10", 10), "imbalance": ("class-weights", "class-weights"), "minority_augment": ("0.3", 0.3),
    "augment": ("medium", "medium"), "l1": ("1e-5", 1e-5), "l2": ("0.01", 0.01), "dropout": ("0.2", 0.2),
    "label_smoothing": ("0.05", 0.05), "mixup": ("0.25", 0.25), "early_stopping": ("2", 2), "epochs": ("2", 2),
    "seed": ("5", 5), "device": ("cpu", "cpu"),
}  # fmt: skip
SET: dict[str, tuple[str, Any]] = {
    "batch_size": ("16", 16), "learning_rate": ("0.003", 0.003), "averaging": ("0.9", 0.9),
    "precision": ("fp32", "fp32"), "flip": ("off", False), "image_fit": ("pad", "pad"), "refit": ("off", False),
    "mirror": ("on", "on"), "members": ("1", 1), "stopping": ("sure", "sure"),
}  # fmt: skip
OF_WEIGHTS = {"weights", "weights_sha256", "arguments", "transfer"}  # which come with a pretrained backbone


@pytest.fixture(scope="session")
def everything_given(images_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for which every option was given."""
    run = tmp_path_factory.mktemp("runs") / "given"
    options = [word for name, (text, _) in GIVEN.items() for word in ("--" + name.replace("_", "-"), text)]
    settings = [word for name, (text, _) in SET.items() for word in ("--set", f"{name}={text}")]
    left = command("train", images_folder, *options, *settings, "--out", run, "--quiet")
    assert left.code == 0, left.err
    return run


@pytest.mark.parametrize("name", [*GIVEN, *SET])
def test_an_option_that_is_given_is_obeyed_and_said_to_be_given(everything_given: Path, name: str) -> None:
    assert read(everything_given / "recipe.json")[name] == {**GIVEN, **SET}[name][1]
    assert read(everything_given / "report.json")["selection"]["why"][name] == "given"


def test_every_field_of_the_recipe_can_be_given(everything_given: Path) -> None:
    assert read(everything_given / "recipe.json").keys() == {*GIVEN, *SET, *OF_WEIGHTS, "classes", "optimizer"}


def test_the_second_training_has_a_flag(images_folder: Path, tmp_path: Path, invoke: Invoke) -> None:
    left = invoke("train", images_folder, *SMALL, "--refit", "--out", tmp_path / "run", "--json", "--quiet")
    report = json.loads(left.out)
    assert report["training"]["refit"]["epochs"] == report["training"]["best_epoch"]
    assert report["selection"]["chosen"]["refit"] is True


def test_flags_win_over_set_and_set_over_the_file(images_folder: Path, tmp_path: Path, invoke: Invoke) -> None:
    (tmp_path / "options.toml").write_text('network = "cnn-s"\nwidth = 0.5\nepochs = 3\nl1 = 1e-5\n')
    left = invoke(
        "train", images_folder, "--config", tmp_path / "options.toml", "--set", "width=0.3", "--set", "epochs=2",
        "--epochs", "1", "--out", tmp_path / "run", "--json",
    )  # fmt: skip
    chosen = json.loads(left.out)["selection"]["chosen"]
    assert (chosen["width"], chosen["epochs"], chosen["l1"]) == (0.3, 1, 1e-5)


def test_a_budget_that_is_used_up_before_the_training_gives_it_a_quarter_all_the_same(
    images_folder: Path, tmp_path: Path, invoke: Invoke
) -> None:
    left = invoke(
        "train", images_folder, "--network", "cnn-s", "--width", "0.2", "--budget", "2s", "--out", tmp_path / "run",
        "--json",
    )  # fmt: skip
    assert left.code == 0, left.err
    assert "2 s are too few for these images" in left.err
    assert json.loads(left.out)["training"]["seconds"] == pytest.approx(0.5, abs=0.25)


@pytest.mark.parametrize("budget", ["7s", "1s"])
def test_a_budget_ends_the_training(images_folder: Path, tmp_path: Path, invoke: Invoke, budget: str) -> None:
    left = invoke(
        "train", images_folder, "--network", "cnn-s", "--width", "0.2", "--budget", budget, "--out", tmp_path / "run",
        "--json", "--quiet",
    )  # fmt: skip
    assert left.code == 0, left.err
    training = json.loads(left.out)["training"]
    assert (training["stopped"], training["budget_s"]) == ("budget", float(budget[:-1]))


def test_a_budget_that_was_not_asked_for_is_in_the_report_too(
    images_folder: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "DEFAULT_BUDGET_S", 2.5)
    left = invoke("train", images_folder, "--network", "cnn-s", "--width", "0.2", "--out", tmp_path / "run", "--json")
    assert left.code == 0, left.err
    report = json.loads(left.out)
    assert (report["training"]["stopped"], report["training"]["budget_s"]) == ("budget", 2.5)
    assert report["selection"]["why"]["budget"] == "the default"
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["budget"] == 2.5


# The other commands


def test_evaluate_measures_other_images_and_names_what_it_left_out(run: Path, make_images: Callable[..., Path]) -> None:
    other = make_images({"bolt": 4, "nut": 3, "washer": 2}, seed=3)
    (other / "nut" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    left = command("evaluate", run, other, "--json")
    assert left.code == 0, left.err
    scores = json.loads(left.out)
    assert (scores["n"], [row["support"] for row in scores["per_class"]]) == (9, [4, 3, 2])
    assert scores.keys() >= {*FIGURES, "confusion", "refusals"}
    assert [row["path"] for row in scores["refusals"]] == ["nut/broken.png"]
    assert "broken.png" in left.err


def test_evaluate_prints_a_table_and_quiet_silences_the_rest(run: Path, images_folder: Path, invoke: Invoke) -> None:
    left = invoke("evaluate", run / "model", images_folder, "--quiet")
    assert (left.code, left.err) == (0, "")
    assert "balanced accuracy" in left.out


def test_report_writes_the_page_again(own_run: Path, invoke: Invoke) -> None:
    page = own_run / "report.html"
    page.unlink()
    left = invoke("report", own_run, "--json", "--quiet")
    assert (left.code, json.loads(left.out), left.err) == (0, {"report": str(page)}, "")
    assert page.read_text("utf-8").startswith("<!DOCTYPE html>")
    assert invoke("report", own_run).out == f"{page}\n"


def test_predict_answers_for_files_folders_and_patterns_in_order(
    run: Path, images_folder: Path, invoke: Invoke
) -> None:
    image = images_folder / "bolt" / "003.png"
    left = invoke("predict", run, image, images_folder / "washer", images_folder / "*" / "000.png")
    assert (left.code, left.err) == (0, "")
    rows = [line.split("\t") for line in left.out.splitlines()]
    expected = [image, *sorted((images_folder / "washer").iterdir()), *sorted(images_folder.glob("*/000.png"))]
    assert [row[0] for row in rows] == [str(path) for path in expected]
    assert all(row[1] in CLASSES and 1 / 3 <= float(row[2]) <= 1 for row in rows)


def test_predict_gives_json_lines_and_reads_stdin(run: Path, images_folder: Path, invoke: Invoke) -> None:
    image = images_folder / "nut" / "001.png"
    piped = command("predict", run, "-", "--json", stdin=image.read_bytes())
    assert (piped.code, piped.err) == (0, "")
    row = json.loads(piped.out)
    assert row["path"] == "-"
    assert row["class"] == CLASSES[row["label"]]
    assert list(row["probabilities"]) == CLASSES
    assert sum(row["probabilities"].values()) == pytest.approx(1)
    assert row["probability"] == row["probabilities"][row["class"]]
    named = json.loads(invoke("predict", run / "model", image, "--json").out)
    assert named == {**row, "path": str(image)} | {
        "probability": pytest.approx(row["probability"]),
        "probabilities": pytest.approx(row["probabilities"]),
    }


def test_predict_names_files_whose_name_is_not_unicode(
    run: Path, images_folder: Path, tmp_path: Path, invoke: Invoke
) -> None:
    odd = os.fsencode(tmp_path) + b"/caf\xe9.png"
    try:
        with open(odd, "wb") as file:  # noqa: PTH123 - the name is bytes
            file.write((images_folder / "nut" / "001.png").read_bytes())
    except OSError:
        pytest.skip("this file system takes Unicode names only")
    left = invoke("predict", run, tmp_path)
    assert left.code == 0
    assert "caf\\udce9.png\t" in left.out


def test_predict_of_a_broken_file_answers_for_the_others_and_leaves_with_3(
    run: Path, images_folder: Path, tmp_path: Path, invoke: Invoke
) -> None:
    (tmp_path / "broken.png").write_bytes(b"nothing like an image")
    images = [tmp_path / "broken.png", images_folder / "nut" / "000.png"]
    left = invoke("predict", run, *images)
    first, second = left.out.splitlines()
    assert left.code == 3
    assert first.split("\t")[:2] == [str(images[0]), "refused"]
    assert second.startswith(str(images[1]))
    assert left.err == "1 could not be read.\n"
    quiet = invoke("predict", run, *images, "--json", "--quiet")
    assert (quiet.code, quiet.err) == (3, "")
    assert json.loads(quiet.out.splitlines()[0]).keys() == {"path", "refusal"}


def test_doctor_tells_what_will_be_used(invoke: Invoke) -> None:
    left = command("doctor", "--json", "--quiet")
    assert (left.code, left.err) == (0, "")
    found = json.loads(left.out)
    assert found.keys() >= {"steadylens", "python", "torch", "cores", "memory_gb", "device", "precision", "cache"}
    assert found["cache"] == os.environ["STEADYLENS_CACHE"]
    text = invoke("doctor").out
    assert "memory gb" in text
    assert all(warning in text for warning in found["warnings"])


# How it leaves


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epocs", "3"], ["--epocs", "--epochs"]),
        (["--imbalance", "class-weight"], ["The imbalance option must be", "did you mean class-weights?"]),
        (["--width", "99", "--depth", "x", "--imbalance", "class-weight"], ["width", "depth", "imbalance"]),
        (["--budget", "soon"], ["budget", "90s, 10m", "'soon'"]),
        (["--set", "nonsense"], ["name=value", "'nonsense'"]),
        (["--set", "nonsense=1"], ["There is no option 'nonsense'"]),
        (["--set", "widht=1"], ["'widht'", "Did you mean 'width'?"]),
        (["--config", "missing.toml"], ["missing.toml"]),
        (["--json", "--width", "99"], ["width"]),
    ],
)
def test_wrong_options_leave_with_2_and_say_what_is_right(arguments: list[str], says: list[str]) -> None:
    left = command("train", "anywhere", *arguments)
    assert (left.code, left.out) == (2, "")
    assert "Traceback" not in left.err
    assert ESCAPE not in left.err
    for part in says:
        assert part in left.err


def test_a_run_that_exists_already_is_left_alone(run: Path, images_folder: Path, invoke: Invoke) -> None:
    before = (run / "report.json").read_bytes()
    left = invoke("train", images_folder, *SMALL, "--out", run)
    assert left.code == 2
    assert "exists already" in left.err
    assert (run / "report.json").read_bytes() == before


def test_data_that_cannot_be_trained_on_leaves_with_3(make_images: Callable[..., Path], invoke: Invoke) -> None:
    one = make_images({"bolt": 5}, "one")
    broken = make_images({"bolt": 2, "nut": 2}, "broken")
    for path in broken.rglob("*.png"):
        path.write_bytes(b"no image")
    empty = one.parent / "empty"
    (empty / "bolt").mkdir(parents=True)
    packed, table = one.parent / "photos.tar.gz", one.parent / "photos.csv"
    packed.write_bytes(b"\x1f\x8b")
    table.write_text("path,label\na.png,\n", "utf-8")
    for data, says in (
        (one, "only one class"),
        (broken, "4 images refused"),
        (empty, "no usable images"),
        (one.parent / "missing", "does not exist"),
        (packed, "Unpack it"),
        (table, "line 2: no label"),
    ):
        left = invoke("train", data, *SMALL, "--out", one.parent / f"run-of-{data.name}")
        assert (left.code, left.out) == (3, ""), data
        assert str(data) in left.err
        assert says in left.err
        assert "Traceback" not in left.err


def test_a_model_that_is_missing_or_damaged_leaves_with_4(own_run: Path, images_folder: Path, invoke: Invoke) -> None:
    assert invoke("predict", images_folder.parent / "nowhere", images_folder).code == 4
    weights = own_run / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    for arguments in (("predict", own_run, images_folder), ("evaluate", own_run, images_folder)):
        left = invoke(*arguments)
        assert (left.code, left.out) == (4, "")
        assert "damaged" in left.err


def test_classes_that_the_model_does_not_know_leave_with_3(
    run: Path, make_images: Callable[..., Path], invoke: Invoke
) -> None:
    left = invoke("evaluate", run, make_images({"bolt": 2, "spring": 2}))
    assert left.code == 3
    assert "spring" in left.err


def test_a_folder_that_is_no_finished_run_has_no_report(tmp_path: Path, invoke: Invoke) -> None:
    left = invoke("report", tmp_path)
    assert left.code == 3
    assert str(tmp_path) in left.err


def test_a_device_that_is_missing_leaves_with_5(
    images_folder: Path, tmp_path: Path, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    left = invoke("train", images_folder, *SMALL, "--device", "cuda", "--out", tmp_path / "run")
    assert left.code == 5
    assert "doctor" in left.err


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (MemoryError("Unable to allocate 9 TiB"), 5, "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), 5, "too little"),
        (RuntimeError("odd"), 1, "has a bug"),
    ],
)
def test_memory_leaves_with_5_and_what_nobody_foresaw_with_1(
    monkeypatch: pytest.MonkeyPatch, invoke: Invoke, error: Exception, code: int, says: str
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr("steadylens.diagnostics.examine", fail)
    left = invoke("doctor", "--quiet")
    assert (left.code, left.out) == (code, "")
    assert says in left.err
    assert ("Traceback" in left.err) == (code == 1)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_with_the_code_of_its_signal(
    images_folder: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    arguments = ["train", str(images_folder), *SMALL, "--epochs", "1000000", "--out", str(tmp_path / "run")]
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "steadylens", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    ) as running:
        assert running.stderr is not None
        for line in running.stderr:
            if "Selecting" in line:
                break
        time.sleep(0.5)
        running.send_signal(number)
        out, err = running.communicate(timeout=30)
    assert (running.returncode, out) == (code, "")
    assert err.splitlines()[-1].startswith("steadylens: interrupted.")
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "report.json").exists()


def test_no_colour_is_used_on_a_terminal_where_none_is_wanted(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    with subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "steadylens", "predict", str(tmp_path), "x.png"],
        stdout=theirs,
        stderr=theirs,
        env={**environment(), "NO_COLOR": "1", "TERM": "xterm-256color"},
    ) as running:
        os.close(theirs)
        said = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux says so where the other end is closed
                break
            if not piece:
                break
            said += piece
    os.close(ours)
    assert running.returncode == 4
    assert b"holds no model" in said
    assert not re.search(rb"\x1b\[[0-9;]*[34][0-9][0-9;]*m", said)


def test_help_shows_the_defaults() -> None:
    left = command("train", "--help")
    assert left.code == 0
    for default in ("[10m]", "[a new one, named after DATA]", "[as many as the budget"):
        assert default in re.sub(r"\s+", " ", left.out)
