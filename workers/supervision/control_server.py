"""The daemon's end of the control socket: many clients, of which none can block the loop.

Nothing here waits. A connection is one request and one reply. A client that sends nothing is closed
after `IDLE_S`, one that sends garbage gets an answer that says so, one that does not read loses the
reply, and one that asks too often is told to wait; without a free descriptor every client is told
so. Roles come from SO_PEERCRED and SO_PEERGROUPS, as numbers: a name service is asked once, before
the loop begins.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import selectors
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import msgspec

from mesh.control import (
    MAX_BYTES,
    READ_COMMANDS,
    SOCKET,
    VERSION,
    ControlReply,
    ControlRequest,
    groups_of,
    listen,
    peer,
)
from workers.supervision.fd_budget import CLIENTS

if TYPE_CHECKING:
    from config.supervisor import SupervisorConfig

IDLE_S = 2.0
ACCEPTED_A_TURN = 8
MAX_USERS = 64  # whose rate is remembered
NAME_CHECK_INTERVAL_S = 1.0  # whether the socket still has its name
PAUSE_S = 0.5  # without listening, where even the descriptor kept for that is gone
EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@dataclass
class _Client:
    connection: socket.socket
    until: float


@dataclass
class _Bucket:
    tokens: float
    at: float


def _not_serving(_request: ControlRequest) -> ControlReply:
    return ControlReply(ok=False, text="the daemon does not serve yet")


class ControlServer:
    """Accepts, decodes, checks the role, lets `answer` decide, replies."""

    def __init__(
        self,
        mesh: Path,
        selector: selectors.BaseSelector,
        limits: SupervisorConfig,
        clock: Callable[[], float],
    ) -> None:
        """Open the socket; clients wait in its queue until `serve`.

        Args:
            mesh: Directory of the mesh, where the socket is.
            selector: The daemon's.
            limits: Rates and groups; where a group is configured, its members may connect.
            clock: Monotonic seconds.
        """
        self._path = mesh / SOCKET
        self._selector = selector
        self._limits = limits
        self._clock = clock
        self._answer: Callable[[ControlRequest], ControlReply] = _not_serving
        self._clients: dict[int, _Client] = {}
        self._buckets: dict[int, _Bucket] = {}
        groups = limits.control_group or limits.read_group
        #: what of the configuration this host cannot do, each a line
        self.faults: list[str] = []
        self._control_gid = self._gid("control_group", limits.control_group)
        self._read_gid = self._gid("read_group", limits.read_group)
        self._reserved_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._listens_at: float | None = None  # while it does not
        self._mode = 0o666 if groups else 0o600
        self._name_check_at = clock() + NAME_CHECK_INTERVAL_S
        self._server = listen(mesh, mode=self._mode)

    def serve(self, answer: Callable[[ControlRequest], ControlReply]) -> None:
        """Answer requests from now on, in the loop of the selector."""
        self._answer = answer
        self._selector.register(self._server, selectors.EVENT_READ, self._accept)

    def maintain(self, now: float) -> None:
        """Close clients whose time is over, and keep the socket open under its name."""
        for client in [c for c in self._clients.values() if c.until <= now]:
            self._forget(client)
        if self._listens_at is not None and now >= self._listens_at:
            self._listens_at = None
            self._selector.register(self._server, selectors.EVENT_READ, self._accept)
        if now >= self._name_check_at:
            self._name_check_at = now + NAME_CHECK_INTERVAL_S
            with contextlib.suppress(OSError):  # the next check tries again
                self._keep_name()

    def _keep_name(self) -> None:
        """Open the socket again where its name was removed: without it nobody can connect."""
        if not self._path.is_socket():
            server = listen(self._path.parent, mode=self._mode)
            if self._listens_at is None:
                self._selector.unregister(self._server)
                self._selector.register(server, selectors.EVENT_READ, self._accept)
            self._server.close()
            self._server = server

    def close(self) -> None:
        """End the service and remove the socket."""
        for client in list(self._clients.values()):
            self._forget(client)
        if self._listens_at is None:
            self._selector.unregister(self._server)
        self._server.close()
        if self._reserved_fd >= 0:
            os.close(self._reserved_fd)
        self._path.unlink(missing_ok=True)

    def _accept(self, _server: object) -> None:
        for _ in range(ACCEPTED_A_TURN):
            try:
                connection, _ = self._server.accept()
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._turn_away(error)
                return
            connection.setblocking(False)
            if len(self._clients) >= CLIENTS:
                self._forget(min(self._clients.values(), key=lambda c: c.until))
            client = _Client(connection, self._clock() + IDLE_S)
            self._clients[connection.fileno()] = client
            self._selector.register(connection, selectors.EVENT_READ, self._receive)

    def _turn_away(self, error: OSError) -> None:
        """Answer the next in the queue with the descriptor that is kept for this.

        Left in the queue it would wake the loop again at once, and for ever.
        """
        if self._reserved_fd >= 0:
            os.close(self._reserved_fd)
            with contextlib.suppress(OSError):
                connection, _ = self._server.accept()
                with connection:
                    connection.setblocking(False)
                    with contextlib.suppress(BlockingIOError):
                        connection.recv(MAX_BYTES)
                    text = f"the daemon cannot take more connections ({error.strerror}); try again"
                    connection.send(msgspec.msgpack.encode(ControlReply(ok=False, text=text)))
        try:
            self._reserved_fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:  # another process took it: the whole host has none left
            self._reserved_fd = -1
            self._selector.unregister(self._server)
            self._listens_at = self._clock() + PAUSE_S

    def _receive(self, connection: object) -> None:
        client = self._clients[cast("socket.socket", connection).fileno()]
        with contextlib.suppress(OSError):
            packet = client.connection.recv(MAX_BYTES)
            if packet:
                reply = msgspec.msgpack.encode(self._reply(client.connection, packet))
                client.connection.send(reply)
        self._forget(client)

    def _reply(self, connection: socket.socket, packet: bytes) -> ControlReply:
        pid, uid, gid = peer(connection)
        if not self._may_ask(uid):
            return ControlReply(
                ok=False,
                text=f"too many requests of uid {uid}: "
                f"{self._limits.requests_per_s:g} a second are allowed; try again",
            )
        try:
            request = msgspec.msgpack.decode(packet, type=ControlRequest)
        except (msgspec.DecodeError, ValueError) as error:
            return ControlReply(ok=False, text=f"not a request: {error}")
        if request.version > VERSION:
            return ControlReply(
                ok=False,
                text=f"this daemon speaks version {VERSION}, pid {pid} asked in "
                f"{request.version}; upgrade the daemon",
            )
        role = self._role(uid, {gid, *groups_of(connection)})
        if role == "control" or (role == "read" and request.command in READ_COMMANDS):
            return self._answer(request)
        return ControlReply(ok=False, text=f"uid {uid} may not {request.command} this daemon")

    def _role(self, uid: int, groups: set[int]) -> str:
        if uid in {0, os.getuid()} or self._control_gid in groups:
            return "control"
        return "read" if self._read_gid in groups else ""

    def _may_ask(self, uid: int) -> bool:
        """Take one token of the user's bucket."""
        now, rate = self._clock(), self._limits.requests_per_s
        if len(self._buckets) > MAX_USERS:
            self._buckets.clear()
        bucket = self._buckets.setdefault(uid, _Bucket(2.0 * rate, now))
        bucket.tokens = min(2.0 * rate, bucket.tokens + (now - bucket.at) * rate)
        bucket.at = now
        if bucket.tokens < 1.0:
            return False
        bucket.tokens -= 1.0
        return True

    def _forget(self, client: _Client) -> None:
        del self._clients[client.connection.fileno()]
        self._selector.unregister(client.connection)
        client.connection.close()

    def _gid(self, key: str, group: str) -> int | None:
        """The number of a group, given by name or number; None where there is no such group."""
        if not group or group.isdigit():
            return int(group) if group else None
        try:
            return grp.getgrnam(group).gr_gid
        except KeyError:
            self.faults.append(
                f"supervisor.{key}: this host has no group {group!r}, so nobody has its role; "
                "make it, or give its number, and start the daemon again"
            )
            return None
