"""A rolling restart: one worker after the other, each once the one before it runs again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from workers.supervision.state_machine import ALIVE, State

if TYPE_CHECKING:
    from workers.supervision.event_log import EmitEvent
    from workers.supervision.executor import WorkerExecutor
    from workers.supervision.managed_worker import ManagedWorker


class RollingRestart:
    """The one that is under way, if any. An earlier daemon's is continued."""

    def __init__(
        self, executor: WorkerExecutor, emit_event: EmitEvent, remaining: Mapping[str, int]
    ) -> None:
        """Continue with `remaining`: the generation of each worker that is still to be replaced."""
        self._executor = executor
        self._emit_event = emit_event
        self.remaining = dict(remaining)

    def begin(self, workers: Iterable[ManagedWorker]) -> None:
        """Restart those of the workers that have a process, instead of any that remained."""
        self.remaining = {w.name: w.generation for w in workers if w.state in ALIVE}

    def advance(self) -> bool:
        """Restart the next worker if the last one runs again; True when `remaining` changed."""
        before = dict(self.remaining)
        while self.remaining:
            name, generation = next(iter(self.remaining.items()))
            worker = self._executor.workers.get(name)
            if worker is None or worker.state in {State.STOPPED, State.QUARANTINED}:
                text = f"ended at {name}, which does not run"
                self._emit_event("rolling restart", "error", text)
                self.remaining = {}
                break
            if worker.state is State.RUNNING and worker.generation == generation:
                self._executor.restart(worker, "rolling restart")
            if worker.state is not State.RUNNING:
                break
            del self.remaining[name]
        return self.remaining != before
