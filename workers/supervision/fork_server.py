"""The daemon's side of the fork servers: it starts them, asks them for workers, replaces them.

A fork server (`fork_server_child.py`) is a warm process that has imported what is slow to import
and keeps idle children. The daemon holds a socket to each idle child: to start a worker it sends
that child a `SpawnRequest`, which never waits for the fork server; the fork server only refills. It
is forked from the daemon, whose other imports it shares.

A fork server that ends, hangs or has imported code that has changed since is replaced. While none
of its group works, the daemon forks workers from itself.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import selectors
import signal
import socket
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mesh import ProcessIdentity
from workers.supervision.fd_budget import require_room
from workers.supervision.fork_server_child import (
    IDLE_CHILDREN,
    MAX_BYTES,
    IdleChild,
    run_fork_server,
)
from workers.supervision.spawn import signals_held

if TYPE_CHECKING:
    from config import Settings
    from workers.supervision.event_log import EmitEvent
    from workers.supervision.spawn import SpawnRequest

NEVER = float("inf")
WARMING_S = 60.0  # longer than this no worker waits for a fork server
REFILL_AFTER_S = 0.2  # the worker that just started needs the processor first
REFILL_S = 5.0  # within which it forks a child, also on a busy host
RETRY_S = 5.0  # between the end of a fork server and the next one; doubled while none gets warm
RETRY_MAX_S = 300.0
_PR_SET_CHILD_SUBREAPER = 36

Clock = Callable[[], float]


def become_subreaper() -> None:
    """Make this process the parent of its grandchildren whose parents end.

    Raises:
        OSError: The kernel refused.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class ForkServer:
    """The daemon's side of one fork server: its process and its idle children."""

    def __init__(self, group: str, settings: Settings, log: Path, now: float) -> None:
        """Fork it; it is warm once the first idle child waits. `now` is monotonic seconds."""
        self.group = group
        self.was_warm = False
        self.deadline = now + WARMING_S  # of the next idle child
        self._refill_at = NEVER
        self._owed = 0  # idle children that were used and not asked for again
        self._idle: list[tuple[ProcessIdentity, socket.socket]] = []
        ours, for_server = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with signals_held():
            self.pid = os.fork()
            if self.pid == 0:
                ours.close()
                run_fork_server(group, settings, log, for_server)
        for_server.close()
        ours.setblocking(False)
        self._socket = ours

    def fileno(self) -> int:
        """Return the descriptor that is readable when the fork server has sent something."""
        return self._socket.fileno()

    @property
    def is_warm(self) -> bool:
        """Whether an idle child waits."""
        return bool(self._idle)

    def pids(self) -> set[int]:
        """Return the pids of the fork server and of its idle children."""
        return {self.pid, *(identity.pid for identity, _ in self._idle)}

    def receive(self) -> bool:
        """Take over an idle child; False when the fork server has ended or is about to."""
        try:
            message, fds, _, _ = socket.recv_fds(self._socket, MAX_BYTES, 1)
            idle = msgspec.msgpack.decode(message, type=IdleChild)
        except (OSError, msgspec.DecodeError):
            return False
        for fd in fds:
            os.set_inheritable(fd, False)
            line = socket.socket(fileno=fd)
            line.setblocking(False)
            self._idle.append((ProcessIdentity(idle.pid, idle.start_time), line))
        self.was_warm = True
        if len(self._idle) >= IDLE_CHILDREN:
            self.deadline = NEVER
        return True

    def spawn(self, request: SpawnRequest, now: float) -> int | None:
        """Send an idle child its request and return its pid; None when no child is idle."""
        while self._idle:
            identity, line = self._idle.pop(0)
            with line, contextlib.suppress(OSError):  # it has ended: the next one
                line.send(msgspec.msgpack.encode(request))
                self._owed += 1
                self._refill_at = min(self._refill_at, now + REFILL_AFTER_S)
                self.deadline = min(self.deadline, now + REFILL_AFTER_S + REFILL_S)
                if not self._idle:  # the next one may be needed at any moment
                    self.refill(NEVER)
                return identity.pid
        return None

    def refill(self, now: float) -> None:
        """Ask for as many idle children as were used, once that is due."""
        if now < self._refill_at:
            return
        self._refill_at = NEVER
        with contextlib.suppress(OSError):  # a broken fork server is found by its end
            while self._owed:
                self._socket.send(b"more")
                self._owed -= 1

    def end(self) -> None:
        """Kill the fork server; its idle children see their sockets close and end."""
        for _, line in self._idle:
            line.close()
        self._idle.clear()
        self._socket.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


class ForkServers:
    """All fork servers of a daemon: started, asked for workers, started again when they end."""

    def __init__(
        self,
        settings: Settings,
        selector: selectors.BaseSelector,
        logs: Path,
        clock: Clock,
        emit_event: EmitEvent,
    ) -> None:
        """Start one fork server for each group that an enabled worker names."""
        self._selector = selector
        self._logs = logs
        self._clock = clock
        self._emit_event = emit_event
        self._servers: dict[str, ForkServer] = {}
        self._retry_at: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._retired: deque[int] = deque(maxlen=16)
        self.rebuild(settings)

    def rebuild(self, settings: Settings) -> None:
        """Replace all of them: idle children know only the settings they were forked with."""
        self.close()
        self._settings = settings
        self._retry_at.clear()
        for group in sorted({s.nursery for s in settings.workers if s.enabled and s.nursery}):
            self._start(group)

    def pids(self) -> set[int]:
        """Return the pids of the fork servers and of their idle children."""
        return {pid for server in self._servers.values() for pid in server.pids()}

    def groups(self) -> set[int]:
        """Return the process groups of the fork servers, in which idle children wait."""
        return {server.pid for server in self._servers.values()} | set(self._retired)

    def is_warming(self, group: str) -> bool:
        """Whether a worker of `group` should wait for an idle child rather than be forked now."""
        server = self._servers.get(group)
        return server is not None and not server.is_warm and server.deadline != NEVER

    def spawn(self, group: str, request: SpawnRequest) -> int | None:
        """Start a worker from an idle child of `group`; None when no child is idle."""
        server = self._servers.get(group)
        return None if server is None else server.spawn(request, self._clock())

    def maintain(self) -> None:
        """Refill, replace what hangs, and start again what ended a while ago."""
        now = self._clock()
        for server in self._servers.values():
            server.refill(now)
        for server in [n for n in self._servers.values() if n.deadline <= now]:
            self._replace(server, "hangs")
        for group in [group for group, at in self._retry_at.items() if at <= now]:
            del self._retry_at[group]
            self._start(group)

    def close(self) -> None:
        """End all of them, and their idle children."""
        for server in list(self._servers.values()):
            self._retire(server)

    def _start(self, group: str) -> None:
        log = self._logs / f"fork-server-{group}.log"
        try:
            require_room()
            server = ForkServer(group, self._settings, log, self._clock())
        except OSError as error:
            delay = self._retry_later(group)
            why = error.strerror or str(error)
            text = f"fork server {group} cannot be started now: {why}; tried again in {delay:g} s"
            self._emit_event("fork server", "warning", text)
            return
        self._servers[group] = server
        self._selector.register(server, selectors.EVENT_READ, self._receive)

    def _receive(self, server: object) -> None:
        if isinstance(server, ForkServer) and not server.receive():
            self._replace(server, "ended")

    def _replace(self, server: ForkServer, how: str) -> None:
        """Retire a fork server; the next one starts soon, later if this one never got warm."""
        group = server.group
        if server.was_warm:
            self._failures[group] = 0
            self._retry_at[group], delay = self._clock(), 0.0
        else:
            delay = self._retry_later(group)
        self._retire(server)
        text = f"fork server {group} (pid {server.pid}) {how}; the next one in {delay:g} s"
        self._emit_event("fork server", "warning", text)

    def _retry_later(self, group: str) -> float:
        """Plan another start after a failure; returns the delay in seconds, longer each time."""
        self._failures[group] = failures = self._failures.get(group, 0) + 1
        delay = min(RETRY_S * 2.0**failures, RETRY_MAX_S)
        self._retry_at[group] = self._clock() + delay
        return delay

    def _retire(self, server: ForkServer) -> None:
        del self._servers[server.group]
        self._retired.append(server.pid)
        self._selector.unregister(server)
        server.end()
