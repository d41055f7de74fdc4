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

    def body(_report):
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
    """A missing and a dead socket are told apart, and a leftover is replaced by listen()."""
    with pytest.raises(ControlUnavailable, match="no daemon's socket; start one"):
        ask(mesh.path, ControlRequest("stop"))
    mesh.path.mkdir(exist_ok=True)
    listen(mesh.path).close()
    with pytest.raises(ControlUnavailable, match="is dead; start one"):
        ask(mesh.path, ControlRequest("stop"))
    with listen(mesh.path) as server:
        assert server.family == socket.AF_UNIX


def test_a_daemon_that_hangs_is_told(mesh):
    """A socket where nobody answers: the time that was waited, and no advice to start a second."""
    mesh.path.mkdir(exist_ok=True)
    with listen(mesh.path), pytest.raises(ControlUnavailable, match=r"within 0\.1 s: it hangs"):
        ask(mesh.path, ControlRequest("ping"), timeout=0.1)


def test_turned_away_before_the_request_is_heard(mesh):
    """An answer given before the request was read is the answer; none at all is told."""
    mesh.path.mkdir(exist_ok=True)
    server = listen(mesh.path)
    server.setblocking(True)
    refusal = msgspec.msgpack.encode(ControlReply(ok=False, text="come again"))

    def body(tell):
        for packet in (refusal, b""):
            with server.accept()[0] as connection:
                connection.send(packet)
        tell()

    with child(body) as process:
        assert ask(mesh.path, ControlRequest("ping")).text == "come again"
        with pytest.raises(ControlUnavailable, match="turned the request away"):
            ask(mesh.path, ControlRequest("ping"))
        process.started()
    server.close()
