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
        """Give the process that has `pid` now. Raises ProcessLookupError when there is none."""
        found = _stat(pid)
        if found is None:
            raise ProcessLookupError(f"no process has pid {pid}")
        return cls(pid, found[1])

    def is_alive(self) -> bool:
        """Tell whether exactly this process still runs (a zombie does not)."""
        found = _stat(self.pid)
        return found is not None and found[1] == self.start_time and found[0] not in "ZX"

    def __str__(self) -> str:
        """Give the form used in messages."""
        return f"pid {self.pid} (started at tick {self.start_time})"


def _stat(pid: int) -> tuple[str, int] | None:
    """State and start time from /proc (proc_pid_stat(5), fields 3 and 22)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="latin-1")
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return fields[0], int(fields[19])
