"""Which process: pid and start time, because the kernel reuses pids.

Serves I3: a lease is broken only when *that* process is dead, not when its pid is free or taken
by another one. A zombie is dead: it never executes another instruction.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from mesh import procfs


class ProcessIdentity(NamedTuple):
    """A process of this boot: `pid`, and `start_time` in clock ticks since boot."""

    pid: int
    start_time: int

    @classmethod
    def current(cls) -> ProcessIdentity:
        """Return the identity of the calling process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Return the identity of the process that has `pid` now.

        Args:
            pid: As the kernel counts it in this process's pid namespace.

        Raises:
            ProcessLookupError: /proc shows no process with this pid: it is gone, or hidden.
        """
        found = procfs.read_stat(pid)
        if found is None:
            raise ProcessLookupError(f"no process has pid {pid}")
        return cls(pid, found.start_time)

    def is_alive(self) -> bool:
        """Whether exactly this process still runs; a zombie does not.

        A process that /proc hides (hidepid, and another user's) counts as alive as long as its pid
        is in use: only a process that is known to be dead counts as dead.
        """
        found = procfs.read_stat(self.pid)
        if found is None:
            return _is_hidden(self.pid)
        return found.start_time == self.start_time and found.state not in "ZX"

    def __str__(self) -> str:
        """Return the form used in messages."""
        return f"pid {self.pid} (started at tick {self.start_time})"


def _is_hidden(pid: int) -> bool:
    """Whether a process that /proc does not show exists all the same."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):  # the latter: out of a damaged segment
        return False
    return pid > 0  # 0 is a process group
