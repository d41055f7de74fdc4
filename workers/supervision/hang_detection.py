"""Tells a hung worker from one that is kept from running, by its heartbeat and by /proc.

The deadline of a beat counts the time in which the worker could have run. Once a silence becomes
suspicious its scheduler times are noted; the time that it then spends waiting for a processor (or a
disk) does not count. So a stopped, blocked or looping process is found within its deadline, also on
a busy host, and a healthy one on an overloaded host is left running. Helper threads cannot keep a
worker alive.

A process that is stopped (SIGSTOP) gathers neither running nor waiting time; one in an endless
loop gathers running time; one that sleeps in a system call or on a lock gathers neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mesh.procfs import read_schedstat, read_stat, read_wait_channel, thread_ids

if TYPE_CHECKING:
    from mesh import HeartbeatRow

#: Share of the deadline after which a silence is suspicious.
SUSPICIOUS_SHARE = 0.75
#: Share of the deadline for which a suspicious worker is watched at least.
MIN_WATCHED_SHARE = 0.1
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
    """Scheduler times of a process, summed over its threads, in ns since they began.

    A main thread may sleep until others have done their part of a matrix product, and on a busy
    host those wait for a processor instead. `state` and `where` are the main thread's.
    """

    ran_ns: int
    waited_ns: int  # runnable, but without a processor
    state: str  # one letter, proc_pid_stat(5)
    where: str  # the kernel function it sleeps in; empty where that is not shown
    helper_runs: bool = False  # another of its threads runs or waits for a processor

    def describe(self, since: Activity | None) -> str:
        """Return what the process is doing as text, with the times since an earlier reading."""
        text = _STATES.get(self.state, f"in state {self.state}")
        if self.state in "SD" and self.where:
            text += f" in {self.where}"
        if since is not None:
            ran, waited = self.ran_ns - since.ran_ns, self.waited_ns - since.waited_ns
            text += f" (ran {ran / 1e9:.2f} s, waited for a processor {waited / 1e9:.2f} s)"
        return text


def activity_of(pid: int) -> Activity | None:
    """Read the activity of a process from proc_pid_{schedstat,stat,wchan}(5).

    Returns:
        None when the process is gone.
    """
    main = read_stat(pid)
    if main is None:
        return None
    ran, waited, helper_runs = 0, 0, False
    for thread in thread_ids(pid):
        times = read_schedstat(pid, thread)
        if times is not None:  # else it has just ended
            ran, waited = ran + times.ran_ns, waited + times.waited_ns
        if thread != pid:
            stat = read_stat(pid, thread)
            helper_runs |= stat is not None and stat.state == "R"
    return Activity(ran, waited, main.state, read_wait_channel(pid), helper_runs)


def allowed_silence_s(row: HeartbeatRow, deadline_s: float) -> float:
    """Return the silence allowed to a worker: its deadline, or what it announced if longer."""
    return max(deadline_s, row.expect_s)


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A silence that is watched: the state of things when it became suspicious."""

    at: float  # monotonic seconds
    silence_s: float
    activity: Activity | None


@dataclass(frozen=True, slots=True)
class Liveness:
    """Verdict on one worker; the next check is given this one."""

    beats: int  # of the heartbeat when it was checked
    suspicion: Suspicion | None = None
    hung: str = ""  # why the worker is hung; empty: it is not


def check_liveness(
    row: HeartbeatRow,
    previous: Liveness | None,
    deadline_s: float,
    starved_patience: float,
    now: float,
) -> Liveness:
    """Decide whether a worker is hung; time without a processor is not held against it.

    Args:
        row: Its heartbeat.
        previous: The verdict of the last check of the same process; None at the first.
        deadline_s: Silence allowed to it, in seconds, where it announced no longer one.
        starved_patience: After this multiple of the allowed silence it is hung in any case.
        now: Monotonic seconds.
    """
    allowed = allowed_silence_s(row, deadline_s)
    silence = now - row.beat_ns / 1e9
    if previous is None or row.beats != previous.beats or silence < SUSPICIOUS_SHARE * allowed:
        return Liveness(row.beats)
    activity = activity_of(row.pid)
    suspicion = previous.suspicion or Suspicion(now, silence, activity)
    alive = is_excused(activity) or not is_hung(suspicion, activity, silence, allowed, now)
    if alive and silence < starved_patience * allowed:
        return Liveness(row.beats, suspicion)
    doing = activity.describe(suspicion.activity) if activity else "gone"
    phase = row.phase.name.lower()
    return Liveness(
        row.beats, suspicion, f"hung: no beat for {silence:.2f} s in phase {phase}, {doing}"
    )


def next_check_at(row: HeartbeatRow, verdict: Liveness | None, deadline_s: float) -> float:
    """Return when (monotonic seconds) a silence becomes suspicious, or then too long."""
    suspicious = verdict is not None and verdict.suspicion is not None
    share = 1.0 if suspicious else SUSPICIOUS_SHARE
    return row.beat_ns / 1e9 + share * allowed_silence_s(row, deadline_s)


def is_hung(
    suspicion: Suspicion, activity: Activity | None, silence_s: float, allowed_s: float, now: float
) -> bool:
    """Whether a silence is a hang: the worker had the time to beat and did not.

    A silence that was too long when it was first seen (the watcher itself was late) is watched for
    a whole deadline.

    Args:
        suspicion: The state of things when the silence became suspicious.
        activity: The activity now; None when the process is gone.
        silence_s: Seconds since the last beat.
        allowed_s: Silence allowed to a worker that has a processor whenever it wants one.
        now: Monotonic seconds.
    """
    if silence_s < allowed_s:
        return False
    if suspicion.activity is None or activity is None:
        return True
    if activity.state == "R" or activity.helper_runs:
        # the kernel adds a wait for a processor only when it ends, so a process that waits now
        # shows none of it: only the time that a runnable worker has run counts against it
        used_s = (activity.ran_ns - suspicion.activity.ran_ns) / 1e9
    else:
        waited_s = (activity.waited_ns - suspicion.activity.waited_ns) / 1e9
        used_s = now - suspicion.at - waited_s
    late = suspicion.silence_s >= allowed_s
    needed_s = (
        allowed_s if late else max(allowed_s - suspicion.silence_s, MIN_WATCHED_SHARE * allowed_s)
    )
    return used_s >= needed_s


def is_excused(activity: Activity | None) -> bool:
    """Whether a silence may have an outside reason: a slow disk, a debugger."""
    return activity is not None and activity.state in "Dt"
