"""Workers for the tests of the supervisor: real processes, each with one behaviour."""

from __future__ import annotations

import hashlib
import os
import signal
import sys

import msgspec
import numpy as np

from config import ConfigProblems, Problem
from workers.contract.names import status_segment
from workers.contract.statuses import FeederStatus
from workers.runtime.worker import Worker

COUNTS = np.dtype("<i8")


class Counting(Worker):
    """Publishes consecutive numbers into a ring of its own name; continues after a crash."""

    def setup(self):
        """Take the ring over and continue after its last number."""
        self.ring = self.context.mesh.ring(self.context.name, COUNTS, capacity=1024, create=True)

    def step(self):
        """Publish one number, then wait 5 ms for a signal that never comes."""
        self.ring.publish(np.array([self.ring.published], COUNTS))
        signal.sigtimedwait([signal.SIGURG], 0.005)
        return 1


class Crashing(Worker):
    """Fails as soon as it starts."""

    def step(self):
        """Fail."""
        raise ValueError("this worker always fails")

    def last_inputs(self):
        """What the crash report should show."""
        return {"offset": 42}


class SecretReader(Counting):
    """Publishes the fingerprint of each secret it was given; quotes its settings when it fails."""

    def setup(self):
        """Publish hashes, so that only someone who knows a secret can recognise it."""
        super().setup()
        settings = self.context.settings
        secrets = (
            settings.kafka.options.get("sasl.password", ""),
            settings.kafka.registry_password,
            os.environ.get("MLFLOW_TRACKING_TOKEN", ""),
        )
        cell = self.context.mesh.cell(f"secrets/{self.context.name}", SecretHashes, create=True)
        cell.write(
            SecretHashes([hashlib.sha256(secret.encode()).hexdigest() for secret in secrets])
        )

    def step(self):
        """Count; fail once after 20 numbers, with the settings in the error."""
        if self.ring.published == 20:
            self.ring.publish(np.array([20], COUNTS))
            sys.stdout.write(f"printed: {self.context.settings}\n")
            self.context.log.warning("logged", settings=self.context.settings)
            raise ValueError(f"cannot use {self.context.settings} of {self.context.spec!r}")
        return super().step()

    def last_inputs(self):
        """What the crash report should show."""
        return {"settings": self.context.settings, "spec": self.context.spec}


class SecretHashes(msgspec.Struct):
    """SHA-256 of each secret, in hex."""

    secrets: list[str]


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
        """Take the ring and ignore SIGTERM."""
        super().setup()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Hanging(Counting):
    """Counts for a while, then hangs in the way that its settings name."""

    def step(self):
        """Hang after 20 numbers, holding a lock."""
        if self.ring.published < 20:
            return super().step()
        self.mine = self.context.mesh.lock("mine", create=True)
        self.mine.acquire(1.0)
        sys.stdout.write("about to hang\n")
        sys.stdout.flush()
        getattr(self, self.context.spec.settings["how"])()
        return 1

    def loop(self):
        """Compute for ever."""
        while True:
            pass

    def lock(self):
        """Wait for a lock that another worker keeps."""
        self.context.mesh.lock("wanted", create=True).acquire(3600.0)

    def read(self):
        """Block in a read that never returns."""
        os.read(os.pipe()[0], 1)

    def stop(self):
        """Stop itself."""
        os.kill(os.getpid(), signal.SIGSTOP)


class Deaf(Counting):
    """Waits in the fork server for ever, and hears neither its end nor a signal."""

    @classmethod
    def rehearse(cls, _spec, _settings):
        """Block every signal but SIGKILL."""
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            signal.sigtimedwait([signal.SIGURG], 1.0)


class Holding(Counting):
    """Takes a lock and keeps it."""

    def setup(self):
        """Hold the lock that other workers want."""
        super().setup()
        self.lock = self.context.mesh.lock("wanted", create=True, owner_name=self.context.name)
        self.lock.acquire(5.0)


class Leaving(Worker):
    """Ends at once, without an error."""

    def step(self):
        """End."""
        os._exit(0)


class Misconfigured(Worker):
    """Finds at its start that its configuration is wrong."""

    def setup(self):
        """Raise."""
        raise ConfigProblems([Problem("some.key", "x", "is wrong", "put it right")])

    def step(self):
        """Is never reached."""
        return 0


class Forking(Counting):
    """Daemonises itself: the parent ends, the child continues in its own session."""

    def setup(self):
        """Fork twice."""
        super().setup()
        if os.fork():
            os._exit(0)
        os.setsid()
        if os.fork():
            os._exit(0)


class Closing(Counting):
    """Closes every descriptor it has."""

    def setup(self):
        """Close them all; mappings stay."""
        super().setup()
        os.closerange(0, 4096)


class Leaking(Counting):
    """Allocates memory with every step."""

    def setup(self):
        """Start with nothing allocated."""
        super().setup()
        self.allocated = []

    def step(self):
        """Allocate `bite` bytes, then pause."""
        self.allocated.append(bytearray(self.context.spec.settings["bite"]))
        self.context.pause(self.context.spec.settings.get("pause_s", 0.0))
        return super().step()


class Flooding(Counting):
    """Floods its log through the logger, print or the bare descriptor."""

    def step(self):
        """Write 2,000 lines, or 20 MB of raw output."""
        how = self.context.spec.settings["how"]
        for _ in range(2000):
            if how == "log":
                self.context.log.info("and another thing", text="x" * 200)
            elif how == "print":
                print("x" * 200)  # noqa: T201 - what a user's worker does
        if how == "raw":
            os.write(1, b"x" * 199 + b"\n" * 100_000)
        return super().step()


class ActingFeeder(Counting):
    """Publishes a status that names the acting policy."""

    def setup(self):
        """Publish that `policy` acts."""
        super().setup()
        cell = self.context.mesh.cell(
            status_segment(self.context.name), FeederStatus, create=True, max_bytes=4096
        )
        cell.write(FeederStatus(acting_trainer="policy"))
        self.cell = cell
