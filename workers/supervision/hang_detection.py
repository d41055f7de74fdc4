"""Is a silent worker hung, or only kept from running? Evidence from its heartbeat and from /proc.

The deadline of a beat counts the time in which the worker could have run. Once a silence becomes
suspicious its scheduler times are noted; what it then spends waiting for a processor (or a disk)
is taken off. So a stopped, blocked or looping process is found within its deadline, also on a busy
host, and a healthy one on an overloaded host is left alone. No helper thread has a say.

A process that is stopped (SIGSTOP) gathers neither running nor waiting time; one in an endless
loop gathers running time; one that sleeps in a system call or on a lock gathers neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh import HeartbeatRow

#: Share of the deadline after which a silence is looked at closely.
SUSPICIOUS = 0.75
#: Share of the deadline for which a worker is watched at least before it is called hung.
LEAST = 0.1
_STATES = {
    "R": "running in a loop",
    "S": "asleep",
    "D": "in an uninterruptible wait",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "Z": "a zombie",
}


@dataclass(frozen=True, slots=True)
class Activity:
    """What the kernel says of a process: times of all its threads, in ns since they began.

    A main thread may sleep until others have done their part of a matrix product, and on a busy
    host those wait for a processor in its place. State and place are the main thread's.
    """

    ran_ns: int
    waited_ns: int  # runnable, but without a processor
    state: str  # one letter, proc_pid_stat(5)
    where: str  # the kernel function it sleeps in; empty where that is not shown
    helper_runs: bool = False  # another of its threads runs or waits for a processor

    def told(self, since: Activity | None) -> str:
        """Say for people what the process is doing, with the times since an earlier look."""
        text = _STATES.get(self.state, f"in state {self.state}")
        if self.state in "SD" and self.where:
            text += f" in {self.where}"
        if since is not None:
            ran, waited = self.ran_ns - since.ran_ns, self.waited_ns - since.waited_ns
            text += f" (ran {ran / 1e9:.2f} s, waited for a processor {waited / 1e9:.2f} s)"
        return text


def activity_of(pid: int) -> Activity | None:
    """Look at a process; None when it is gone. The files are proc_pid_{schedstat,stat,wchan}(5)."""
    process = Path("/proc") / str(pid)
    ran, waited, helper_runs = 0, 0, False
    try:
        stat = (process / "stat").read_text(encoding="latin-1")
        for thread in (process / "task").iterdir():
            times = _read(thread / "schedstat").split()
            if times:  # else it has just ended
                ran, waited = ran + int(times[0]), waited + int(times[1])
            if thread.name != process.name:
                helper_runs |= _state(_read(thread / "stat")) == "R"
    except (FileNotFoundError, ProcessLookupError):
        return None
    where = _read(process / "wchan")
    return Activity(ran, waited, _state(stat), "" if where == "0" else where, helper_runs)


def _read(path: Path) -> str:
    """Read a file of /proc; empty where it is gone or not shown."""
    try:
        return path.read_text(encoding="latin-1")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def _state(stat: str) -> str:
    """The letter in a line of proc_pid_stat(5); the name before it may hold anything."""
    return stat[stat.rindex(")") + 2] if stat else ""


def due_s(row: HeartbeatRow, deadline_s: float) -> float:
    """Give the length of silence that is too long: the worker's own expectation may be longer."""
    return max(deadline_s, row.expect_s)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A silence that is watched: when and how long it was at the first look, and the activity."""

    at: float  # monotonic seconds
    silence_s: float
    activity: Activity | None


def is_hung(
    suspicion: Suspicion, activity: Activity | None, silence_s: float, allowed_s: float, now: float
) -> bool:
    """Tell whether a silence of `silence_s` is a hang: the worker had the time and did not use it.

    `allowed_s` is the silence allowed to a worker that has a processor whenever it wants one. A
    silence that was too long at the first look (the watcher itself came late) is watched for the
    whole of it.
    """
    if silence_s < allowed_s:
        return False
    if suspicion.activity is None or activity is None:
        return True
    if activity.state == "R" or activity.helper_runs:
        # the kernel adds a wait for a processor when it ends: who waits now shows none of it, so
        # of a runnable worker only what it did run counts against it
        used_s = (activity.ran_ns - suspicion.activity.ran_ns) / 1e9
    else:
        waited_s = (activity.waited_ns - suspicion.activity.waited_ns) / 1e9
        used_s = now - suspicion.at - waited_s
    late = suspicion.silence_s >= allowed_s
    needed_s = allowed_s if late else max(allowed_s - suspicion.silence_s, LEAST * allowed_s)
    return used_s >= needed_s


def is_excused(activity: Activity | None) -> bool:
    """Tell whether a silence may have a reason outside: a disk that is slow, a debugger."""
    return activity is not None and activity.state in "Dt"
