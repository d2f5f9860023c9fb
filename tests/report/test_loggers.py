"""Every logger gets the figures of metrics.jsonl, each epoch once, and none can stop a training."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from steadylens.errors import ConfigError
from steadylens.report import loggers as module
from steadylens.report.loggers import Loggers, open_loggers
from steadylens.report.metrics_log import RunLog

RECIPE = {"network": "cnn-s", "classes": ["bolt", "nut"], "flip": True, "budget": None, "l2": 0.05, "epochs": 3}
REPORT = {
    "training": {"best_epoch": 2},
    "test": {
        "n": 10,
        "balanced_accuracy": {"value": 0.8, "low": 0.7, "high": 0.9},
        "ece": {"value": 0.1},
        "worst": "nut",
    },
}
FINAL = {
    "test_balanced_accuracy": 0.8,
    "test_balanced_accuracy_low": 0.7,
    "test_balanced_accuracy_high": 0.9,
    "test_ece": 0.1,
}


def row(epoch: int, loss: float | None = 0.5) -> dict[str, Any]:
    return {"epoch": epoch, "seconds": 1.5 * epoch, "train_loss": loss}


class Fake:
    """A logger that keeps what it is told, and fails when it is told to."""

    where = "nowhere"

    def __init__(self) -> None:
        self.logs: list[RunLog] = []
        self.fails: Exception | None = None
        self.closed: bool | None = None

    def require(self) -> None:
        pass

    def update(self, log: RunLog) -> None:
        if self.fails:
            raise self.fails
        self.logs.append(log)

    def close(self, *, finished: bool) -> None:
        if self.fails:
            raise self.fails
        self.closed = finished

    @property
    def epochs(self) -> list[int]:
        return [row["epoch"] for row in self.logs[-1].rows] if self.logs else []


# What every logger is told


def test_a_logger_is_told_the_recipe_each_epoch_and_the_final_figures() -> None:
    fake = Fake()
    with Loggers({"fake": fake}, pytest.fail) as loggers:
        loggers.recipe(RECIPE)
        loggers.epoch(row(1))
        assert (fake.epochs, fake.logs[-1].test) == ([1], {})
        loggers.epoch(row(2))
        loggers.finished(REPORT)
        assert fake.closed is None
    assert fake.logs[-1] == RunLog(RECIPE, (row(1), row(2)), FINAL, 2)
    assert fake.closed is True
    assert loggers.account() == {"loggers": {"fake": "2 of 2 epochs in nowhere"}}


def test_without_loggers_nothing_is_done_and_nothing_is_told() -> None:
    with Loggers({}, pytest.fail) as loggers:
        loggers.recipe(RECIPE)
        loggers.epoch(row(1))
        loggers.finished(REPORT)
    assert loggers.account() == {}


def test_a_run_that_does_not_end_is_closed_as_such() -> None:
    def interrupted(after: Callable[[Loggers], None]) -> bool | None:
        fake = Fake()
        with suppress(KeyboardInterrupt), Loggers({"fake": fake}, pytest.fail) as loggers:
            after(loggers)
            raise KeyboardInterrupt
        return fake.closed

    assert interrupted(lambda loggers: loggers.epoch(row(1))) is False
    assert interrupted(lambda loggers: loggers.finished(REPORT)) is False  # the report is not written yet


def test_a_run_that_is_gone_on_with_logs_no_epoch_twice_and_leaves_none_out() -> None:
    fake = Fake()
    earlier = [row(1, 0.1), row(2, 0.2), row(3, 0.3)]
    with Loggers({"fake": fake}, pytest.fail, earlier) as loggers:
        loggers.recipe(RECIPE)
        assert fake.epochs == []  # which of them will be done again is not known yet
        loggers.epoch(row(3, 0.7))
        assert fake.logs[-1].rows == (*earlier[:2], row(3, 0.7))
        loggers.epoch(row(4))
        loggers.finished(REPORT)
    assert fake.epochs == [1, 2, 3, 4]


def test_a_run_that_was_trained_already_logs_what_it_has() -> None:
    fake = Fake()
    with Loggers({"fake": fake}, pytest.fail, [row(1), row(2)]) as loggers:
        loggers.finished(REPORT)
    assert fake.epochs == [1, 2]


# A logger that fails


def test_a_logger_that_fails_is_said_once_counted_and_made_up_for() -> None:
    fake, other, said, now = Fake(), Fake(), list[str](), [0.0]
    with Loggers({"fake": fake, "other": other}, said.append, clock=lambda: now[0]) as loggers:
        loggers.recipe(RECIPE)
        fake.fails = ConnectionError("no route to\nhttps://me:secret@host/api")
        loggers.epoch(row(1))
        loggers.epoch(row(2))  # too soon to try again
        now[0] = 31.0
        loggers.epoch(row(3))  # fails again
        now[0] = 62.0
        fake.fails = None
        loggers.epoch(row(4))  # after a second failure the pause is twice as long
        assert (fake.epochs, other.epochs) == ([], [1, 2, 3, 4])
        now[0] = 92.0
        loggers.epoch(row(5))
        assert fake.epochs == [1, 2, 3, 4, 5]
        loggers.finished(REPORT)
    error = "ConnectionError: no route to https://host/api"
    assert said == [f"  The log fake failed: {error}. It is tried again; the training goes on."]
    assert loggers.account() == {
        "loggers": {
            "fake": f"5 of 5 epochs in nowhere; failed 2 times, first by {error}",
            "other": "5 of 5 epochs in nowhere",
        }
    }


def test_what_a_logger_never_got_is_told() -> None:
    fake, said = Fake(), list[str]()
    with Loggers({"fake": fake}, said.append) as loggers:
        loggers.epoch(row(1))
        fake.fails = OSError("x" * 1000)
        loggers.epoch(row(2))
        loggers.finished(REPORT)
        told = loggers.account()["loggers"]["fake"]  # into the report, before the logs are closed
    assert told.startswith("1 of 2 epochs without the test figures in nowhere; failed 2 times, first by OSError: xxx")
    assert len(told) < 400
    assert len(said) == 1


def test_final_figures_that_are_missing_are_told() -> None:
    fake, said = Fake(), list[str]()
    with Loggers({"fake": fake}, said.append) as loggers:
        loggers.epoch(row(1))
        fake.fails = OSError("full")
        loggers.finished(REPORT)
        assert loggers.account() == {
            "loggers": {
                "fake": "1 of 1 epochs without the test figures in nowhere; failed once, first by OSError: full"
            }
        }


def test_a_log_that_cannot_be_closed_is_said() -> None:
    fake, said = Fake(), list[str]()
    with Loggers({"fake": fake}, said.append):
        fake.fails = OSError("full")
    assert said == ["  The log fake failed: OSError: full. It is left open."]


def test_the_end_is_tried_without_waiting() -> None:
    fake, said = Fake(), list[str]()
    with Loggers({"fake": fake}, said.append, clock=lambda: 0.0) as loggers:
        fake.fails = OSError("full")
        loggers.epoch(row(1))
        fake.fails = None
        loggers.finished(REPORT)
    assert fake.logs[-1].test == FINAL


# Opening


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "torch.utils.tensorboard"), ("mlflow", "mlflow")])
def test_a_package_that_is_missing_is_named_with_what_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"pip install 'steadylens\[{name}\]'"):
        open_loggers([name], tmp_path / "run", pytest.fail)


def test_all_that_is_missing_is_named_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("torch.utils.tensorboard", "mlflow"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError) as caught:
        open_loggers(["tensorboard", "mlflow"], tmp_path / "run", pytest.fail)
    assert str(caught.value).count("pip install") == 2
    assert list(tmp_path.iterdir()) == []


def test_damaged_metrics_of_an_earlier_part_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake, said = Fake(), list[str]()
    monkeypatch.setattr(module, "TensorBoardLog", lambda _run: fake)
    (tmp_path / "metrics.jsonl").write_text("odd\n")
    loggers = open_loggers(["tensorboard"], tmp_path, said.append)
    loggers.epoch(row(2))
    assert fake.epochs == [2]
    assert len(said) == 1
    assert "damaged" in said[0]
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row(1)) + "\n")
    loggers = open_loggers(["tensorboard"], tmp_path, pytest.fail)
    loggers.epoch(row(2))
    assert fake.epochs == [1, 2]


# TensorBoard


@pytest.fixture
def scalars(tmp_path: Path) -> Callable[[], dict[str, dict[int, list[Any]]]]:
    """Reads RUN/tensorboard as TensorBoard does: the values by name and epoch."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read() -> dict[str, dict[int, list[Any]]]:
        events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
        found: dict[str, dict[int, list[Any]]] = {}
        for name in events.Tags()["scalars"]:
            for event in events.Scalars(name):
                found.setdefault(name, {}).setdefault(event.step, []).append(round(event.value, 5))  # float32
        return found

    return read


def test_tensorboard_has_the_rows_of_metrics_jsonl_by_the_same_names(
    tmp_path: Path, scalars: Callable[[], dict[str, dict[int, list[float]]]]
) -> None:
    with open_loggers(["tensorboard"], tmp_path, pytest.fail) as loggers:
        loggers.recipe(RECIPE)
        loggers.epoch(row(0))
        loggers.epoch(row(1, None))
        seconds = {0: [0.0], 1: [1.5]}
        assert scalars() == {"seconds": seconds, "train_loss": {0: [0.5]}}  # at once, not when it is closed
        loggers.finished(REPORT)
    final = {name: {2: [value]} for name, value in FINAL.items()}
    assert scalars() == {"seconds": seconds, "train_loss": {0: [0.5]}, **final}
    assert loggers.account() == {"loggers": {"tensorboard": f"2 of 2 epochs in {tmp_path / 'tensorboard'}"}}


def test_tensorboard_has_the_recipe_as_parameters(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    plugin = pytest.importorskip("tensorboard.plugins.hparams.plugin_data_pb2")
    with open_loggers(["tensorboard"], tmp_path, pytest.fail) as loggers:
        loggers.recipe(RECIPE)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    found = plugin.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: getattr(value, value.WhichOneof("kind")) for name, value in found.items()} == {
        "network": "cnn-s", "classes": "bolt, nut", "flip": True, "budget": "not set", "l2": 0.05, "epochs": 3,
    }  # fmt: skip


def test_tensorboard_shows_no_epoch_twice_after_an_interruption(
    tmp_path: Path, scalars: Callable[[], dict[str, dict[int, list[float]]]]
) -> None:
    for first, last in ((1, 4), (3, 4)):
        loggers = open_loggers(["tensorboard"], tmp_path, pytest.fail)  # as after kill -9, nothing is closed
        loggers.recipe(RECIPE)
        for epoch in range(first, last + 1):
            loggers.epoch(row(epoch, loss=first + epoch / 10))
            with (tmp_path / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row(epoch, loss=first + epoch / 10)) + "\n")
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert scalars()["train_loss"] == {1: [1.1], 2: [1.2], 3: [3.3], 4: [3.4]}
    loggers.epoch(row(4, loss=4.4))  # once more, within one process
    assert scalars()["train_loss"] == {1: [1.1], 2: [1.2], 3: [3.3], 4: [4.4]}


def test_tensorboard_makes_up_for_what_it_could_not_write(
    tmp_path: Path, scalars: Callable[[], dict[str, dict[int, list[float]]]]
) -> None:
    said = list[str]()
    (tmp_path / "tensorboard").write_text("in the way")
    loggers = open_loggers(["tensorboard"], tmp_path, said.append)
    loggers.recipe(RECIPE)
    loggers.epoch(row(1))
    assert len(said) == 1
    (tmp_path / "tensorboard").unlink()
    loggers.epoch(row(2))
    with loggers:
        loggers.finished(REPORT)
    assert scalars()["seconds"] == {1: [1.5], 2: [3.0]}


# MLflow

# In a process of its own: what MLflow imports takes seconds, and its database layer warns of what is deprecated there.
IN_MLFLOW = """
import json, os, sys
from pathlib import Path
from steadylens.report.loggers import open_loggers

recipe, report, parts = json.loads(sys.argv[1])
run = Path("photos-run")
run.mkdir()
for rows in parts:  # the first is left as by kill -9: nothing is closed
    loggers = open_loggers(["mlflow"], run, print)
    loggers.recipe(recipe)
    for row in rows:
        loggers.epoch(row)
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\\n")
with loggers:
    loggers.finished(report)
    loggers.finished(report)  # as after an interruption between the logs and the report
assert "MLFLOW_DISABLE_TELEMETRY" not in os.environ

import mlflow
client, found = mlflow.MlflowClient(), []
for one in client.search_runs([client.get_experiment_by_name("steadylens").experiment_id]):
    figures = {n: [(m.step, m.value) for m in client.get_metric_history(one.info.run_id, n)] for n in one.data.metrics}
    found.append([one.info.run_name, one.info.status, one.data.params, figures])
print(json.dumps([found, loggers.account(), mlflow.telemetry.get_telemetry_client() is None]))
"""


def test_mlflow_has_one_run_with_the_recipe_each_epoch_once_and_the_final_figures(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    parts = [[row(1, 1.1), row(2, None), row(3, 1.3)], [row(3, 2.3), row(4, 2.4)]]
    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", IN_MLFLOW, json.dumps([{**RECIPE, "classes": ["bolt"] * 999}, REPORT, parts])],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    [[name, status, parameters, figures]], account, quiet = json.loads(done.stdout)
    assert (name, status, quiet) == ("photos-run", "FINISHED", True)
    assert len(parameters.pop("classes")) == 500
    assert parameters == {"network": "cnn-s", "flip": "yes", "budget": "not set", "l2": "0.05", "epochs": "3"}
    assert figures == {
        "seconds": [[1, 1.5], [2, 3.0], [3, 4.5], [4, 6.0]],
        "train_loss": [[1, 1.1], [3, 1.3], [4, 2.4]],  # MLflow takes nothing back: epoch 3 stays as it was first
        **{name: [[2, value]] for name, value in FINAL.items()},
    }
    assert account == {"loggers": {"mlflow": f"4 of 4 epochs in sqlite:///{tmp_path / 'mlflow.db'}"}}


def test_a_server_of_mlflow_that_is_not_there_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    begin = time.monotonic()
    with pytest.raises(ConfigError, match=r"MLflow at http://127\.0\.0\.1:9 cannot be used") as caught:
        open_loggers(["mlflow"], tmp_path / "run", pytest.fail)
    assert "secret" not in str(caught.value)
    assert "MLFLOW_TRACKING_URI" in str(caught.value)
    assert time.monotonic() - begin < 60  # its own retries would go on for minutes
