"""What is said while waiting: to stderr, plain off a terminal, nothing where quiet is asked for."""

from __future__ import annotations

import io
import sys
import time

import pytest

from steadylens.console import Console


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def test_messages_go_to_stderr_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]class[/bold] :smile: 'größe' " + 40 * "long " + "end"
    Console().say(text)
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", text + "\n")


def test_a_stage_off_a_terminal_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().stage("Decoding") as advance:
        for done in range(100):
            advance(done / 100, f"{done} of 100")
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("Decoding: 0.")
    assert said.err.count("\n") == 1
    assert "\x1b" not in said.err


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(quiet=True)
    console.say("a message")
    with console.stage("Decoding") as advance:
        advance(0.5, "half")
    assert capsys.readouterr() == ("", "")


def test_quiet_says_nothing_on_a_terminal_either(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    console = Console(quiet=True)
    console.say("a message")
    with console.stage("Decoding") as advance:
        advance(0.5, "half")
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar_with_what_is_being_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Console().stage("Training") as advance:
        advance(0.5, "epoch 3  1,200 images/s")
    shown = stream.getvalue()
    assert "Training" in shown
    assert "100%" in shown
    assert "epoch 3" in shown


def test_no_color_leaves_no_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    for wanted in (True, False):
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        if not wanted:
            monkeypatch.setenv("NO_COLOR", "1")
        with Console().stage("Training") as advance:
            advance(0.5, "half")
        shown.append(any(f"\x1b[{colour}" in stream.getvalue() for colour in (*range(30, 39), "38;5")))
    assert shown == [True, False]


def test_an_error_in_a_stage_leaves_it(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="odd"), Console().stage("Decoding"):
        raise ValueError("odd")
    assert "Decoding" not in capsys.readouterr().err  # what was not done is not said to be


def test_what_is_live_is_drawn_anew_on_a_terminal_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ["begun"]
    for quiet in (False, True):
        with Console(quiet=quiet).live(lambda: state[0]) as drawn:
            assert not drawn
    assert capsys.readouterr() == ("", "")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    with Console(quiet=True).live(lambda: state[0]) as drawn:
        assert not drawn
    assert stream.getvalue() == ""
    with Console().live(lambda: state[0]) as drawn:
        assert drawn
        while "begun" not in stream.getvalue():  # four times a second
            time.sleep(0.01)
        state[0] = "ended"
    assert stream.getvalue().rstrip().rpartition("begun")[2].count("ended") >= 1
