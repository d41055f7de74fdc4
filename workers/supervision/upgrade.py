"""Replacing the daemon's program while everything runs: check the new one, then exec it.

The pid stays (and with it the lease of the status and the parenthood of the workers); the new
program adopts the workers as after a crash. A program or configuration that does not even start
is found before, by a check in a process of its own.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
from typing import IO

CHECK_S = 60.0
_HELD_BACK = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Upgrade:
    """One attempt: the check runs beside the loop, which is woken by its end."""

    def __init__(self, selector: selectors.BaseSelector, now: float) -> None:
        """Start the check of what is installed now, with the daemon's own arguments."""
        self._selector = selector
        self._due = now + CHECK_S
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by fault()
        self._process = subprocess.Popen(  # noqa: S603 - the command this daemon was started with
            [*command(), "--check"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=self._output,
        )
        self.pid = self._process.pid
        self._pidfd = os.pidfd_open(self.pid)
        selector.register(self._pidfd, selectors.EVENT_READ, lambda _fd: None)

    def finished(self, now: float) -> bool:
        """Whether the check has ended; one that takes too long is killed."""
        if now >= self._due:
            self._process.kill()
        return self._process.poll() is not None

    def fault(self) -> str:
        """Return why the new program is not fit, or an empty text; called once, when finished."""
        self._selector.unregister(self._pidfd)
        os.close(self._pidfd)
        with self._output as output:
            output.seek(0)
            text = output.read().decode("utf-8", "replace").strip()
        code = self._process.returncode
        last = text.splitlines()[-1] if text else "it printed nothing"
        return f"the new program does not start (exit code {code}): {last}" if code else ""


def command() -> list[str]:
    """Return the command line that this daemon was started with."""
    return [sys.executable, *sys.orig_argv[1:]]


def execute() -> None:
    """Become the new program; signals that arrive in between are kept for it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_BACK)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, command())  # noqa: S606 - the command this daemon was started with


def release_signals() -> None:
    """Let in the signals that were held back; called once the handlers are set."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_BACK)
