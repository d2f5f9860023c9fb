"""The first wish to stop is waited with where something is to be saved; the second never is."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from steadylens import interruption
from steadylens.interruption import Interrupted


@pytest.fixture(autouse=True)
def heeded() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    interruption.heed_signals()
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_outside_of_a_block_a_signal_stops_at_once(number: int, code: int) -> None:
    with pytest.raises(Interrupted) as stopped:
        signal.raise_signal(number)
    assert stopped.value.exit_code == code
    assert not interruption.asked()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_in_a_block_it_is_waited_with_until_the_outermost_ends(
    number: int, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    reached = []

    def save() -> None:
        with interruption.deferred():
            with interruption.deferred():
                signal.raise_signal(number)
                assert interruption.asked()
                reached.append("inner")
            reached.append("outer")

    with pytest.raises(Interrupted) as stopped:
        save()
    assert reached == ["inner", "outer"]
    assert stopped.value.exit_code == code
    assert "Once more stops at once" in capfd.readouterr().err


def test_the_second_signal_stops_at_once_with_its_own_code(capfd: pytest.CaptureFixture[str]) -> None:
    def save() -> None:
        with interruption.deferred():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            pytest.fail("went on")

    with pytest.raises(Interrupted) as stopped:
        save()
    assert stopped.value.exit_code == 143
    capfd.readouterr()


def test_after_a_block_that_failed_signals_stop_at_once_again() -> None:
    with pytest.raises(ValueError, match="wrong"), interruption.deferred():
        raise ValueError("wrong")
    with pytest.raises(Interrupted):
        signal.raise_signal(signal.SIGINT)


def test_without_a_wish_a_block_ends_as_any() -> None:
    with interruption.deferred():
        assert not interruption.asked()
