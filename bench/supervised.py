"""The workers of bench_supervisor.py: each notes the moment of its first line of user code."""

from __future__ import annotations

import os
import time

import numpy as np

from workers.runtime.worker import Worker

BORN = np.dtype([("pid", "<i8"), ("at_ns", "<i8")])


class LightWorker(Worker):
    """Notes its first moment; then waits, as a worker without input does."""

    def setup(self) -> None:
        """First line of user code."""
        now = time.monotonic_ns()
        cell = self.context.mesh.cell(f"born/{self.context.name}", BORN, create=True)
        cell.write(np.array([(os.getpid(), now)], BORN))

    def step(self) -> int:
        """Wait for input that does not come."""
        self.context.pause(0.05)
        return 0


class HeavyWorker(LightWorker):
    """Is ready once the learning libraries are there."""

    def setup(self) -> None:
        """Import them, and note that it is done."""
        import stable_baselines3  # noqa: F401, PLC0415 - what is measured
        import torch  # noqa: F401, PLC0415 - what is measured

        super().setup()
