"""RUN/tensorboard: the figures of metrics.jsonl for TensorBoard, written by torch's own writer."""

from __future__ import annotations

import importlib
from contextlib import suppress
from pathlib import Path
from typing import Any

from steadylens import files
from steadylens.errors import ConfigError
from steadylens.report.figures import field
from steadylens.report.metrics_log import Row, RunLog, figures_of

_WHOLE_LOG = 0  # readers drop what earlier event files have from this step on


class TensorBoardLog:
    """A folder of event files.

    Each time the log is opened, all of it is written again, after the mark by which TensorBoard drops what earlier
    files have (torch's `purge_step`): event files can lack their end after a crash, and metrics.jsonl cannot.
    """

    def __init__(self, run: Path) -> None:
        self.where = str(run / "tensorboard")
        self._writer: Any = None
        self._written: tuple[Row, ...] = ()
        self._begun = self._ended = False

    def require(self) -> None:
        """Raise a ConfigError where TensorBoard is not installed."""
        try:
            importlib.import_module("torch.utils.tensorboard")
        except ImportError as error:
            raise ConfigError(
                f"The log tensorboard needs a package that is missing ({error}): pip install 'steadylens[tensorboard]'"
            ) from error

    def update(self, log: RunLog) -> None:
        """Write the recipe, the rows and the final figures that are not written yet, and flush them."""
        try:
            self._update(log)
        except Exception:
            self._forget()  # how much was written is not known
            raise

    def close(self, *, finished: bool) -> None:  # noqa: ARG002 - TensorBoard has no word for it
        """Flush and close the event file."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _update(self, log: RunLog) -> None:
        tensorboard = importlib.import_module("torch.utils.tensorboard")
        if log.rows[: len(self._written)] != self._written:
            self._forget()  # an epoch was done again
        if self._writer is None:
            files.make_folder(Path(self.where))
            self._writer = tensorboard.SummaryWriter(self.where, purge_step=_WHOLE_LOG)
        if log.recipe and not self._begun:
            self._write_recipe(log)
            self._begun = True
        for row in log.rows[len(self._written) :]:
            for name, value in figures_of(row).items():
                self._writer.add_scalar(name, value, row["epoch"])
        self._written = log.rows
        if log.test and not self._ended:
            for name, value in log.test.items():
                self._writer.add_scalar(name, value, log.best_epoch)
            self._ended = True
        self._writer.flush()

    def _write_recipe(self, log: RunLog) -> None:
        """Write the recipe where TensorBoard compares runs: its tab HParams, beside the figure of each run's test."""
        summary = importlib.import_module("torch.utils.tensorboard.summary")
        plain = {
            name: value if isinstance(value, bool | int | float | str) else field(value)
            for name, value in log.recipe.items()
        }
        for part in summary.hparams(plain, {"test_balanced_accuracy": 0.0}):  # its value is not used, only its name
            self._writer.file_writer.add_summary(part)

    def _forget(self) -> None:
        """Begin a new file the next time."""
        writer, self._writer = self._writer, None
        self._written, self._begun, self._ended = (), False, False
        if writer is not None:
            with suppress(Exception):  # it failed already, and that was raised
                writer.close()
