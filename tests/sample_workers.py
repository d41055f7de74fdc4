"""Workers for the tests of the supervisor: real processes with one habit each."""

from __future__ import annotations

import signal

import numpy as np

from workers.base import Worker

COUNTS = np.dtype("<i8")


class Counting(Worker):
    """Publishes consecutive numbers into a ring named like itself, and goes on after a crash."""

    def setup(self):
        """Take the ring over and go on from what it holds."""
        self.ring = self.context.mesh.ring(self.context.name, COUNTS, capacity=1024, create=True)

    def step(self):
        """Publish one number, then wait a little on a condition that never comes."""
        self.ring.publish(np.array([self.ring.published], COUNTS))
        signal.sigtimedwait([signal.SIGURG], 0.005)
        return 1


class Crashing(Worker):
    """Fails as soon as it starts."""

    def step(self):
        """Never comes back."""
        raise ValueError("this worker always fails")

    def last_inputs(self):
        """What the crash report should show."""
        return {"offset": 42}


class NeverReady(Worker):
    """Hangs in its setup, without a beat."""

    def setup(self):
        """Wait for ever."""
        while True:
            signal.sigtimedwait([signal.SIGURG], 1.0)

    def step(self):
        """Is never reached."""
        return 0


class Stubborn(Counting):
    """Ignores SIGTERM."""

    def setup(self):
        """Take the ring and stop listening."""
        super().setup()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
