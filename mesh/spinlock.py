"""Short critical sections between processes, with a lock whose owner is always known.

Serves I3: a lock is broken only when its owner is dead. See `_core/spinlock.h`.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import NamedTuple, Self

from mesh._core import _native
from mesh.errors import AccessDenied, LeaseLost, LockTimeout, MeshFull
from mesh.header import NUMPY, Shape
from mesh.process_identity import ProcessIdentity
from mesh.segment import Segment, SegmentStatistics
from mesh.segment_file import SegmentFile, directory_lock

KIND = 5
NAME_BYTES = 32


def lock_shape() -> Shape:
    """Return the shape of a lock: all of it lies in the page that every process may write."""
    return Shape(KIND, NUMPY, '{"lock":1}', 0, 0, 0, 1, 0)


class Owner(NamedTuple):
    """Who holds a lock; `since_ns` is CLOCK_MONOTONIC nanoseconds."""

    identity: ProcessIdentity
    name: str
    since_ns: int

    @property
    def held_s(self) -> float:
        """Seconds since it was acquired."""
        return (time.monotonic_ns() - self.since_ns) / 1e9


class LockCounters(NamedTuple):
    """How often a lock was acquired and broken since its creation."""

    acquired: int
    broken: int


class SpinLock(Segment):
    """A lock between processes; threads of one process need a lock of their own beside it.

    >>> lock = mesh.lock("journal", create=True, owner_name="writer")
    >>> lock.acquire(timeout=1.0)
    >>> lock.owner().name, lock.break_stale()  # its owner lives
    ('writer', None)
    >>> lock.release()
    >>> lock.lock_counters()
    LockCounters(acquired=1, broken=0)
    """

    def __init__(self, file: SegmentFile, *, owner_name: str, timeout: float) -> None:
        """Bind; the `with` statement waits for `timeout` seconds."""
        super().__init__(file)
        self._lock = _native.Lock(file.mapping)
        self._owner_name = owner_name
        self._timeout = timeout

    def acquire(self, timeout: float) -> None:
        """Take the lock.

        Args:
            timeout: Seconds, >= 0.

        Raises:
            LockTimeout: It was not free in time; the message names its owner.
            AccessDenied: This user may not write the segment's file.
        """
        if not self._file.shared_page:
            raise AccessDenied(
                f"{self.name} ({self._file.path}): only who may write the file may take the lock"
            )
        if not self._lock.has_entry:
            self._claim_entry()
        if self._lock.acquire(timeout):
            return
        owner = self.owner()
        if owner is None:
            raise LockTimeout(f"{self.name}: not free within {timeout} s, free now; try again")
        alive = owner.identity.is_alive()
        remedy = "wait or stop it" if alive else "it is dead: break_stale() frees the lock"
        raise LockTimeout(
            f"{self.name}: not free within {timeout} s, held by {owner.name!r} {owner.identity} "
            f"for {owner.held_s:.3f} s; {remedy}"
        )

    def release(self) -> None:
        """Release the lock.

        Raises:
            LeaseLost: This object does not hold it, or no longer.
        """
        if not self._lock.release():
            raise LeaseLost(f"{self.name}: released without being held by this object")

    def owner(self) -> Owner | None:
        """Return the holder of the lock, dead or alive; None when it is free."""
        _, owner = self._read_owner()
        return owner

    def break_stale(self) -> Owner | None:
        """Free the lock if its owner is dead.

        Returns:
            The dead owner; None if the lock was free, its owner lives, or another process broke it
            first.
        """
        word, owner = self._read_owner()
        if owner is None or owner.identity.is_alive() or not self._lock.break_word(word):
            return None
        return owner

    def lock_counters(self) -> LockCounters:
        """Return how often the lock was acquired and how often it was broken."""
        return LockCounters(*self._lock.counters())

    def statistics(self) -> SegmentStatistics:
        """Return the counters; `published` counts how often the lock was acquired."""
        counters = self.lock_counters()
        return super().statistics()._replace(published=counters.acquired, breaks=counters.broken)

    def __enter__(self) -> Self:
        """Acquire within the lock's timeout."""
        self.acquire(self._timeout)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Release."""
        self.release()

    def _read_owner(self) -> tuple[int, Owner | None]:
        word, pid, start_time, since_ns, name = self._lock.owner()
        if pid == 0:
            return word, None
        identity = ProcessIdentity(pid, start_time)
        return word, Owner(identity, name.decode("utf-8", "replace"), since_ns)

    def _claim_entry(self) -> None:
        """Take an entry that is free or was left by a dead process that does not hold the lock."""
        me = ProcessIdentity.current()
        name = self._owner_name.encode()[:NAME_BYTES].rstrip(b"\0")
        with directory_lock(self._file.path.parent):
            entries = self._lock.entries()
            if (me.pid, me.start_time, name) in entries:  # another object of this process
                self._lock.use(entries.index((me.pid, me.start_time, name)))
                return
            for index, (pid, start_time, _) in enumerate(entries):
                if pid and ProcessIdentity(pid, start_time).is_alive():
                    continue
                if self._lock.claim(index, me.pid, me.start_time, name):
                    return
        raise MeshFull(f"{self.name}: every owner entry belongs to a live process; use fewer")
