"""A warm process that has imported what is slow to import, and forks workers from it.

torch, stable-baselines3 and their kind take seconds to import; a worker forked from a process that
has them is there in milliseconds. The nursery builds one throw-away learner, single-threaded, so
that lazy imports are paid too, freezes its garbage collector and keeps a few forked, not yet
specialised children waiting. It is forked from the daemon, whose other imports it shares.

Hazards that were measured and are avoided here: OpenBLAS starts threads at import (one thread is
set in the environment before it), MLflow's telemetry starts one at the first experiment (it is
not imported here), and a multi-threaded torch operation before the fork hangs every child for
ever (one thread until the children set their own number). A test counts threads and works in
forked children.

A child's parent ends at once, so that the child belongs to the daemon (a subreaper), which can
read its exit status. When the nursery is broken, the daemon forks workers the plain way.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import os
import selectors
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec
from setproctitle import setproctitle

from mesh import ProcessIdentity
from workers.spawn import become, leave_parent

if TYPE_CHECKING:
    from config import Settings
    from config.worker_spec import WorkerSpec

#: Modules of each import group, and what is called once to pay for lazy imports.
GROUPS = {
    "learner": ("torch", "stable_baselines3"),
    "plain": ("numpy",),
}
SPARES = 2
REPLY_S = 1.0
WARMING_S = 60.0  # longer than this nobody waits for a nursery
AGAIN_S = 5.0  # between the end of a nursery and the next one
MAX_BYTES = 4096
_PR_SET_CHILD_SUBREAPER = 36


Clock = Callable[[], float]


class Birth(msgspec.Struct, frozen=True):
    """Asked of a nursery: become this worker, with the output going to `log`."""

    worker: str
    log: str


class Born(msgspec.Struct, frozen=True):
    """Its answer: the process, already on its way."""

    pid: int
    start_time: int


def adopt_orphans() -> None:
    """Make this process the parent of its grandchildren whose parents end (a subreaper)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Nursery:
    """The daemon's side of one nursery: its process, and what it is asked."""

    def __init__(self, group: str, settings: Settings, log: Path) -> None:
        """Fork the nursery; it is `ready` once it has said so on its socket."""
        self.group = group
        self.ready = False
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            _be_nursery(group, settings, log, its)
        its.close()
        ours.settimeout(REPLY_S)
        self.socket = ours
        self.identity = ProcessIdentity.of(self.pid)

    def fileno(self) -> int:
        """Give the socket's descriptor: readable when the nursery says that it is ready."""
        return self.socket.fileno()

    def heard(self) -> bool:
        """Read what the nursery says unasked; False when it is gone."""
        with contextlib.suppress(OSError):
            if self.socket.recv(MAX_BYTES) == b"ready":
                self.ready = True
                return True
        return False

    def bear(self, worker: str, log: Path) -> ProcessIdentity | None:
        """Let a child become `worker`; None when the nursery does not answer: it is killed."""
        try:
            self.socket.send(msgspec.msgpack.encode(Birth(worker, str(log))))
            born = msgspec.msgpack.decode(self.socket.recv(MAX_BYTES), type=Born)
        except (OSError, msgspec.DecodeError):
            self.kill()
            return None
        return ProcessIdentity(born.pid, born.start_time)

    def kill(self) -> None:
        """End the nursery and its waiting children; workers that were born live on."""
        self.ready = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """Forget the socket; waiting children see its end and leave."""
        self.socket.close()


class Nurseries:
    """All nurseries of a daemon: started, asked, and started again when they end."""

    def __init__(
        self, settings: Settings, selector: selectors.BaseSelector, logs: Path, clock: Clock
    ) -> None:
        """Fork one nursery for each group that an enabled worker names."""
        self._settings = settings
        self._selector = selector
        self._logs = logs
        self._clock = clock
        self._nurseries: dict[str, Nursery] = {}
        self._again: dict[str, float] = {}
        self._deadline: dict[str, float] = {}
        for spec in settings.workers:
            if spec.enabled and spec.nursery and spec.nursery not in self._nurseries:
                self._found(spec.nursery)

    def pids(self) -> set[int]:
        """Give the processes of the nurseries."""
        return {nursery.pid for nursery in self._nurseries.values()}

    def is_warming(self, group: str) -> bool:
        """Tell whether a worker of `group` should still wait rather than start the plain way."""
        nursery = self._nurseries.get(group)
        return nursery is not None and not nursery.ready and self._clock() < self._deadline[group]

    def bear(self, spec: WorkerSpec, log: Path) -> ProcessIdentity | None:
        """Start `spec` from its nursery; None: there is none that works, start it the plain way."""
        nursery = self._nurseries.get(spec.nursery)
        if nursery is None or not nursery.ready:
            return None
        return nursery.bear(spec.name, log)

    def tend(self) -> None:
        """Start again what ended a while ago."""
        for group, at in list(self._again.items()):
            if self._clock() >= at:
                del self._again[group]
                self._found(group)

    def close(self) -> None:
        """End all of them; what waits in them ends too."""
        for group in list(self._nurseries):
            self._bury(group)

    def _found(self, group: str) -> None:
        nursery = Nursery(group, self._settings, self._logs / f"nursery-{group}.log")
        self._nurseries[group] = nursery
        self._deadline[group] = self._clock() + WARMING_S
        self._selector.register(nursery, selectors.EVENT_READ, self._heard)

    def _heard(self, nursery: object) -> None:
        if isinstance(nursery, Nursery) and not nursery.heard():
            self._bury(nursery.group)
            self._again[nursery.group] = self._clock() + AGAIN_S

    def _bury(self, group: str) -> None:
        nursery = self._nurseries.pop(group)
        self._selector.unregister(nursery)
        nursery.kill()
        nursery.close()
        with contextlib.suppress(ChildProcessError):
            os.waitpid(nursery.pid, 0)


def _be_nursery(group: str, settings: Settings, log: Path, line: socket.socket) -> NoReturn:
    try:
        leave_parent(log, keep=(line.fileno(),))
        setproctitle(f"tradingmesh: nursery {group}")
        os.environ.update(
            OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MLFLOW_DISABLE_TELEMETRY="true"
        )
        for module in GROUPS[group]:
            importlib.import_module(module)
        if group == "learner":
            _throw_away_learner()
        gc.collect()
        gc.freeze()
        spares = [_spare(settings, line) for _ in range(SPARES)]
        line.send(b"ready")
        while request := line.recv(MAX_BYTES):
            pid, start_time, child = spares.pop(0)
            child.send(request)
            child.close()
            line.send(msgspec.msgpack.encode(Born(pid, start_time)))
            spares.append(_spare(settings, line))
    finally:
        os._exit(0)


def _throw_away_learner() -> None:
    """Learn for a few steps on one thread, so that the lazy imports of a learner are paid."""
    import stable_baselines3  # noqa: PLC0415 - heavy: only in a nursery of this group
    import torch  # noqa: PLC0415 - heavy: only in a nursery of this group

    torch.set_num_threads(1)
    stable_baselines3.TD3(
        "MlpPolicy", "Pendulum-v1", buffer_size=64, learning_starts=16, batch_size=8, device="cpu"
    ).learn(24)


def _spare(settings: Settings, line: socket.socket) -> tuple[int, int, socket.socket]:
    """Fork a child that waits for its task, through a parent that ends at once."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    told, tell = os.pipe()
    between = os.fork()
    if between == 0:
        child = os.fork()
        if child == 0:
            ours.close()
            line.close()
            _await_task(settings, its)
        os.write(tell, child.to_bytes(4, "little"))
        os._exit(0)
    its.close()
    os.close(tell)
    pid = int.from_bytes(os.read(told, 4), "little")
    os.close(told)
    os.waitpid(between, 0)
    return pid, ProcessIdentity.of(pid).start_time, ours


def _await_task(settings: Settings, line: socket.socket) -> NoReturn:
    try:
        request = line.recv(MAX_BYTES)
        if not request:
            os._exit(0)
        birth = msgspec.msgpack.decode(request, type=Birth)
        spec = next(s for s in settings.workers if s.name == birth.worker)
        leave_parent(Path(birth.log))
        become(spec, settings)
    finally:
        os._exit(70)
