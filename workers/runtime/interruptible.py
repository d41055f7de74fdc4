"""Calls that may wait long for somebody else, and that a stop of the worker leaves at once.

A blocking call of a library (an HTTP request, a database) runs in one helper thread while the
worker's loop waits for its result. A signal wakes the loop through a wake-up descriptor
(`signal.set_wakeup_fd`), so nothing is ever raised inside a signal handler: the loop itself raises
`CallStopped`, at the one place where it waits. The abandoned call ends with the process, as after
a kill; only calls that may be repeated from their start belong here.

Rejected: an exception raised by the signal handler, which may appear between any two instructions,
and a limit on the time of each request, which a server that is merely slow would exceed.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class CallStopped(Exception):
    """The worker was asked to end while a call was still waiting."""


class InterruptibleCalls:
    """One helper thread that makes calls, one at a time, for the loop of a worker."""

    def __init__(self, stopping: Callable[[], bool]) -> None:
        """Start the helper thread.

        Args:
            stopping: Whether the worker was asked to end; a signal handler makes it true.
        """
        self._stopping = stopping
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        threading.Thread(target=self._make_calls, name="calls", daemon=True).start()

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` in the helper thread and wait for it; for the main thread only.

        Returns:
            What the function returned; what it raised is raised here.

        Raises:
            CallStopped: The worker is to end; the call may still be running.
        """
        wake, poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        outer = signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        try:
            if self._stopping():  # looked at after the wake-up is in place: no signal is missed
                raise CallStopped(f"stopped before {function!r}")
            future: Future[T] = Future()
            self._calls.put((future, lambda: function(*args, **kwargs)))
            while not future.done():
                select.select([wake, self._event], [], [])
                self._run_posted()
                if self._stopping() and not future.done():
                    raise CallStopped(f"stopped during {function!r}")
        finally:
            signal.set_wakeup_fd(outer)
            os.close(wake)
            os.close(poke)
        self._run_posted()
        return future.result()

    def post(self, action: Callable[[], None]) -> None:
        """Let the waiting loop run `action` soon; called by the helper thread, within a call."""
        self._posted.put(action)
        os.eventfd_write(self._event, 1)

    def _run_posted(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._event)
        with contextlib.suppress(queue.Empty):
            while True:
                self._posted.get_nowait()()

    def _make_calls(self) -> None:
        while True:
            future, call = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - the loop that waits raises it
                future.set_exception(error)
            os.eventfd_write(self._event, 1)
