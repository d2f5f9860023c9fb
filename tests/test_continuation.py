"""A run is gone on with where everything is as it was, and refused with the difference where it is not."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import steadylens
from faults import failing
from steadylens import files, pipeline
from steadylens.config import parse
from steadylens.console import Console
from steadylens.continuation import Source, folder_for, taken_up
from steadylens.data.sources import read_index
from steadylens.errors import ConfigError, DataError, ResourceError
from steadylens.pipeline import Run
from steadylens.preparation import Stopwatch
from steadylens.training import loop
from steadylens.training.checkpoint import Checkpoints

MakeImages = Callable[..., Path]
SMALL: dict[str, Any] = {"network": "cnn-s", "width": 0.2, "epochs": 3, "precision": "fp32", "device": "cpu"}


class Crashed(BaseException):
    """Stands for whatever ends a process."""


def crashed(monkeypatch: pytest.MonkeyPatch, data: Path, run: Path, **options: Any) -> None:  # noqa: ANN401
    """Begin a run whose training ends before its first measurement."""

    def measure(*_: object) -> None:
        raise Crashed

    with monkeypatch.context() as patch:
        patch.setattr(loop, "measure", measure)
        with pytest.raises(Crashed):
            train(data, run, **options)


def train(data: Path, run: Path, **options: Any) -> Run:  # noqa: ANN401
    return steadylens.train(data, out=run, quiet=True, **{**SMALL, **options})


def test_the_same_call_goes_on_and_says_so_in_the_report(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run, other = make_images(), tmp_path / "run", tmp_path / "other"
    crashed(monkeypatch, data, run)
    assert (run / "checkpoints" / "begun.json").is_file()
    assert not files.is_locked(run)
    resumed, whole = train(data, run).report, train(data, other).report
    assert resumed["training"]["resumed"]
    assert resumed["timing"]["earlier"] > 0
    assert not whole["training"]["resumed"]
    for name in ("test", "validation", "selection"):
        for report in (resumed, whole):
            for trial in report["selection"]["trials"]:
                trial["seconds"] = 0
        assert resumed[name] == whole[name]
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (run, other)]
    assert weights[0] == weights[1]
    with pytest.raises(ConfigError, match="exists already"):
        train(data, run)


def test_another_recipe_is_refused_with_the_difference(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = make_images(), tmp_path / "run"
    crashed(monkeypatch, data, run)
    with pytest.raises(ConfigError) as refused:
        train(data, run, epochs=4, dropout=0.5)
    for words in ("epochs was 3 and is now 4", "dropout was 'auto' and is now 0.5", "begin another run with --out"):
        assert words in str(refused.value)
    assert train(data, run).report["training"]["epochs"] == 3


def changed_class(data: Path) -> None:
    (data / "bolt" / "003.png").rename(data / "nut" / "moved.png")


def changed_content(data: Path) -> None:
    (data / "bolt" / "003.png").write_bytes((data / "nut" / "003.png").read_bytes())


def one_gone(data: Path) -> None:
    (data / "washer" / "001.png").unlink()


def broken(data: Path) -> None:
    (data / "washer" / "001.png").write_bytes(b"not an image")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (changed_class, ["1 gone", "003.png", "1 new", "moved.png"]),
        (changed_content, ["1 of other content", "003.png"]),
        (one_gone, ["1 gone", "001.png"]),
        (broken, ["1 refused for another reason", "001.png"]),
    ],
    ids=["class", "content", "gone", "broken"],
)
def test_other_images_are_refused_with_the_difference(
    make_images: MakeImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path], None],
    says: list[str],
) -> None:
    data, run, kept = make_images(), tmp_path / "run", tmp_path / "kept"
    crashed(monkeypatch, data, run)
    shutil.copytree(data, kept)
    change(data)
    with pytest.raises(DataError, match="are not those") as refused:
        train(data, run)
    for words in says:
        assert words in str(refused.value)
    shutil.rmtree(data)
    kept.rename(data)
    assert train(data, run).report["training"]["resumed"]


def test_another_version_is_refused(make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = make_images(), tmp_path / "run"
    crashed(monkeypatch, data, run)
    path = run / "checkpoints" / "begun.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "steadylens_version": "0.0.1"}))
    with pytest.raises(ConfigError, match=r"steadylens was 0\.0\.1 and is now"):
        train(data, run)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is damaged"):
        train(data, run)


HOLD = """
import pathlib, sys
from steadylens import files
with files.locked(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_refused(make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = make_images(), tmp_path / "run"
    crashed(monkeypatch, data, run)
    # Not by multiprocessing, which leaves a process of its own behind.
    with subprocess.Popen(  # noqa: S603 - our own words
        [sys.executable, "-c", HOLD, str(run)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ResourceError, match="Another process is working in"):
            train(data, run)
        other.communicate()
    assert train(data, run).report["training"]["resumed"]


def test_a_wall_clock_that_jumps_changes_nothing(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_images()
    whole = train(data, tmp_path / "whole")
    now, jumps = time.time(), itertools.cycle((0.0, -86400.0, 1e6, -1e9, 3600.0))
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    crashed(monkeypatch, data, tmp_path / "run")
    jumped = train(data, tmp_path / "run")
    assert jumped.report["training"]["epochs"] == whole.report["training"]["epochs"]
    assert 0 < jumped.report["training"]["total_seconds"] < 60
    weights = [(run.folder / "model" / "model.safetensors").read_bytes() for run in (whole, jumped)]
    assert weights[0] == weights[1]


def test_data_that_cannot_be_used_leave_no_folder_behind(make_images: MakeImages, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        train(make_images({"bolt": 5}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_killed_start_leaves_is_no_obstacle(make_images: MakeImages, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / ".lock").touch()
    (run / "checkpoints" / ".begun.json.123.tmp").write_text("{")
    assert not train(make_images(), run).report["training"]["resumed"]


def test_without_a_name_an_unfinished_run_of_the_same_command_is_found(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data, config = make_images(), parse(SMALL)
    (tmp_path / "parts-run").mkdir()
    (tmp_path / "parts-run" / "notes.txt").touch()
    crashed(monkeypatch, data, Path("parts-run-2"))
    wanted, source = Path("parts-run"), Source(str(data))
    assert folder_for(wanted, config, source, resume=False) == Path("parts-run-2")
    other = parse({**SMALL, "epochs": 9})
    for apart in ((other, source), (config, Source("elsewhere")), (config, Source(str(data), {"test": "t"}))):
        assert folder_for(wanted, *apart, resume=False) == Path("parts-run-3")
    assert folder_for(wanted, config, Source(), resume=False) == Path("parts-run-3")
    with files.locked(Path("parts-run-2")):
        assert folder_for(wanted, config, source, resume=False) == Path("parts-run-3")
    with pytest.raises(ConfigError, match="There is no run of elsewhere"):
        folder_for(wanted, config, Source("elsewhere"), resume=True)
    crashed(monkeypatch, data, Path("parts-run-3"), epochs=9)
    assert folder_for(wanted, other, source, resume=True) == Path("parts-run-3")
    assert folder_for(wanted, config, source, resume=True) == Path("parts-run-2")
    with pytest.raises(ConfigError, match="epochs was 9 and is now 77"):
        train(data, folder_for(wanted, parse({**SMALL, "epochs": 77}), source, resume=True), epochs=77)
    assert steadylens.train(data, quiet=True, **SMALL).folder == Path("parts-run-2")
    assert folder_for(wanted, config, source, resume=True) == Path("parts-run-2")  # finished: shown as it is
    assert folder_for(wanted, config, source, resume=False) == Path("parts-run-4")


def test_resuming_what_is_not_there_is_refused(tmp_path: Path) -> None:
    again = taken_up(
        tmp_path / "run", parse(SMALL), command="steadylens train parts", source=Source("parts"), resume=True,
        watch=Stopwatch(), console=Console(quiet=True),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="There is no unfinished run in"), again:
        pass
    assert not (tmp_path / "run").exists()


def test_images_in_another_order_are_refused(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(make_images().rglob("*.png"))
    labels, run = [path.parent.name for path in paths], tmp_path / "run"

    def begun(order: slice) -> Run:
        return steadylens.train(paths[order], labels[order], out=run, quiet=True, **SMALL)

    with monkeypatch.context() as patch:
        patch.setattr("steadylens.pipeline.write_page", lambda *_: (_ for _ in ()).throw(Crashed()))
        with pytest.raises(Crashed):
            begun(slice(None))
    with pytest.raises(DataError, match="in another order"):
        begun(slice(None, None, -1))
    assert begun(slice(None)).report["training"]["resumed"]


def test_a_finished_run_is_shown_only_to_who_asks_for_the_same(make_images: MakeImages, tmp_path: Path) -> None:
    data, run, config = make_images(), tmp_path / "run", parse(SMALL)
    report = train(data, run).report

    def resumed(**options: Any) -> Run:  # noqa: ANN401
        asked = parse({**SMALL, **options})
        return pipeline.train(lambda tally: read_index(data, advance=tally), run, asked, command="", resume=True)

    assert resumed().report == json.loads(json.dumps(report))
    assert config.epochs == 3
    with pytest.raises(ConfigError, match="epochs was 3 and is now 77"):
        resumed(epochs=77)


def test_names_that_no_report_could_hold_are_refused(make_images: MakeImages, tmp_path: Path) -> None:
    out = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    with pytest.raises(ConfigError, match=r"caf\\udce9 is not valid Unicode"):
        steadylens.train(make_images({"bolt": 20, "nut": 20}), out=out, quiet=True, epochs=1)
    assert not out.exists()


@pytest.mark.parametrize("kind", ["folder", "link", "nothing"])
def test_a_run_that_cannot_begin_takes_away_only_what_it_made(
    make_images: MakeImages, tmp_path: Path, kind: str
) -> None:
    run, target = tmp_path / "run", tmp_path / "target"
    target.mkdir()
    if kind == "folder":
        run.mkdir()
    elif kind == "link":
        run.symlink_to(target)
    with pytest.raises(DataError, match="class"):
        train(make_images({"bolt": 5}), run)
    assert run.exists() == (kind != "nothing")
    assert run.is_symlink() == (kind == "link")
    assert not list(target.iterdir())
    assert kind == "nothing" or not list(run.iterdir())


def test_going_on_where_the_disk_is_full_loses_nothing(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run, whole = make_images(), tmp_path / "run", train(make_images(name="same"), tmp_path / "whole")
    crashed(monkeypatch, data, run, budget="60s")
    selection = (run / "checkpoints" / "selection.json").read_bytes()
    for n in range(1, 12):
        with failing(n, errno.ENOSPC, lasting=True), pytest.raises(ResourceError):
            train(data, run, budget="60s")
        assert (run / "checkpoints" / "selection.json").read_bytes() == selection
    assert train(data, run, budget="60s").report["training"]["epochs"] == whole.report["training"]["epochs"]


def test_another_machine_is_named(make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, run = make_images(), tmp_path / "run"
    crashed(monkeypatch, data, run)
    path = run / "checkpoints" / "begun.json"
    begun = json.loads(path.read_text())
    path.write_text(json.dumps({**begun, "machine": {**begun["machine"], "torch": "1.0"}}))
    report = train(data, run).report
    assert [text.split(" and ")[0] for text in report["training"]["elsewhere"]] == ["torch was 1.0"]


def test_what_was_begun_on_a_gpu_needs_one(
    make_images: MakeImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = make_images(), tmp_path / "run"
    crashed(monkeypatch, data, run)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    kept = Checkpoints(run / "checkpoints")
    selection = kept.outcome("selection")
    assert selection is not None
    selection.state["recipe"]["device"] = "cuda"
    kept.keep("selection", selection)
    with pytest.raises(ResourceError, match="was begun on a CUDA device"):
        train(data, run)
