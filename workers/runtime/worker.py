"""A worker of the system: what it implements, and what it is given.

A worker implements `setup`, `step` and `teardown`. The heartbeat is written by the loop that calls
`step` and by no helper thread, so a beat means that a step returned: liveness is progress.
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
        """Collect what the process has opened for its worker."""
        self.spec = spec
        self.settings = settings
        self.mesh = mesh
        self.heartbeat = heartbeat
        self.log = log
        self.name = spec.name
        self.alone = False  # started by hand, not by a daemon
        self.stop_signal = 0
        self._expected_s: float | None = None

    def stop(self, number: int) -> None:
        """Note that signal `number` asks the worker to end; all that a signal handler does."""
        self.stop_signal = number

    def stopping(self) -> bool:
        """Whether the worker was asked to end; long steps check it."""
        return self.stop_signal != 0

    @staticmethod
    def pause(seconds: float) -> None:
        """Wait `seconds`; keep it short, because a stop takes effect only after the wait."""
        signal.sigtimedwait([signal.SIGURG], seconds)

    @contextlib.contextmanager
    def expect(self, seconds: float) -> Iterator[None]:
        """Announce that the next beat may take `seconds`; without it the default deadline holds.

        When the block ends, the announcement of the block around it holds again.
        """
        outer, self._expected_s = self._expected_s, seconds
        self.heartbeat.beat(progress=self.heartbeat.progress, expect=seconds)
        try:
            yield
        finally:
            self._expected_s = outer
            self.heartbeat.beat(progress=self.heartbeat.progress, expect=outer)


class Worker(ABC):
    """One process of the system. Errors it cannot handle end it; the supervisor restarts it."""

    def __init__(self, context: WorkerContext) -> None:
        """Keep the context; nothing is opened before `setup`."""
        self.context = context

    @classmethod  # noqa: B027 - a hook, empty on purpose
    def prepare(cls, spec: WorkerSpec, settings: Settings) -> None:
        """Do early what a worker of this spec does first; its fork server calls this, then forks.

        Runs on one thread and opens nothing that children must not share (files, sockets,
        devices).
        """

    @classmethod  # noqa: B027 - as `prepare`
    def rehearse(cls, spec: WorkerSpec, settings: Settings) -> None:
        """Use what was prepared, without effect; each idle child of the fork server calls this.

        A page that is shared after a fork costs a fault when it is first written; the idle child
        takes that fault before it has work to do.
        """

    def setup(self) -> None:  # noqa: B027 - a hook, empty on purpose
        """Open what the worker needs; it counts as ready when this returns."""

    @abstractmethod
    def step(self) -> int:
        """Do a bounded piece of work.

        Returns within about 0.1 s when there is nothing to do; longer work is announced with
        `WorkerContext.expect`.

        Returns:
            The progress made, in units of the worker's own; 0 means that it waited for input.
        """

    def teardown(self) -> None:  # noqa: B027 - a hook, empty on purpose
        """Close what `setup` opened: an orderly end, within the stop grace of the spec."""

    def last_inputs(self) -> dict[str, Any]:
        """Return what a crash report should show of the latest input, as JSON values."""
        return {}
