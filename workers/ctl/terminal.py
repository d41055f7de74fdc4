"""Single keys from a terminal: no echo, no Enter needed, resizes are noticed.

Works on every tty, also over ssh and in tmux. The terminal's settings are restored at the end.
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
    """Split the input of a terminal into names of keys; unknown escape sequences are `other`."""
    found = _KEY.findall(text)
    return [_NAMES.get(each, each if len(each) == 1 else "other") for each in found]


class Keys:
    """Waits for keys and for resizes of the terminal."""

    def __init__(self, descriptor: int, wake: int) -> None:
        """Read keys from `descriptor`; `wake` becomes readable on a signal."""
        self._descriptor = descriptor
        self._wake = wake
        self._waiting: deque[str] = deque()

    def wait(self, timeout: float) -> str:
        """Return the name of the next key; empty after `timeout` seconds, or a resize."""
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
            # readable without data: the terminal was closed
            self._waiting.extend(names(data.decode("utf-8", "replace")) if data else ["q"])


@contextmanager
def keys(descriptor: int) -> Iterator[Keys]:
    """Read single keys from the terminal `descriptor` until the block ends."""
    before = termios.tcgetattr(descriptor)
    wake, poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    old = signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
    resized = signal.signal(signal.SIGWINCH, lambda _number, _frame: None)
    try:
        tty.setcbreak(descriptor)
        yield Keys(descriptor, wake)
    finally:
        with suppress(termios.error):  # the terminal was closed
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, resized)
        signal.set_wakeup_fd(old)
        os.close(wake)
        os.close(poke)
