"""Which process: pid and start time, for pids are used again.

Serves I3: a lease is broken only when *that* process is dead, not when its pid is free or taken
by another one. A zombie is dead: it will never execute another instruction.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process of this boot: `pid`, and `start_time` in clock ticks since boot."""

    pid: int
    start_time: int

    @classmethod
    def current(cls) -> ProcessIdentity:
        """Give the calling process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> ProcessIdentity:
        """Give the process that has `pid` now. Raises ProcessLookupError when none is seen."""
        found = _stat(pid)
        if found is None:
            raise ProcessLookupError(f"no process has pid {pid}")
        return cls(pid, found[1])

    def is_alive(self) -> bool:
        """Tell whether exactly this process still runs (a zombie does not).

        One that /proc hides (hidepid, and another user's) counts as alive as long as its pid is in
        use: what cannot be known to be dead is not.
        """
        found = _stat(self.pid)
        if found is None:
            return _is_hidden(self.pid)
        return found[1] == self.start_time and found[0] not in "ZX"

    def __str__(self) -> str:
        """Give the form used in messages."""
        return f"pid {self.pid} (started at tick {self.start_time})"


def _is_hidden(pid: int) -> bool:
    """Tell whether a process that /proc does not show is there all the same."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):  # the latter: out of a damaged segment
        return False
    return pid > 0  # 0 is a process group


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time from /proc (proc_pid_stat(5), fields 3 and 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])
