"""How far a training is: by epochs, by the wall clock, or by whichever ends first."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from typing import Any

_COUNTED = ("epoch", "step", "_steps", "_images", "_last_measurement", "_all_measurements", "_measured_at")
MOST_MEASUREMENTS = 40  # a training of more epochs than this measures itself every second, third ... one


class Clock:
    """Counts epochs, steps and seconds, and knows what is left of each.

    Args:
        seconds: of wall time in which the training has to end, its measurements included; None for no such limit.
        epochs: to do; None for no such limit. One of the two must be given.

    Attributes:
        pause_s: seconds since the training began at which it pauses, whatever is left of it.
        interval: the share of the training between two measurements, where seconds end it.
    """

    def __init__(self, seconds: float | None, epochs: int | None) -> None:
        self.seconds, self.epochs = seconds, epochs
        self.pause_s = math.inf
        self.interval = 1 / MOST_MEASUREMENTS
        self.epoch = self.step = 0
        self._steps = 0
        self._images = 0
        self._start = time.perf_counter()
        self._last_measurement = self._all_measurements = 0.0
        self._measured_at = 0.0
        self._furthest = 0.0

    def begin_epoch(self, steps: Sized) -> None:
        """Enter the next epoch, which has these steps."""
        self.epoch, self.step, self._steps = self.epoch + 1, 0, len(steps)

    @property
    def epoch_is_over(self) -> bool:
        """Whether the next step belongs to another epoch."""
        return self.step >= self._steps

    def end_step(self, images: int) -> None:
        """Count one more step, over so many images."""
        self.step += 1
        self._images += images

    def elapsed(self) -> float:
        """Seconds since the training began."""
        return time.perf_counter() - self._start

    def progress(self) -> float:
        """The share of the training that is over, 1 at its end; time for a last measurement is set aside.

        It never falls, even where a measurement took less time than the one before it.
        """
        by_epochs = (self.epoch - 1 + self.step / max(1, self._steps)) / self.epochs if self.epochs else 0.0
        if self.seconds is None:
            return by_epochs
        left = self.seconds - self._last_measurement
        self._furthest = max(self._furthest, by_epochs, self.elapsed() / left if left > 0 else 1.0)
        return self._furthest

    def out_of_time(self) -> bool:
        """Whether only the time for a last measurement is left."""
        return self.seconds is not None and self.elapsed() >= self.seconds - self._last_measurement

    def pausing(self) -> bool:
        """Whether it is time to pause."""
        return self.elapsed() >= self.pause_s

    @property
    def images_per_second(self) -> float:
        """Training images a second so far, measurements left out."""
        spent = self.elapsed() - self._all_measurements
        return self._images / spent if spent > 0 else 0.0

    def measuring_due(self) -> bool:
        """Whether the training should measure itself after this epoch: by `interval`, or `MOST_MEASUREMENTS` in all."""
        if self.seconds is None:
            return self.epoch % math.ceil((self.epochs or 1) / MOST_MEASUREMENTS) == 0
        return self.progress() >= self._measured_at + self.interval

    def state(self) -> dict[str, Any]:
        """Where the training is, as JSON values."""
        return {"elapsed": self.elapsed(), **{name: getattr(self, name) for name in _COUNTED}}

    def go_to(self, state: Mapping[str, Any]) -> None:
        """Go to where `state` was taken. The seconds until then come on top of those that the clock was given."""
        for name in _COUNTED:
            setattr(self, name, state[name])
        self._start = time.perf_counter() - state["elapsed"]
        if self.seconds is not None:
            self.seconds += state["elapsed"]

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Time a measurement, so that the last one can be provided for."""
        begin, self._measured_at = time.perf_counter(), self.progress()
        yield
        self._last_measurement = time.perf_counter() - begin
        self._all_measurements += self._last_measurement
