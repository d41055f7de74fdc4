"""Requests and replies of the daemon's control socket, and how they travel.

One request and one reply a connection, each one packet (SOCK_SEQPACKET keeps them whole and
bounded, so there is no framing to get wrong). The socket lies in the mesh directory and is
private to its user; who asks is taken from SO_PEERCRED, never from the request.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import msgspec

from mesh.errors import MeshError

SOCKET = ".control"
VERSION = 1
MAX_BYTES = 65536
#: What a user with the read role may ask; everything else needs the control role.
READ_COMMANDS = frozenset({"ping"})
_PEER = struct.Struct("iII")
_TIMEVAL = struct.Struct("ll")
_PEERGROUPS = 59  # SO_PEERGROUPS; the socket module does not name it
_MAX_GROUPS = 256  # what getsockopt() takes; a user in more is known by the first group alone


class ControlRequest(msgspec.Struct, frozen=True):
    """What is asked.

    `command` is start, stop, restart or reset of a worker or group; break-lock of a lock (named in
    `worker` too); ping, reload, upgrade or shutdown of the daemon itself.
    """

    command: str
    worker: str = ""
    version: int = VERSION


class ControlReply(msgspec.Struct, frozen=True):
    """The answer: whether it was accepted, and a line for people."""

    ok: bool
    text: str
    version: int = VERSION


class ControlUnavailable(MeshError):
    """No daemon answers at the control socket."""


def ask(mesh: Path, request: ControlRequest, timeout: float = 5.0) -> ControlReply:
    """Send `request` to the daemon of a mesh directory; raises ControlUnavailable."""
    path = mesh / SOCKET
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
            # a timeout of Python's would make connect fail at once where the queue is full
            limit = _TIMEVAL.pack(int(timeout), int(timeout % 1.0 * 1e6))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
            client.connect(str(path))
            client.send(msgspec.msgpack.encode(request))
            return msgspec.msgpack.decode(client.recv(MAX_BYTES), type=ControlReply)
    except (OSError, msgspec.DecodeError) as error:
        raise ControlUnavailable(
            f"{path}: no daemon answers ({error}); start it: meshd --profile NAME"
        ) from error


def listen(mesh: Path, *, mode: int = 0o600) -> socket.socket:
    """Open the daemon's socket; a leftover of a dead daemon is replaced.

    With the default `mode` it is private to its user; the mesh directory's mode holds as well.
    """
    path = mesh / SOCKET
    path.unlink(missing_ok=True)
    server = socket.socket(
        socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    )
    server.bind(str(path))
    path.chmod(mode)
    server.listen(64)
    return server


def peer(connection: socket.socket) -> tuple[int, int, int]:
    """Give (pid, uid, gid) of the process at the other end (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, gid = _PEER.unpack(raw)
    return pid, uid, gid


def groups_of(connection: socket.socket) -> tuple[int, ...]:
    """Give the supplementary groups of the process at the other end."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)
