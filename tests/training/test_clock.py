"""A training is over by its epochs, by its seconds, or by whichever ends first."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from steadylens.training.clock import MOST_MEASUREMENTS, Clock


class Time:
    """A clock on the wall that stands still until it is told to move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Iterator[Time]:
    wall = Time()
    monkeypatch.setattr(time, "perf_counter", wall)
    yield wall
    monkeypatch.undo()


def run_epoch(clock: Clock, steps: int = 4, images: int = 10) -> list[float]:
    clock.begin_epoch(range(steps))
    seen = [clock.progress()]
    for _ in range(steps):
        clock.end_step(images)
        seen.append(clock.progress())
    return seen


def measured_epochs(wall: Time, *, seconds: float | None, epochs: int | None, epoch_s: float, run: int) -> list[int]:
    clock, measured = Clock(seconds, epochs), []
    for _ in range(run):
        run_epoch(clock)
        wall.now += epoch_s
        if clock.measuring_due():
            with clock.measuring():
                pass
            measured.append(clock.epoch)
    return measured


def test_progress_by_epochs_grows_step_by_step_whatever_the_time(wall: Time) -> None:
    clock = Clock(None, 2)
    assert run_epoch(clock) == pytest.approx([0, 1 / 8, 2 / 8, 3 / 8, 4 / 8])
    wall.now += 1e6
    assert run_epoch(clock) == pytest.approx([4 / 8, 5 / 8, 6 / 8, 7 / 8, 1])


def test_progress_by_time_ignores_how_many_steps_there_were(wall: Time) -> None:
    clock = Clock(10.0, None)
    assert run_epoch(clock) == [0.0] * 5
    wall.now += 2.5
    assert clock.progress() == pytest.approx(0.25)
    wall.now += 7.5
    assert clock.progress() == pytest.approx(1)
    wall.now += 5
    assert clock.progress() >= 1


def test_whichever_ends_first_counts(wall: Time) -> None:
    clock = Clock(10.0, 2)
    run_epoch(clock)
    assert clock.progress() == pytest.approx(0.5), "by epochs"
    wall.now += 8
    assert clock.progress() == pytest.approx(0.8), "by time"
    clock = Clock(100.0, 1)
    assert run_epoch(clock)[-1] == 1


def test_time_for_a_last_measurement_is_set_aside(wall: Time) -> None:
    clock = Clock(10.0, None)
    run_epoch(clock)
    wall.now += 4
    with clock.measuring():
        wall.now += 2
    assert clock.progress() == pytest.approx(6 / 8)
    wall.now += 2
    assert clock.progress() == pytest.approx(1), "two seconds are left, which the last measurement takes"


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_no_time_at_all_is_over_at_once(wall: Time, seconds: float) -> None:
    clock = Clock(seconds, None)
    clock.begin_epoch(range(3))
    wall.now += 0.1
    assert clock.progress() >= 1
    assert clock.out_of_time()


def test_out_of_time_is_when_only_a_last_measurement_fits(wall: Time) -> None:
    clock = Clock(10.0, 1)
    run_epoch(clock)
    assert clock.progress() == 1
    assert not clock.out_of_time(), "its epochs are over, its time is not"
    with clock.measuring():
        wall.now += 2
    wall.now += 5.9
    assert not clock.out_of_time()
    wall.now += 0.2
    assert clock.out_of_time()
    clock = Clock(None, 1)
    wall.now += 1e9
    assert not clock.out_of_time()


def test_a_measurement_longer_than_the_budget_ends_it(wall: Time) -> None:
    clock = Clock(3.0, None)
    run_epoch(clock)
    with clock.measuring():
        wall.now += 5
    assert clock.progress() >= 1


@pytest.mark.parametrize("epochs", [1, 2, 39, 40, 41, 100, 1000])
def test_a_training_by_epochs_measures_itself_at_most_so_often(wall: Time, epochs: int) -> None:
    measured = measured_epochs(wall, seconds=None, epochs=epochs, epoch_s=1.0, run=epochs)
    assert MOST_MEASUREMENTS == 40
    assert min(epochs, 20) <= len(measured) <= MOST_MEASUREMENTS
    if epochs <= MOST_MEASUREMENTS:
        assert measured == list(range(1, epochs + 1))


@pytest.mark.parametrize(("seconds", "epochs"), [(1000.0, None), (50.0, None), (7.0, None), (1000.0, 10), (100.0, 500)])
def test_a_training_by_time_measures_itself_at_most_so_often(wall: Time, seconds: float, epochs: int | None) -> None:
    run = min(int(seconds), epochs or 10**9)
    measured = measured_epochs(wall, seconds=seconds, epochs=epochs, epoch_s=1.0, run=run)
    assert min(run, 20) <= len(measured) <= MOST_MEASUREMENTS
    if run <= MOST_MEASUREMENTS:
        assert measured == list(range(1, run + 1))


def test_a_slow_first_epoch_does_not_make_for_more_measurements(wall: Time) -> None:
    clock, measured = Clock(40.0, None), 0
    while clock.elapsed() < 40:
        run_epoch(clock)
        wall.now += 1.0 if clock.epoch == 1 else 0.1
        if clock.measuring_due():
            with clock.measuring():
                measured += 1
    assert measured <= 1.5 * MOST_MEASUREMENTS


def test_images_a_second_leave_measurements_out(wall: Time) -> None:
    clock = Clock(None, 5)
    assert clock.images_per_second == 0
    run_epoch(clock, steps=4, images=25)
    wall.now += 2
    with clock.measuring():
        wall.now += 50
    assert clock.images_per_second == pytest.approx(50)
    assert clock.elapsed() == pytest.approx(52)


def test_progress_never_falls_where_a_measurement_took_less_than_the_one_before(wall: Time) -> None:
    clock, seen = Clock(100.0, None), list[float]()
    for taken in (20.0, 1.0, 0.0):
        run_epoch(clock)
        with clock.measuring():
            wall.now += taken
        seen.append(clock.progress())
    assert seen == [20 / 80] * 3, "by the clock alone it would have fallen to 21 / 99"
    wall.now += 70
    assert clock.progress() == pytest.approx(91 / 100)
