"""The demo: its folder of images, its two runs, and a table that says what their reports say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import typer.main

from steadylens import cli, demo
from steadylens.console import Console
from steadylens.errors import ConfigError


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> demo.Outcome:
    """The demo, with one epoch instead of its own number."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "EPOCHS", 1)
        return demo.run(tmp_path_factory.mktemp("demo") / "my demo", Console(quiet=True))


def images_of(outcome: demo.Outcome, split: str) -> dict[str, int]:
    folders = (outcome.folder / "digits" / split).iterdir()
    return {folder.name: len(list(folder.glob("*.png"))) for folder in folders}


def test_the_folder_is_long_tailed_in_training_and_balanced_in_test(outcome: demo.Outcome) -> None:
    training = [images_of(outcome, "train")[name] for name in demo.NAMES]
    test = images_of(outcome, "test")
    assert training == sorted(training, reverse=True)
    assert training[0] == demo.MOST_TRAINING_IMAGES
    assert training[-1] == int(demo.MOST_TRAINING_IMAGES / demo.IMBALANCE)
    assert test.keys() == set(demo.NAMES)
    assert min(test.values()) >= 50
    assert max(test.values()) <= 1.3 * min(test.values())


def test_no_image_is_in_training_and_test(outcome: demo.Outcome) -> None:
    named = [{path.name for path in (outcome.folder / "digits" / split).rglob("*.png")} for split in ("train", "test")]
    assert not named[0] & named[1]


def test_the_recipes_differ_in_the_remedy_alone(outcome: demo.Outcome) -> None:
    plain, balanced = (run.report["selection"]["chosen"] for run in outcome.runs.values())
    differing = {name for name in plain if plain[name] != balanced[name]}
    assert differing <= {name for options in demo.RECIPES.values() for name in options}
    assert "imbalance" in differing


def test_the_table_shows_the_figures_of_the_reports(outcome: demo.Outcome) -> None:
    plain, balanced = (
        json.loads((outcome.folder / name / "report.json").read_text("utf-8")) for name in ("plain", "balanced")
    )
    lines = outcome.text().splitlines()
    for label, name in enumerate(sorted(demo.NAMES)):
        line = next(line for line in lines if line.startswith(f"{name} "))
        seen = plain["data"]["splits"]["train"][name]
        recalls = [f"{report['test']['per_class'][label]['recall']:.0%}" for report in (plain, balanced)]
        assert line.split() == [name, str(seen), *recalls]
    for name in ("balanced_accuracy", "worst_class_recall"):
        line = next(line for line in lines if line.startswith(name.replace("_", " ")))
        assert line.split()[-2:] == [f"{report['test'][name]['value']:.1%}" for report in (plain, balanced)]
    assert outcome.as_dict()["plain"]["balanced_accuracy"] == plain["test"]["balanced_accuracy"]
    assert Path(outcome.as_dict()["balanced"]["report"]).is_file()


def test_what_it_says_to_try_can_be_typed(outcome: demo.Outcome) -> None:
    line = next(line for line in outcome.text().splitlines() if line.startswith("Then try"))
    words = shlex.split(line.removeprefix("Then try"))
    assert words[:2] == ["steadylens", "predict"]
    assert all(Path(word).is_dir() for word in words[2:])


def test_its_runs_name_a_command_that_exists(outcome: demo.Outcome) -> None:
    train = typer.main.get_command(cli.app).commands["train"]  # type: ignore[attr-defined]
    known = {option for parameter in train.params for option in parameter.opts}
    for run in outcome.runs.values():
        words = shlex.split(run.report["command"])
        assert words[:2] == ["steadylens", "train"]
        assert Path(words[2]).is_dir()
        assert {word for word in words if re.match(r"--[a-z]", word)} <= known


def test_a_folder_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        demo.run(tmp_path, Console(quiet=True))
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]
