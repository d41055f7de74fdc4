"""From a spec to a process: fork, leave the daemon's things behind, become the worker.

The daemon has one thread and no library with threads of its own, so that a plain fork is safe;
a forked worker starts in milliseconds because everything common is imported already.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from workers.base import run_worker

if TYPE_CHECKING:
    from config import Settings
    from config.worker_spec import WorkerSpec

_DEFAULT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)


def spawn(spec: WorkerSpec, settings: Settings, log: Path) -> int:
    """Start the worker and give its pid; its output goes to `log`."""
    pid = os.fork()
    if pid != 0:
        return pid
    try:
        leave_parent(log)
        become(spec, settings)
    finally:
        os._exit(70)


def become(spec: WorkerSpec, settings: Settings) -> NoReturn:
    """Be the worker in this process, within its limits."""
    _apply_limits(spec)
    run_worker(spec, settings)


def leave_parent(log: Path, keep: tuple[int, ...] = ()) -> None:
    """Leave the parent's signals and descriptors (but `keep`) behind; output goes to `log`."""
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # mappings need none
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    os.close(null)
    os.environ.pop("NOTIFY_SOCKET", None)


def told(code: int) -> str:
    """Say an exit code for people; negative: the signal."""
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def reap_strangers(known: set[int]) -> None:
    """Reap children that nobody tracks (orphans a subreaper was given); `known` are left alone."""
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return
        if found is None or found.si_pid in known:
            return
        os.waitpid(found.si_pid, 0)


def _apply_limits(spec: WorkerSpec) -> None:
    os.environ.update(spec.env)
    if spec.nice:
        os.nice(spec.nice)
    if spec.cpu_affinity:
        os.sched_setaffinity(0, spec.cpu_affinity)
    if spec.memory_limit_bytes is not None:
        limit = spec.memory_limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
