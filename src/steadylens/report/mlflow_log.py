"""The figures of metrics.jsonl for MLflow: where MLFLOW_TRACKING_URI says, else in MLflow's own local database."""

from __future__ import annotations

import importlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steadylens import files
from steadylens.errors import ConfigError
from steadylens.report.figures import field
from steadylens.report.metrics_log import RunLog, figures_of

EXPERIMENT = "steadylens"  # where MLFLOW_EXPERIMENT_NAME names no other
_ALWAYS_MEASURED = "seconds"  # a figure that every epoch has, by which those that MLflow has are known
_LONGEST_VALUE = 500  # characters of a parameter, which the oldest servers take
# Where the user does not set them. A training must not wait minutes for a server that is gone, as MLflow would by
# default, and nothing is told to anybody but that server: MLflow reports on its use to its makers by default.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
}


class MlflowLog:
    """A run of MLflow; RUN/mlflow.json says which, so that a run that is gone on with goes on there too."""

    def __init__(self, run: Path) -> None:
        self.where = "MLflow"
        self._run = run
        self._id = ""
        self._known: _Known | None = None

    def require(self) -> None:
        """Raise a ConfigError where MLflow is not installed or its server does not answer."""
        with _settings():
            try:
                mlflow = importlib.import_module("mlflow")
            except ImportError as error:
                raise ConfigError(
                    f"The log mlflow needs a package that is missing ({error}): pip install 'steadylens[mlflow]'"
                ) from error
            self.where = without_password(mlflow.get_tracking_uri())
            try:
                _experiment(_client())
            except Exception as error:
                raise ConfigError(
                    f"MLflow at {self.where} cannot be used: {without_password(str(error))}. Start the server, set "
                    "MLFLOW_TRACKING_URI to another, or leave mlflow out of the option log. A database of MLflow "
                    "needs: pip install 'steadylens[mlflow]'"
                ) from error

    def update(self, log: RunLog) -> None:
        """Log the recipe, the rows and the final figures that MLflow does not have yet."""
        with _settings():
            try:
                self._update(log)
            except Exception:
                self._known = None  # a request that failed may have been served: it is asked again
                raise

    def close(self, *, finished: bool) -> None:
        """Say in MLflow whether the run is finished."""
        if self._id:
            with _settings():
                _client().set_terminated(self._id, "FINISHED" if finished else "KILLED")

    def _update(self, log: RunLog) -> None:
        entities, client = importlib.import_module("mlflow.entities"), _client()
        if self._known is None:
            self._id = self._earlier(client) or self._new(client)
            self._known = _known(client, self._id)
        known, now = self._known, int(1000 * time.time())
        parameters = [entities.Param(name, _parameter(log.recipe[name])) for name in log.recipe.keys() - known.names]
        if parameters:
            client.log_batch(self._id, params=parameters)
            known.names.update(log.recipe)
        measured = [(row["epoch"], figures_of(row)) for row in log.rows if row["epoch"] not in known.epochs]
        final = {name: value for name, value in log.test.items() if name not in known.names}
        for epoch, figures in [*measured, *([(log.best_epoch, final)] if final else [])]:
            # All figures of an epoch in one request: MLflow has either all of them or none.
            client.log_batch(self._id, [entities.Metric(name, figures[name], now, epoch) for name in figures])
            known.epochs.add(epoch)
        known.names.update(final)

    def _earlier(self, client: Any) -> str:  # noqa: ANN401 - MLflow may not be there to name its types
        """The run in MLflow that an interrupted run began, where it is still there; else an empty text."""
        try:
            document = json.loads((self._run / "mlflow.json").read_text("utf-8"))
            uri, run_id = document["tracking_uri"], document["run_id"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        if uri != self.where:
            return ""
        try:
            run = client.get_run(run_id)
        except importlib.import_module("mlflow.exceptions").MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return ""
        if run.info.lifecycle_stage != "active":
            return ""
        client.update_run(run_id, status="RUNNING")
        return str(run_id)

    def _new(self, client: Any) -> str:  # noqa: ANN401 - MLflow may not be there to name its types
        folder = self._run.resolve()
        run = client.create_run(_experiment(client), run_name=folder.name, tags={"steadylens.run": str(folder)})
        files.write_json(self._run / "mlflow.json", {"tracking_uri": self.where, "run_id": run.info.run_id})
        return str(run.info.run_id)


@dataclass(frozen=True, slots=True)
class _Known:
    """What MLflow has: the epochs, and the names of parameters and final figures."""

    epochs: set[int]
    names: set[str]


def without_password(text: str) -> str:
    """Text in which addresses name neither user nor password."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _known(client: Any, run_id: str) -> _Known:  # noqa: ANN401 - MLflow may not be there to name its types
    data = client.get_run(run_id).data
    epochs = {metric.step for metric in client.get_metric_history(run_id, _ALWAYS_MEASURED)}
    return _Known(epochs, {*data.params, *(name for name in data.metrics if name.startswith("test_"))})


def _client() -> Any:  # noqa: ANN401 - MLflow may not be there to name its types
    return importlib.import_module("mlflow").MlflowClient()


def _experiment(client: Any) -> str:  # noqa: ANN401 - MLflow may not be there to name its types
    """The identifier of the experiment, which is made where there is none."""
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
    found = client.get_experiment_by_name(name)
    return str(found.experiment_id if found else client.create_experiment(name))


def _parameter(value: object) -> str:
    text = value if isinstance(value, str) else field(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 3]}..."


@contextmanager
def _settings() -> Iterator[None]:
    """MLflow's settings from the environment with ours for those that are not set, within the `with` block."""
    ours = {name: value for name, value in _SETTINGS.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)
