"""Is a silent worker hung, or only starved? Evidence from its heartbeat and from /proc.

A worker is killed for a hang only when its beat is overdue and the scheduler did let it run: one
that spent its silence waiting for a processor gets more time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh import HeartbeatRow


@dataclass(frozen=True, slots=True)
class Processor:
    """Time on and waiting for a processor, ns since the process began (proc schedstat)."""

    ran_ns: int
    waited_ns: int


def processor_of(pid: int) -> Processor | None:
    """Give the times of the main thread; None when the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return Processor(int(fields[0]), int(fields[1]))


def silent_s(row: HeartbeatRow, deadline_s: float, now_ns: int) -> float:
    """Give by how many seconds the next beat is overdue (0 or less: it is not).

    The row's own expectation stands for `deadline_s` where it is longer.
    """
    due = max(deadline_s, row.expect_s)
    return (now_ns - row.beat_ns) / 1e9 - due


def is_starved(
    before: Processor | None, now: Processor | None, silence_s: float, share: float
) -> bool:
    """Tell whether the worker waited for a processor at least `share` of `silence_s` seconds."""
    if before is None or now is None or silence_s <= 0.0:
        return False
    return (now.waited_ns - before.waited_ns) / 1e9 >= share * silence_s
