"""Keys on a real terminal."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import termios

import pytest

from workers.ctl.terminal import keys, names


@pytest.mark.parametrize(
    ("sent", "found"),
    [
        ("q", ["q"]),
        ("\x1b[A\x1b[Bjq", ["up", "down", "j", "q"]),
        ("\x1bOA\x1bOB", ["up", "down"]),
        ("\x1b", ["escape"]),
        ("\r\n", ["enter", "enter"]),
        ("\x1b[5~\x1b[1;5C?", ["other", "other", "?"]),
        ("\x03", ["q"]),
        ("ä", ["ä"]),
    ],
)
def test_what_a_terminal_sends_becomes_keys(sent, found):
    """Arrows of both modes, unknown sequences and several keys in one read are told apart."""
    assert names(sent) == found


@pytest.fixture
def terminal():
    """A pseudo-terminal: the end that a person types at, and the one that a program reads."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    for end in (ours, theirs):
        with contextlib.suppress(OSError):
            os.close(end)


def test_keys_come_one_by_one_without_a_line(terminal):
    """Several keys sent at once are given singly, without waiting for a line's end."""
    person, program = terminal
    with keys(program) as keyboard:
        os.write(person, b"s\x1b[Bq")
        assert [keyboard.wait(5.0) for _ in range(3)] == ["s", "down", "q"]
        assert keyboard.wait(0.0) == ""


def test_the_terminal_is_put_back(terminal):
    """Echo and lines are as before, also after an exception."""
    _, program = terminal
    before = termios.tcgetattr(program)
    changed = None
    with contextlib.suppress(KeyboardInterrupt), keys(program):
        changed = termios.tcgetattr(program)
        raise KeyboardInterrupt
    assert changed != before
    assert termios.tcgetattr(program) == before


def test_a_resize_wakes_the_wait(terminal):
    """SIGWINCH ends the wait without a key, long before its time."""
    with keys(terminal[1]) as keyboard:
        os.kill(os.getpid(), signal.SIGWINCH)
        assert keyboard.wait(60.0) == ""


def test_a_terminal_that_is_gone_is_a_q(terminal):
    """A connection that breaks leaves the screen instead of looping."""
    person, program = terminal
    with keys(program) as keyboard:
        os.close(person)
        assert keyboard.wait(5.0) == "q"
