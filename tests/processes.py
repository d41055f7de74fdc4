"""Real children for the tests: started, killed at a chosen point, always reaped."""

from __future__ import annotations

import os
import select
import signal
import traceback
from contextlib import contextmanager


class Child:
    """A forked process that runs a function; `started` waits for its first message."""

    def __init__(self, body):
        """Fork; the child gets `send(text)` and exits with 0 unless `body` raises."""
        self._ready, ready_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                body(lambda text="x": os.write(ready_write, text.encode()))
                code = 0
            except BaseException:  # noqa: BLE001 - printed, and the exit code says it
                traceback.print_exc()
            finally:
                os._exit(code)
        os.close(ready_write)
        self.code = None

    def started(self, watchdog=30.0):
        """Wait for the first message of the child; return it."""
        assert select.select([self._ready], [], [], watchdog)[0], "the child never started"
        text = os.read(self._ready, 4096)
        assert text, "the child ended before it started"
        return text.decode()

    def kill(self, number=signal.SIGKILL):
        """Send a signal; SIGKILL also waits for the end."""
        os.kill(self.pid, number)
        if number == signal.SIGKILL:
            self.wait()

    def wait(self):
        """Reap the child; return its exit code (negative: the signal)."""
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._ready)
        return self.code


@contextmanager
def child(body):
    """A child that is gone when the block ends, however it ends."""
    process = Child(body)
    try:
        yield process
    finally:
        if process.code is None:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
