"""Requests and replies of the daemon's control socket, and how they travel.

One request and one reply a connection, each one packet (SOCK_SEQPACKET keeps them whole and
bounded, so there is no framing to get wrong). The socket lies in the mesh directory and is
private to its user; who asks is taken from SO_PEERCRED, never from the request.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
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

    `command` is start, stop, restart or reset of a worker or group, break-lock of a lock, or ping,
    reload, upgrade or shutdown of the daemon itself. `target` names the worker, group or lock.
    """

    command: str
    target: str = ""
    version: int = VERSION


class ControlReply(msgspec.Struct, frozen=True):
    """The answer: whether it was accepted, and a line for people."""

    ok: bool
    text: str
    version: int = VERSION


class ControlUnavailable(MeshError):
    """No daemon answers at the control socket; the message says why, and what to do."""


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
            with contextlib.suppress(BrokenPipeError):  # turned away, perhaps with an answer
                client.send(msgspec.msgpack.encode(request))
            return msgspec.msgpack.decode(_answer(client), type=ControlReply)
    except (OSError, msgspec.DecodeError) as error:
        raise ControlUnavailable(f"{path}: {_why(path, error, timeout)}") from error


def _answer(client: socket.socket) -> bytes:
    """Receive the reply; one that was sent before the request was read is there all the same."""
    try:
        return client.recv(MAX_BYTES)
    except ConnectionResetError:
        return client.recv(MAX_BYTES)


def _why(path: Path, error: Exception, timeout: float) -> str:
    """Say what stands between this process and the daemon, and what to do about it."""
    if isinstance(error, FileNotFoundError):
        return "there is no daemon's socket; start one: meshd --profile NAME"
    if isinstance(error, ConnectionRefusedError):
        return "the daemon that made the socket is dead; start one: meshd --profile NAME"
    if isinstance(error, PermissionError):
        return _who_may(path)
    if isinstance(error, BlockingIOError):
        return f"the daemon does not answer within {timeout:g} s: it hangs, or was stopped"
    if isinstance(error, msgspec.DecodeError):
        return "the daemon turned the request away without a word; try again"
    return f"no daemon answers ({error}); start one: meshd --profile NAME"


def _who_may(path: Path) -> str:
    """Say whose the socket is, or the directory that hides it, and how to be let in."""
    import grp  # noqa: PLC0415 - of no use to the daemon, which asks no name service
    import pwd  # noqa: PLC0415 - as above

    try:
        found, what = path.stat(), "the socket"
    except PermissionError:
        found, what = path.parent.stat(), "its directory"

    user, group = str(found.st_uid), str(found.st_gid)
    with contextlib.suppress(KeyError):
        user = pwd.getpwuid(found.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(found.st_gid).gr_name
    text = (
        f"permission denied to uid {os.getuid()}: {what} is {user}:{group}, mode "
        f"{stat.S_IMODE(found.st_mode):04o}; "
    )
    if what == "its directory" and found.st_mode & stat.S_IXGRP:
        return f"{text}join the group {group}, or ask as {user} or root"
    return (
        f"{text}ask as {user} or root, or let the daemon's supervisor.control_group or read_group "
        "name a group of yours"
    )


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
    """Return (pid, uid, gid) of the process at the other end (SO_PEERCRED)."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    pid, uid, gid = _PEER.unpack(raw)
    return pid, uid, gid


def groups_of(connection: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of the process at the other end."""
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)
