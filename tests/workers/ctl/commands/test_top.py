"""`meshctl top` on a real terminal: what it draws, its keys, its size, its end."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

import pytest

from tests.daemons import ROOT

ESCAPES = re.compile(r"\x1b(\[[0-9;?]*[A-Za-z]|[()].)")
WATCHDOG_S = 60.0


class Terminal:
    """A terminal of a given size in which top runs."""

    def __init__(self, mesh, columns, lines):
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
            command = [
                sys.executable,
                "-m",
                "workers.ctl.cli",
                "--mesh",
                str(mesh.path),
                "top",
                "--interval",
                "0.1",
            ]
            os.execve(sys.executable, command, {**os.environ, "TERM": "xterm-256color"})
        self.raw = ""

    def resize(self, columns, lines):
        """Resize the terminal."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def press(self, text):
        """Type."""
        os.write(self._fd, text.encode())

    def frame(self, condition):
        """Wait for a whole frame for which `condition` holds, and give its lines."""
        deadline = time.monotonic() + WATCHDOG_S
        lines = []
        while time.monotonic() < deadline:
            if select.select([self._fd], [], [], 0.1)[0]:
                self.raw += os.read(self._fd, 65536).decode("utf-8", "replace")
            for part in self.raw.split("\x1b[H")[-3:]:
                if part.endswith("\x1b[J") or "\x1b[J" in part:
                    text = ESCAPES.sub("", part.partition("\x1b[J")[0])
                    lines = text.split("\r\n")
                    if condition(lines):
                        self.raw = self.raw[-1 << 16 :]
                        return lines
        raise AssertionError("never drawn; last:\n" + "\n".join(lines))

    def end(self):
        """Wait for the end of top and give its exit code."""
        deadline = time.monotonic() + WATCHDOG_S
        while time.monotonic() < deadline:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
            if select.select([self._fd], [], [], 0.05)[0]:
                try:
                    self.raw += os.read(self._fd, 65536).decode("utf-8", "replace")
                except OSError:  # its end was closed
                    continue
        raise AssertionError("top does not end")

    def close(self):
        """Leave nothing."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def terminal(loop):
    """top on the loop, 80 columns by 24 lines."""
    one = Terminal(loop.mesh, 80, 24)
    yield one
    one.close()


def has(text):
    """A condition: the frame has `text` in it."""
    return lambda lines: any(text in line for line in lines)


def test_one_screen_of_80_by_24(terminal):
    """State, flow, workers, events and keys fit, and no line is longer than the terminal."""
    lines = terminal.frame(has("q quit"))
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for part in ("healthy", "11 in", "9 published", "td3-0 v2", "ingest", "EVENTS", "SIGKILL"):
        assert part in text
    titles = next(line for line in lines if "WORKER" in line)
    row = next(line for line in lines if line.startswith("feeder"))
    pid = str(os.getpid())
    assert row.index("running") == titles.index("STATE")
    assert row.index(pid) + len(pid) == titles.index("PID") + len("PID")
    assert row[titles.index("DETAIL") :].strip() == "acting"
    terminal.press("q")
    assert terminal.end() == 0
    assert terminal.raw.rindex("\x1b[?1049l") > terminal.raw.rindex("\x1b[?1049h")
    assert "\x1b[?25h" in terminal.raw


def test_it_follows_the_size(terminal):
    """A wider terminal gets more columns at once, a tiny one still a screen."""
    assert not has("PHASE")(terminal.frame(has("WORKER")))
    terminal.resize(130, 40)
    wide = terminal.frame(has("PHASE"))
    assert len(wide) <= 40
    terminal.resize(40, 10)
    tiny = terminal.frame(lambda lines: max(map(len, lines)) <= 40 and len(lines) <= 10)
    assert has("healthy")(tiny)
    assert any(line.split()[:2] == ["ingest", "running"] for line in tiny)


def test_the_keys(loop, terminal):
    """Sort, choose, the log of the chosen one, help, and a restart that is asked about first."""
    loop.logs.mkdir()
    (loop.logs / "feeder.log").write_text("a line of the feeder\n")
    for keys, drawn in (
        ("", "WORKER"),
        ("s", "sorted by cpu"),
        ("ssss\x1b[Bl", "a line of the feeder"),
        ("x", "WORKER"),
        ("h", "select a worker"),
        ("\x1b", "WORKER"),
        ("r", "restart feeder? y/n"),
        ("n", "q quit"),
        ("ry", "no daemon's socket"),
    ):
        terminal.press(keys)
        terminal.frame(has(drawn))
    terminal.press("q")
    assert terminal.end() == 0


def test_what_happens_is_seen(loop, terminal):
    """Rates, a new event and another state appear without a key."""
    terminal.frame(has("healthy"))
    loop.event("hung", "error", "td3-0", "no beat for 2 s")
    loop.status.state = "degraded"
    loop.publish_status()
    lines = terminal.frame(has("degraded"))
    assert has("no beat for 2 s")(lines)


def test_a_mesh_that_is_gone_is_shown_as_down(loop, terminal):
    """The mesh taken away beneath it: the screen says down, and q still leaves."""
    terminal.frame(has("healthy"))
    for path in loop.mesh.path.iterdir():
        path.unlink()
    terminal.frame(has("down"))
    terminal.press("q")
    assert terminal.end() == 0
