"""The control socket: one request, one reply, private to its user."""

from __future__ import annotations

import os
import socket

import msgspec
import pytest

from mesh.control import (
    SOCKET,
    ControlReply,
    ControlRequest,
    ControlUnavailable,
    ask,
    groups_of,
    listen,
    peer,
)
from tests.processes import child


def test_request_and_reply_cross_the_socket(mesh):
    """What was asked arrives whole with the asker's identity; the answer comes back."""
    mesh.path.mkdir(exist_ok=True)
    server = listen(mesh.path)
    server.setblocking(True)
    assert (mesh.path / SOCKET).stat().st_mode & 0o777 == 0o600

    def body(_tell):
        reply = ask(mesh.path, ControlRequest("stop", "feeder"))
        assert reply == ControlReply(ok=True, text="done")

    with child(body) as client:
        connection, _ = server.accept()
        with connection:
            assert peer(connection) == (client.pid, os.getuid(), os.getgid())
            assert set(groups_of(connection)) == set(os.getgroups())
            request = msgspec.msgpack.decode(connection.recv(65536), type=ControlRequest)
            assert request == ControlRequest("stop", "feeder")
            connection.send(msgspec.msgpack.encode(ControlReply(ok=True, text="done")))
        assert client.wait() == 0
    server.close()


def test_no_daemon_is_a_line_with_a_remedy(mesh):
    """A missing or dead socket is ControlUnavailable, and a leftover is replaced by listen()."""
    with pytest.raises(ControlUnavailable, match="start it"):
        ask(mesh.path, ControlRequest("stop"))
    listen(mesh.path).close()
    with pytest.raises(ControlUnavailable, match="start it"):
        ask(mesh.path, ControlRequest("stop"))
    with listen(mesh.path) as server:
        assert server.family == socket.AF_UNIX
