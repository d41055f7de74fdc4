"""A worker of the system: what it implements, and what it is given.

A worker implements `setup`, `step` and `teardown`. The heartbeat is written from the loop that
calls `step` and by no helper thread, so a beat means that a step returned: liveness is progress.
"""

from __future__ import annotations

import contextlib
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import structlog

    from config import Settings
    from config.worker_spec import WorkerSpec
    from mesh import Heartbeat, Mesh


class _Leave(BaseException):
    """Raised by a signal in a block of `left_on_stop`; nothing that catches errors takes it."""


class WorkerContext:
    """What a worker is given: its spec, the settings, the mesh, a logger and its heartbeat."""

    def __init__(
        self,
        spec: WorkerSpec,
        settings: Settings,
        mesh: Mesh,
        heartbeat: Heartbeat,
        log: structlog.typing.FilteringBoundLogger,
    ) -> None:
        """Gather what base has opened."""
        self.spec = spec
        self.settings = settings
        self.mesh = mesh
        self.heartbeat = heartbeat
        self.log = log
        self.name = spec.name
        self.alone = False  # started by hand, not by a daemon
        self.stop_signal = 0
        self._expected: float | None = None
        self._may_leave = False

    def stop(self, number: int) -> None:
        """Note that signal `number` asks the worker to end."""
        self.stop_signal = number
        if self._may_leave:
            raise _Leave

    def stopping(self) -> bool:
        """Tell whether the worker was asked to end; long steps look at it."""
        return self.stop_signal != 0

    @staticmethod
    def pause(seconds: float) -> None:
        """Let `seconds` (few: signals are noted meanwhile, and obeyed after it) pass in a wait."""
        signal.sigtimedwait([signal.SIGURG], seconds)

    @contextlib.contextmanager
    def left_on_stop(self) -> Iterator[None]:
        """Leave the block wherever it is, once the worker is asked to end; then go on behind it.

        For what waits long for others and can be done again from its start, as after a kill. The
        block looks at `stopping()` before it begins to wait.
        """
        self._may_leave = True
        try:
            yield
        except _Leave:
            pass
        finally:
            self._may_leave = False

    @contextlib.contextmanager
    def expect(self, seconds: float) -> Iterator[None]:
        """Announce that the next beat may take `seconds`; without it the default deadline holds.

        Afterwards what was announced around it holds again.
        """
        before, self._expected = self._expected, seconds
        self.heartbeat.beat(progress=self.heartbeat.progress, expect=seconds)
        try:
            yield
        finally:
            self._expected = before
            self.heartbeat.beat(progress=self.heartbeat.progress, expect=before)


class Worker(ABC):
    """One process of the system. Errors it cannot handle end it: the supervisor starts it again."""

    def __init__(self, context: WorkerContext) -> None:
        """Keep the context; nothing is opened before `setup`."""
        self.context = context

    @classmethod  # noqa: B027 - a hook, empty on purpose
    def prepare(cls, spec: WorkerSpec, settings: Settings) -> None:
        """Do ahead what a worker of this spec does first; its fork server calls this, then forks.

        On one thread, opening nothing that a child must not share (files, sockets, devices).
        """

    @classmethod  # noqa: B027 - as `prepare`
    def rehearse(cls, spec: WorkerSpec, settings: Settings) -> None:
        """Use what was prepared, without effect; each idle child of the fork server calls this.

        A page that is shared after a fork costs a fault when it is first written.
        """

    def setup(self) -> None:  # noqa: B027 - a hook, empty on purpose
        """Open what the worker needs; it counts as ready when this returns."""

    @abstractmethod
    def step(self) -> int:
        """Do a bounded piece of work and give the progress made (0 = waited for input).

        Returns within about 0.1 s when there is nothing to do; longer work is announced.
        """

    def teardown(self) -> None:  # noqa: B027 - a hook, empty on purpose
        """Close what `setup` opened: an orderly end, within the stop grace of the spec."""

    def last_inputs(self) -> dict[str, Any]:
        """Give what a crash report should show of the latest input (JSON values)."""
        return {}
