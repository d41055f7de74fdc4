"""From a spec to a process: fork, leave the daemon's things behind, become the worker.

The daemon has one thread and no library with threads of its own, so that a plain fork is safe;
a forked worker starts in milliseconds because everything common is imported already.
"""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

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
        _leave_daemon(log)
        _apply_limits(spec)
        run_worker(spec, settings)
    finally:
        os._exit(70)


def _leave_daemon(log: Path) -> None:
    signal.set_wakeup_fd(-1)
    for number in _DEFAULT:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.closerange(3, resource.getrlimit(resource.RLIMIT_NOFILE)[0])  # mappings need no descriptor
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(out, 1)
    os.dup2(out, 2)
    os.close(out)
    os.close(null)
    os.environ.pop("NOTIFY_SOCKET", None)


def _apply_limits(spec: WorkerSpec) -> None:
    os.environ.update(spec.env)
    if spec.nice:
        os.nice(spec.nice)
    if spec.cpu_affinity:
        os.sched_setaffinity(0, spec.cpu_affinity)
    if spec.memory_limit_bytes is not None:
        limit = spec.memory_limit_bytes
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
