"""From a spec to a process: fork, leave the daemon's things behind, become the worker.

The daemon has one thread and no library with threads of its own, so that a plain fork is safe;
a forked worker starts in milliseconds because everything common is imported already.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from mesh import ProcessIdentity
from mesh.procfs import child_pids, data_bytes
from workers.runtime.process import STOP_SIGNALS, run_worker

if TYPE_CHECKING:
    from config import Settings
    from config.worker_spec import WorkerSpec

_DEFAULT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)
#: Blocked from before a fork until the child has its own handlers: before, a signal to the child
#: would run the daemon's handlers there and write into the daemon's wake-up pipe.
HELD_SIGNALS = frozenset(_DEFAULT)
_BACKSTOP = 2  # the kernel's limit on private memory, in memory limits beyond what there is


class SpawnRequest(msgspec.Struct, frozen=True):
    """What a new process is to be: which worker, where its output goes, and why it starts."""

    worker: str
    log: str
    generation: int = 0
    incident: int = 0  # number of the incident that it follows; 0: a first or planned start


def title(worker: str) -> str:
    """Return the process title of a worker that a daemon started."""
    return f"tradingmesh: {worker}"


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Hold back the signals that the daemon handles; a child forked meanwhile starts so, too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def spawn(request: SpawnRequest, settings: Settings) -> int:
    """Fork the worker from this process and return its pid.

    Args:
        request: What the child is to be.
        settings: The settings that it works with.
    """
    with signals_held():
        pid = os.fork()
        if pid != 0:
            return pid
        try:
            become(request, settings)
        finally:
            os._exit(70)


def open_child(pid: int) -> tuple[ProcessIdentity, int]:
    """Return the identity of a new child and a pidfd of it.

    Raises:
        OSError: No descriptor or process is to be had; the child was killed.
    """
    try:
        return ProcessIdentity.of(pid), os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)  # it is reaped as a stray
        raise


def become(request: SpawnRequest, settings: Settings) -> NoReturn:
    """Be the worker in this process, within its limits."""
    gc.freeze()  # a collection would write to every page that is shared with the parent
    leave_parent(Path(request.log), held=STOP_SIGNALS)
    spec = next(s for s in settings.workers if s.name == request.worker)
    _apply_limits(spec)
    run_worker(
        spec,
        settings,
        title=title(spec.name),
        generation=request.generation,
        incident=request.incident,
    )


def leave_parent(
    log: Path, keep: tuple[int, ...] = (), held: frozenset[signal.Signals] = frozenset()
) -> None:
    """Leave the parent's process group, signal handlers and descriptors.

    Args:
        log: File to which standard output and error are appended from now on.
        keep: Descriptors that stay open.
        held: Signals that stay blocked until the process can handle them.
    """
    os.setpgid(0, 0)  # a Ctrl-C on the daemon's terminal is the daemon's business
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, held)
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # mappings need none
    out = _open_log(log)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    for fd in {out, null} - {0, 1, 2}:
        os.close(fd)
    os.environ.pop("NOTIFY_SOCKET", None)


def _open_log(log: Path) -> int:
    """Open it for appending; where the disk takes no file, only the log is lost."""
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)  # somebody may have cleared up
        return os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    return os.open(os.devnull, os.O_WRONLY)


def describe_exit(code: int) -> str:
    """Return an exit code as text for people; a negative code is a signal."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def end_strays(known: set[int], groups: set[int]) -> list[int]:
    """Reap and kill children that are not managed.

    A subreaper becomes the parent of what its workers left behind: processes that forked away
    from their worker, or children of a dead one.

    Args:
        known: Pids that are no strays.
        groups: Process groups whose members are no strays.

    Returns:
        The pids that were killed.
    """
    killed = []
    for pid in child_pids(os.getpid()) or ():
        if pid in known:
            continue
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0 and os.getpgid(pid) not in groups:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    return killed


def end_children(patience_s: float) -> None:
    """Kill and reap every child, and the orphans that then become children, within `patience_s`.

    Called at the end of the daemon, so that none of its processes outlives it.
    """
    due = time.monotonic() + patience_s
    while time.monotonic() < due:
        end_strays(set(), set())
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                select.select([], [], [], 0.001)  # the kernel takes it down
        except ChildProcessError:
            return


def _apply_limits(spec: WorkerSpec) -> None:
    os.environ.update(spec.env)
    if spec.nice:
        os.nice(spec.nice)
    if spec.cpu_affinity:
        os.sched_setaffinity(0, spec.cpu_affinity)
    if spec.memory_limit_bytes is not None:
        # Between two checks of the daemon a process can grow a lot: the kernel sets the last limit.
        _set_limit(resource.RLIMIT_DATA, data_bytes() + _BACKSTOP * spec.memory_limit_bytes)
    for name, value in spec.rlimits.items():
        _set_limit(getattr(resource, f"RLIMIT_{name.upper()}"), value)


def _set_limit(which: int, value: int) -> None:
    """Set the soft and the hard limit to `value`, or to the hard limit where that is lower."""
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))
