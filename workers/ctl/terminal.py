"""The terminal as a place to read keys from: no echo, no line to finish, resizes noticed.

Works on whatever a tty is, over ssh and in tmux too, and is put back as it was, however it ends.
"""

from __future__ import annotations

import os
import re
import select
import signal
import termios
import tty
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_NAMES = {
    "\x1b[A": "up",
    "\x1bOA": "up",
    "\x1b[B": "down",
    "\x1bOB": "down",
    "\x1b": "escape",
    "\r": "enter",
    "\n": "enter",
    "\x03": "q",
    "\x04": "q",
}
_KEY = re.compile(r"\x1b(?:\[[0-9;]*[ -/]*[@-~]|O.)?|.", re.DOTALL)


def names(text: str) -> list[str]:
    """Split what a terminal sent into keys by name; sequences unknown here are `other`."""
    found = _KEY.findall(text)
    return [_NAMES.get(each, each if len(each) == 1 else "other") for each in found]


class Keys:
    """Keys and resizes as they come."""

    def __init__(self, descriptor: int, wake: int) -> None:
        """Read keys from `descriptor`; `wake` becomes readable on a signal."""
        self._descriptor = descriptor
        self._wake = wake
        self._waiting: deque[str] = deque()

    def wait(self, timeout: float) -> str:
        """Return the next key by name within `timeout` seconds; empty: none, or a resize."""
        if not self._waiting:
            self._read(timeout)
        return self._waiting.popleft() if self._waiting else ""

    def _read(self, timeout: float) -> None:
        ready, _, _ = select.select([self._descriptor, self._wake], [], [], max(0.0, timeout))
        if self._wake in ready:
            os.read(self._wake, 512)
        if self._descriptor in ready:
            try:
                data = os.read(self._descriptor, 256)
            except OSError:
                data = b""
            # nothing to read though it is readable: the terminal is gone
            self._waiting.extend(names(data.decode("utf-8", "replace")) if data else ["q"])


@contextmanager
def keys(descriptor: int) -> Iterator[Keys]:
    """Read single keys from a terminal until the block ends."""
    before = termios.tcgetattr(descriptor)
    wake, poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    old = signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
    resized = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
    try:
        tty.setcbreak(descriptor)
        yield Keys(descriptor, wake)
    finally:
        with suppress(termios.error):  # the terminal is gone
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, resized)
        signal.set_wakeup_fd(old)
        os.close(wake)
        os.close(poke)
