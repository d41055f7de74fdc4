"""What runs in a fork server: imports, idle children, and the worker that an idle child becomes.

torch, stable-baselines3 and MLflow take seconds to import; a worker forked from a process that has
them starts in milliseconds. The fork server imports what its group of workers needs, builds one
throw-away learner on one thread, so that lazy imports are paid too, freezes its garbage collector
and forks idle children ahead of need. It imports the modules of its workers as well, and goes once
through what every worker does first: otherwise each child would load them into memory of its own.

An idle child waits at a socket for a `SpawnRequest`. Its parent ends at once, so that the child
belongs to the daemon (a subreaper), which can read its exit status.

Hazards that were measured and are avoided here: OpenBLAS starts threads at import, so do pyarrow's
jemalloc and MLflow's telemetry (all switched off by `config.one_thread`), and a multi-threaded
torch operation before the fork hangs every child for ever (one thread until the children set their
own number). A fork server with more than one thread after its imports ends instead of forking; a
test counts threads and works in forked children.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
from setproctitle import setproctitle

from config.declaration import ForkServerGroup, fork_server_groups
from mesh import ProcessIdentity
from mesh.procfs import thread_ids
from workers.runtime.process import rehearse, resolve
from workers.supervision.spawn import HELD_SIGNALS, SpawnRequest, become, leave_parent

if TYPE_CHECKING:
    from config import Settings
    from config.worker_spec import WorkerSpec

IDLE_CHILDREN = 2
CODE_CHECK_INTERVAL_S = 2.0  # between two checks for changed source files
MAX_BYTES = 4096
_PROJECT = Path(__file__).resolve().parents[2]


class IdleChild(msgspec.Struct, frozen=True):
    """A new idle child, announced to the daemon together with the socket at which it waits."""

    pid: int
    start_time: int


def run_fork_server(group: str, settings: Settings, log: Path, daemon: socket.socket) -> NoReturn:
    """Be the fork server of `group` in this process; it ends when the daemon closes its socket.

    It also ends when the code that it imported has changed, so that the daemon starts another.
    """
    try:
        leave_parent(log, keep=(daemon.fileno(),))
        setproctitle(f"tradingmesh: fork server {group}")
        inherited = set(sys.modules)
        declared = fork_server_groups(spec.worker for spec in settings.workers)[group]
        warm_up(declared)
        of_workers = _prepare_workers(group, settings)
        rehearse(settings)  # loads what every worker does first: once for all, not in each child
        threads = len(thread_ids(os.getpid()))
        if threads != 1:
            sys.stderr.write(f"fork server {group}: {threads} threads after imports: no forks\n")
            os._exit(1)
        code = _modification_times({*declared.imports, *of_workers}, set(sys.modules) - inherited)
        gc.collect()
        gc.freeze()
        for _ in range(IDLE_CHILDREN):
            _fork_idle_child(group, settings, daemon)
        while _modification_times(set(), set(), code) == code:
            if select.select([daemon], [], [], CODE_CHECK_INTERVAL_S)[0]:
                if not daemon.recv(MAX_BYTES):
                    break
                _fork_idle_child(group, settings, daemon)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(0)


def warm_up(group: ForkServerGroup) -> None:
    """Import what the workers of `group` need and run its warm-up; leaves one thread."""
    for module in group.imports:
        importlib.import_module(module)
    if group.warm_up:
        module, _, function = group.warm_up.partition(":")
        getattr(importlib.import_module(module), function)()


def _prepare_workers(group: str, settings: Settings) -> set[str]:
    """Import and prepare the workers of `group`; returns the names of their modules."""
    modules = set()
    for spec in _specs(group, settings):
        modules.add(spec.worker.partition(":")[0])
        with _errors_reported(group, spec):
            resolve(spec.worker).prepare(spec, settings)
    return modules


def _specs(group: str, settings: Settings) -> list[WorkerSpec]:
    return [spec for spec in settings.workers if spec.enabled and spec.nursery == group]


@contextlib.contextmanager
def _errors_reported(group: str, spec: WorkerSpec) -> Iterator[None]:
    """Report an error of a user's module and go on: it is raised again in the worker itself."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        sys.stderr.write(f"fork server {group}: {spec.worker}: {error!r}\n")


def _modification_times(
    named: set[str], new: set[str], known: Iterable[str] = ()
) -> dict[str, int]:
    """Return the modification times, in ns, of the files of modules and of the files `known`.

    Of the `new` modules only the project's own count, and those that are `named`: an upgrade of a
    library replaces the named module, too.
    """
    files = set(known)
    for name in sorted(new):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and (name in named or Path(file).is_relative_to(_PROJECT)):
            files.add(file)
    times = {}
    for file in files:
        with contextlib.suppress(OSError):
            times[file] = Path(file).stat().st_mtime_ns
    return times


def _fork_idle_child(group: str, settings: Settings, daemon: socket.socket) -> None:
    """Fork a child that waits for its request, through a parent that ends at once.

    Its stop signals are held back until it has become a worker and can handle them.
    """
    for_daemon, for_child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid_read, pid_write = os.pipe()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
    parent = os.fork()
    if parent == 0:
        child = os.fork()
        if child == 0:
            for_daemon.close()
            daemon.close()
            _await_request(group, settings, for_child)
        os.write(pid_write, child.to_bytes(4, "little"))
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for_child.close()
    os.close(pid_write)
    pid = int.from_bytes(os.read(pid_read, 4), "little")
    os.close(pid_read)
    os.waitpid(parent, 0)
    idle = IdleChild(pid, ProcessIdentity.of(pid).start_time)
    with for_daemon:
        socket.send_fds(daemon, [msgspec.msgpack.encode(idle)], [for_daemon.fileno()])


def _await_request(group: str, settings: Settings, line: socket.socket) -> NoReturn:
    try:
        rehearse(settings)
        for spec in _specs(group, settings):
            with _errors_reported(group, spec):
                resolve(spec.worker).rehearse(spec, settings)
        request = line.recv(MAX_BYTES)
        if request:
            become(msgspec.msgpack.decode(request, type=SpawnRequest), settings)
        os._exit(0)
    finally:
        os._exit(70)
