"""A warm process that has imported what is slow to import, and forks workers from it.

torch, stable-baselines3 and MLflow take seconds to import; a worker forked from a process that
has them starts in milliseconds. The fork server builds one throw-away learner, single-threaded,
so that lazy imports are paid too, freezes its garbage collector and forks a few not yet specialised
children ahead of need. It is forked from the daemon, whose other imports it shares.

The daemon holds a socket to each waiting child: to start a worker it sends that child its task,
which never waits for the fork server; that only refills. A child's parent ends at once, so that
the child belongs to the daemon (a subreaper), which can read its exit status.

It also imports the modules of the workers that are to be born from it, and walks once through what
every worker does first: each child would load the same modules into memory of its own.

Hazards that were measured and are avoided here: OpenBLAS starts threads at import, so do pyarrow's
jemalloc and MLflow's telemetry (all switched off by `config.one_thread`), and a multi-threaded
torch operation before the fork hangs every child for ever (one thread until the children set their
own number). A fork server with more than one thread after its imports ends instead of forking; a
test counts threads and works in forked children.

The fork server is supervised: one that ends, hangs or has imported code that has changed since is
replaced. While there is none that works, the daemon forks workers the plain way.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import select
import selectors
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
from setproctitle import setproctitle

from mesh import ProcessIdentity
from workers.runtime.process import rehearse, resolve
from workers.supervision.fd_budget import require_room
from workers.supervision.spawn import SpawnRequest, become, leave_parent

if TYPE_CHECKING:
    from config import Settings
    from config.worker_spec import WorkerSpec

NEVER = float("inf")
#: Modules of each import group.
GROUPS = {
    "learner": ("torch", "stable_baselines3", "workers.trainer.worker"),
    "tracker": ("mlflow", "mlflow.tracking"),
    "plain": ("numpy",),
}
IDLE_CHILDREN = 2
WARMING_S = 60.0  # longer than this nobody waits for a fork server
REFILL_AFTER_S = 0.2  # the one that was just born needs the processor first
REFILL_S = 5.0  # within which it forks a child, also on a busy host
AGAIN_S = 5.0  # between the end of a fork server and the next one; doubled while none gets warm
AGAIN_MAX_S = 300.0
LOOK_S = 2.0  # between two looks for changed code
MAX_BYTES = 4096
_PR_SET_CHILD_SUBREAPER = 36
_PROJECT = Path(__file__).resolve().parents[2]

Clock = Callable[[], float]
EmitEvent = Callable[[str, str, str], None]  # kind, severity, text of an event


class IdleChild(msgspec.Struct, frozen=True):
    """Said by a fork server of a child that waits, with the socket at which it waits."""

    pid: int
    start_time: int


def adopt_orphans() -> None:
    """Make this process the parent of its grandchildren whose parents end (a subreaper)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class ForkServer:
    """The daemon's side of one fork server: its process and its waiting children."""

    def __init__(self, group: str, settings: Settings, log: Path, now: float) -> None:
        """Fork the fork server; it is warm once the first child waits."""
        self.group = group
        self.was_warm = False
        self.due = now + WARMING_S  # of the next child
        self._refill_at = NEVER
        self._owed = 0
        self._idle: list[tuple[ProcessIdentity, socket.socket]] = []
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _run_fork_server(group, settings, log, its)
        its.close()
        ours.setblocking(False)
        self._socket = ours

    def fileno(self) -> int:
        """Give the socket's descriptor: readable when the fork server has something to say."""
        return self._socket.fileno()

    @property
    def is_warm(self) -> bool:
        """Whether a child waits."""
        return bool(self._idle)

    def pids(self) -> set[int]:
        """Give the fork server and its waiting children."""
        return {self.pid, *(identity.pid for identity, _ in self._idle)}

    def heard(self) -> bool:
        """Take a waiting child; False when the fork server has ended (or is about to)."""
        try:
            message, fds, _, _ = socket.recv_fds(self._socket, MAX_BYTES, 1)
            spare = msgspec.msgpack.decode(message, type=IdleChild)
        except (OSError, msgspec.DecodeError):
            return False
        for fd in fds:
            os.set_inheritable(fd, False)
            line = socket.socket(fileno=fd)
            line.setblocking(False)
            self._idle.append((ProcessIdentity(spare.pid, spare.start_time), line))
        self.was_warm = True
        if len(self._idle) >= IDLE_CHILDREN:
            self.due = NEVER
        return True

    def spawn(self, request: SpawnRequest, now: float) -> int | None:
        """Give a waiting child its task, and its pid; None when no child waits."""
        while self._idle:
            identity, line = self._idle.pop(0)
            with line, contextlib.suppress(OSError):  # it has ended: the next one
                line.send(msgspec.msgpack.encode(request))
                self._owed += 1
                self._refill_at = min(self._refill_at, now + REFILL_AFTER_S)
                self.due = min(self.due, now + REFILL_AFTER_S + REFILL_S)
                if not self._idle:  # the next one may be needed at any moment
                    self.refill(NEVER)
                return identity.pid
        return None

    def refill(self, now: float) -> None:
        """Ask for as many children as were taken, once that is due."""
        if now < self._refill_at:
            return
        self._refill_at = NEVER
        with contextlib.suppress(OSError):  # a broken fork server is found by its end
            while self._owed:
                self._socket.send(b"more")
                self._owed -= 1

    def end(self) -> None:
        """End the fork server; its waiting children see the end of their sockets and leave."""
        for _, line in self._idle:
            line.close()
        self._idle.clear()
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class ForkServers:
    """All fork servers of a daemon: started, asked, and started again when they end."""

    def __init__(
        self,
        settings: Settings,
        selector: selectors.BaseSelector,
        logs: Path,
        clock: Clock,
        emit_event: EmitEvent,
    ) -> None:
        """Fork one fork server for each group that an enabled worker names."""
        self._selector = selector
        self._logs = logs
        self._clock = clock
        self._emit_event = emit_event
        self._servers: dict[str, ForkServer] = {}
        self._again: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._retired: deque[int] = deque(maxlen=16)
        self.rebuild(settings)

    def rebuild(self, settings: Settings) -> None:
        """Begin again with these settings: what waits knows only the earlier ones."""
        self.close()
        self._settings = settings
        self._again.clear()
        for group in sorted({s.nursery for s in settings.workers if s.enabled and s.nursery}):
            self._found(group)

    def pids(self) -> set[int]:
        """Give the processes of the fork servers and of what waits in them."""
        return {pid for server in self._servers.values() for pid in server.pids()}

    def groups(self) -> set[int]:
        """Return the process groups of the fork servers, in which idle children wait."""
        return {server.pid for server in self._servers.values()} | set(self._retired)

    def is_warming(self, group: str) -> bool:
        """Tell whether a worker of `group` should still wait rather than start the plain way."""
        server = self._servers.get(group)
        return server is not None and not server.is_warm and server.due != NEVER

    def spawn(self, group: str, request: SpawnRequest) -> int | None:
        """Start a worker from its fork server; None: no child waits, start it the plain way."""
        server = self._servers.get(group)
        return None if server is None else server.spawn(request, self._clock())

    def tend(self) -> None:
        """Replace what hangs, and start again what ended a while ago."""
        now = self._clock()
        for server in self._servers.values():
            server.refill(now)
        for server in [n for n in self._servers.values() if n.due <= now]:
            self._lose(server, "hangs")
        for group in [group for group, at in self._again.items() if at <= now]:
            del self._again[group]
            self._found(group)

    def close(self) -> None:
        """End all of them; what waits in them ends too."""
        for server in list(self._servers.values()):
            self._retire(server)

    def _found(self, group: str) -> None:
        log = self._logs / f"fork-server-{group}.log"
        try:
            require_room()
            server = ForkServer(group, self._settings, log, self._clock())
        except OSError as error:
            delay = self._later(group)
            why = error.strerror or str(error)
            text = f"fork server {group} cannot be started now: {why}; tried again in {delay:g} s"
            self._emit_event("fork server", "warning", text)
            return
        self._servers[group] = server
        self._selector.register(server, selectors.EVENT_READ, self._heard)

    def _heard(self, server: object) -> None:
        if isinstance(server, ForkServer) and not server.heard():
            self._lose(server, "ended")

    def _lose(self, server: ForkServer, how: str) -> None:
        """Retire a fork server; the next one starts soon, later if this one never got warm."""
        group = server.group
        if server.was_warm:
            self._failures[group] = 0
            self._again[group], delay = self._clock(), 0.0
        else:
            delay = self._later(group)
        self._retire(server)
        text = f"fork server {group} (pid {server.pid}) {how}; the next one in {delay:g} s"
        self._emit_event("fork server", "warning", text)

    def _later(self, group: str) -> float:
        """Try again after a failure, and give in how many seconds: longer each time."""
        self._failures[group] = failures = self._failures.get(group, 0) + 1
        delay = min(AGAIN_S * 2.0**failures, AGAIN_MAX_S)
        self._again[group] = self._clock() + delay
        return delay

    def _retire(self, server: ForkServer) -> None:
        del self._servers[server.group]
        self._retired.append(server.pid)
        self._selector.unregister(server)
        server.end()


def _run_fork_server(group: str, settings: Settings, log: Path, line: socket.socket) -> NoReturn:
    try:
        leave_parent(log, keep=(line.fileno(),))
        setproctitle(f"tradingmesh: fork server {group}")
        inherited = set(sys.modules)
        warm_up(group)
        theirs = _prepare_workers(group, settings)
        rehearse(settings)  # loads what every worker does first: once for all children, not in each
        threads = len(list(Path("/proc/self/task").iterdir()))
        if threads != 1:
            sys.stderr.write(f"fork server {group}: {threads} threads after imports: no forks\n")
            os._exit(1)
        code = _stamps({*GROUPS[group], *theirs}, set(sys.modules) - inherited)
        gc.collect()
        gc.freeze()
        for _ in range(IDLE_CHILDREN):
            _send_spare(group, settings, line)
        while _stamps(set(), set(), code) == code:
            if select.select([line], [], [], LOOK_S)[0]:
                if not line.recv(MAX_BYTES):
                    break
                _send_spare(group, settings, line)
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(0)


def warm_up(group: str) -> None:
    """Pay for what the workers of `group` import, and leave one thread."""
    for module in GROUPS[group]:
        importlib.import_module(module)
    if group == "learner":
        _throw_away_learner()


def _prepare_workers(group: str, settings: Settings) -> set[str]:
    """Import and prepare the workers of `group`, give their modules; one that fails says so."""
    modules = set()
    for spec in _specs(group, settings):
        modules.add(spec.worker.partition(":")[0])
        with _told(group, spec):
            resolve(spec.worker).prepare(spec, settings)
    return modules


def _specs(group: str, settings: Settings) -> list[WorkerSpec]:
    return [spec for spec in settings.workers if spec.enabled and spec.nursery == group]


@contextlib.contextmanager
def _told(group: str, spec: WorkerSpec) -> Iterator[None]:
    """Let a user's module fail: it does so again, in its own process."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - whatever it is
        sys.stderr.write(f"fork server {group}: {spec.worker}: {error!r}\n")


def _stamps(named: set[str], new: set[str], known: Iterable[str] = ()) -> dict[str, int]:
    """Give the modification times of the files of modules, and of the files `known` already.

    Of the `new` modules only the project's own count, and those that are `named`: an upgrade of a
    library replaces the module that is named, too.
    """
    files = set(known)
    for name in sorted(new):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file and (name in named or Path(file).is_relative_to(_PROJECT)):
            files.add(file)
    stamps = {}
    for file in files:
        with contextlib.suppress(OSError):
            stamps[file] = Path(file).stat().st_mtime_ns
    return stamps


def _throw_away_learner() -> None:
    """Learn for a few steps on one thread, so that the lazy imports of a learner are paid."""
    import stable_baselines3  # noqa: PLC0415 - heavy: only in a fork server of this group
    import torch  # noqa: PLC0415 - heavy: only in a fork server of this group
    from stable_baselines3.common.logger import (  # noqa: PLC0415 - as above
        Logger,
    )

    torch.set_num_threads(1)
    learner = stable_baselines3.TD3(
        "MlpPolicy", "Pendulum-v1", buffer_size=64, learning_starts=16, batch_size=8, device="cpu"
    )
    # without one of its own it makes a directory for logs at every start
    learner.set_logger(Logger(folder=None, output_formats=[]))
    learner.learn(24)


def _send_spare(group: str, settings: Settings, line: socket.socket) -> None:
    """Fork a child that waits for its task, through a parent that ends at once."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told, tell = os.pipe()
    between = os.fork()
    if between == 0:
        child = os.fork()
        if child == 0:
            ours.close()
            line.close()
            _await_task(group, settings, its)
        os.write(tell, child.to_bytes(4, "little"))
        os._exit(0)
    its.close()
    os.close(tell)
    pid = int.from_bytes(os.read(told, 4), "little")
    os.close(told)
    os.waitpid(between, 0)
    spare = IdleChild(pid, ProcessIdentity.of(pid).start_time)
    with ours:
        socket.send_fds(line, [msgspec.msgpack.encode(spare)], [ours.fileno()])


def _await_task(group: str, settings: Settings, line: socket.socket) -> NoReturn:
    try:
        rehearse(settings)
        for spec in _specs(group, settings):
            with _told(group, spec):
                resolve(spec.worker).rehearse(spec, settings)
        request = line.recv(MAX_BYTES)
        if request:
            become(msgspec.msgpack.decode(request, type=SpawnRequest), settings)
        os._exit(0)
    finally:
        os._exit(70)
