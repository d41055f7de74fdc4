"""The control socket of a live daemon under bad clients: none of them holds it up."""

from __future__ import annotations

import contextlib
import grp
import os
import signal
import socket

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.control import SOCKET, ControlReply, ControlRequest, ControlUnavailable, ask
from tests.daemons import daemon, until
from tests.processes import child

pytestmark = pytest.mark.crash

ONE = """
[workers.first]
worker = "tests.sample_workers:Counting"
"""


def connected(one):
    """A connection to the daemon that says nothing yet."""
    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        client.connect(str(one.mesh_path / SOCKET))  # waits while the queue is full
        client.settimeout(30.0)
    except OSError:
        client.close()
        raise
    return client


def sent(one, packet):
    """What the daemon answers to one packet; None when it just closes."""
    with connected(one) as client:
        client.send(packet)
        answer = client.recv(65536)
        return msgspec.msgpack.decode(answer, type=ControlReply) if answer else None


requests = st.builds(
    ControlRequest,
    command=st.sampled_from(["ping", "start", "reset", "break-lock"]) | st.text(max_size=20),
    worker=st.sampled_from(["first", ""]) | st.text(max_size=40),
    version=st.integers(-(2**63), 2**63 - 1),
).filter(lambda r: r.command not in {"shutdown", "upgrade", "reload", "stop", "restart"})


def test_garbage_is_answered_and_changes_nothing(tmp_path):
    """Random bytes, random requests, truncated ones: an answer each, and the worker untouched."""
    with daemon(tmp_path, ONE, "[supervisor]\nrequests_per_s = 10000") as one:
        pid = one.running("first")

        @settings(max_examples=150, suppress_health_check=list(HealthCheck))
        @given(
            st.binary(min_size=1, max_size=300)
            | requests.map(msgspec.msgpack.encode)
            | requests.map(lambda r: msgspec.msgpack.encode(r)[:-1])
            | requests.map(msgspec.json.encode)
        )
        def fuzz(packet):
            reply = sent(one, packet)
            assert reply is not None
            assert reply.text

        fuzz()
        assert sent(one, b"x" * 60_000).ok is False
        assert one.running("first") == pid
        assert one.status()["incidents"] == []


def test_slow_and_half_open_clients_do_not_hold_the_daemon_up(tmp_path):
    """A hundred silent connections: others are served, a worker is healed, they are closed."""
    with daemon(tmp_path, ONE) as one, contextlib.ExitStack() as stack:
        pid = one.running("first")
        silent = [stack.enter_context(connected(one)) for _ in range(100)]
        assert ask(one.mesh_path, ControlRequest("ping")).ok
        os.kill(pid, signal.SIGKILL)
        one.running("first", other_than=pid)
        assert all(client.recv(1) == b"" for client in silent)


def test_a_crowd_that_speaks_at_once(tmp_path):
    """More clients than there is room for, all with a request, found in one look: no harm."""
    many = "[supervisor]\nrequests_per_s = 10000"
    with daemon(tmp_path, ONE, many) as one, contextlib.ExitStack() as stack:
        one.running("first")
        packet = msgspec.msgpack.encode(ControlRequest("ping"))
        for _ in range(3):
            waiting = [stack.enter_context(connected(one)) for _ in range(31)]
            until("accepted", lambda: ask(one.mesh_path, ControlRequest("ping")).ok)
            one.process.send_signal(signal.SIGSTOP)
            late = [stack.enter_context(connected(one)) for _ in range(40)]
            for client in [*late, *waiting]:
                client.send(packet)
            one.process.send_signal(signal.SIGCONT)
            for client in [*late, *waiting]:
                with contextlib.suppress(ConnectionResetError):
                    client.recv(65536)
        assert ask(one.mesh_path, ControlRequest("ping")).ok
        assert one.process.poll() is None


def test_client_that_does_not_read_loses_its_reply_alone(tmp_path):
    """Asked and gone, asked and never read: the daemon goes on."""
    with daemon(tmp_path, ONE) as one, contextlib.ExitStack() as stack:
        one.running("first")
        packet = msgspec.msgpack.encode(ControlRequest("ping"))
        for _ in range(30):
            stack.enter_context(connected(one)).send(packet)
        for _ in range(30):
            with connected(one) as client:
                client.send(packet)
        assert ask(one.mesh_path, ControlRequest("ping")).ok


def test_too_many_requests_are_refused_for_a_while(tmp_path):
    """Over the rate: an answer that says so; a moment later it is served again."""
    with daemon(tmp_path, ONE, "[supervisor]\nrequests_per_s = 5") as one:
        one.running("first")
        texts = [ask(one.mesh_path, ControlRequest("ping")).text for _ in range(20)]
        assert any("too many requests" in text for text in texts)
        until("served again", lambda: ask(one.mesh_path, ControlRequest("ping")).ok)


def test_newer_version_is_told_to_upgrade_the_daemon(tmp_path):
    """A request of a later protocol is refused with both versions."""
    with daemon(tmp_path, ONE) as one:
        one.running("first")
        reply = ask(one.mesh_path, ControlRequest("ping", version=2))
        assert not reply.ok
        assert "speaks version 1" in reply.text


def as_user(uid, groups, action):
    """Run `action` in a child as another user and give what it tells."""

    def body(tell):
        os.setgroups(groups)
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        tell(action())

    with child(body) as process:
        return process.started()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_roles_come_from_the_peer(tmp_path):
    """Strangers are refused by the file mode; groups may read or control as configured."""
    extra = '[supervisor]\ncontrol_group = "adm"\nread_group = "games"'
    adm, games = grp.getgrnam("adm").gr_gid, grp.getgrnam("games").gr_gid
    with daemon(tmp_path, ONE, extra) as one:
        one.running("first")
        one.mesh_path.chmod(0o755)

        def asking(command):
            return lambda: ask(one.mesh_path, ControlRequest(command, "first")).text

        assert "pid" in as_user(65534, [games], asking("ping"))
        assert "may not restart" in as_user(65534, [games], asking("restart"))
        assert "may not ping" in as_user(65534, [], asking("ping"))
        assert "first: " in as_user(65534, [adm], asking("restart"))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_without_groups_the_socket_is_private(tmp_path):
    """Nobody else even connects."""
    with daemon(tmp_path, ONE) as one:
        one.running("first")
        one.mesh_path.chmod(0o755)

        def action():
            try:
                return ask(one.mesh_path, ControlRequest("ping")).text
            except ControlUnavailable as error:
                return str(error)

        assert "Permission denied" in as_user(65534, [], action)
