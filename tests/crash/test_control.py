"""The control socket of a live daemon under bad clients: none of them holds it up."""

from __future__ import annotations

import contextlib
import grp
import os
import resource
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from config.supervisor import SupervisorConfig
from mesh.control import SOCKET, ControlReply, ControlRequest, ControlUnavailable, ask
from tests.daemons import daemon, until
from tests.processes import child
from workers.supervision.control_server import ControlServer

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
    target=st.sampled_from(["first", ""]) | st.text(max_size=40),
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

        answer = as_user(65534, [], action)
        assert "permission denied to uid 65534: the socket is root:root, mode 0600" in answer
        assert "control_group" in answer
        one.mesh_path.chmod(0o750)
        os.chown(one.mesh_path, 0, grp.getgrnam("adm").gr_gid)
        answer = as_user(65534, [], action)
        assert "its directory is root:adm, mode 0750; join the group adm" in answer


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
def test_a_group_is_given_by_number_and_a_missing_one_is_told(tmp_path):
    """A number needs no name service; a name that nobody knows gives its role to nobody."""
    extra = '[supervisor]\ncontrol_group = "54321"\nread_group = "no-such-group"'
    with daemon(tmp_path, ONE, extra) as one:
        one.running("first")
        one.mesh_path.chmod(0o755)
        assert "first: " in as_user(
            65534, [54321], lambda: ask(one.mesh_path, ControlRequest("restart", "first")).text
        )
        assert "may not ping" in as_user(
            65534, [54322], lambda: ask(one.mesh_path, ControlRequest("ping")).text
        )
        texts = [event["text"] for event in events(one)]
        assert any("no group 'no-such-group'" in text for text in texts)


def events(one):
    """The daemon's events so far."""
    ring = one.mesh.attach_plain("events")
    return ring.reader(ring.oldest).read(ring.capacity)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root to become another user")
@pytest.mark.skipif(shutil.which("strace") is None, reason="apt-get install strace")
def test_no_name_service_is_asked_by_the_loop(tmp_path):
    """Requests of members and strangers open neither /etc/group nor any other source of names."""
    extra = '[supervisor]\ncontrol_group = "adm"\nread_group = "games"\nrequests_per_s = 1000'
    adm = grp.getgrnam("adm").gr_gid
    trace = tmp_path / "trace"
    with daemon(tmp_path, ONE, extra) as one:
        one.running("first")
        one.mesh_path.chmod(0o755)
        command = ["strace", "-f", "-o", trace, "-e", "trace=openat,connect,recvfrom", "-p"]
        with subprocess.Popen([*command, str(one.process.pid)], stderr=subprocess.PIPE) as tracer:
            try:
                assert b"attached" in tracer.stderr.readline()
                for groups in ([adm], [], [54321]):
                    as_user(65534, groups, lambda: ask(one.mesh_path, ControlRequest("ping")).text)
                until("traced", lambda: trace.read_text().count("recvfrom(") >= 3)
            finally:
                tracer.terminate()
        seen = trace.read_text()
        assert not any(word in seen for word in ("/etc/group", "nsswitch", "nscd", "passwd"))


def serving(path, reserved, tell, until_asked):
    """Serve to the end in this process, to which no new descriptor is allowed.

    The numbers below its highest must be taken. With `reserved` it may still close the server's own
    reserved one and use that number. Tells, at the end, how often the loop was woken.
    """
    selector = selectors.DefaultSelector()
    limits = SupervisorConfig(requests_per_s=10_000.0)
    done = []

    def answer(request):
        done.append(request.command == until_asked)
        return ControlReply(ok=True, text=request.command)

    server = ControlServer(path, selector, limits, time.monotonic)
    server.serve(answer)
    highest = max(int(each.name) for each in Path("/proc/self/fd").iterdir())
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest if reserved else 3, usual[1]))
    signal.signal(signal.SIGUSR1, lambda *_: resource.setrlimit(resource.RLIMIT_NOFILE, usual))
    turns = 0
    tell("serves")
    while not any(done):
        turns += 1
        for key, _ in selector.select(0.1):
            if selector.get_map().get(key.fd) is key:
                key.data(key.fileobj)
        server.maintain(time.monotonic())
    server.close()
    tell(str(turns))


def test_without_descriptors_clients_are_turned_away(mesh_directory):
    """With no descriptor left each client is told so; none is left to wake the loop for ever."""
    held = range(highest_gap())  # the server's own gaps below its highest descriptor are filled

    def body(tell):
        kept = [os.dup(0) for _ in held]
        serving(mesh_directory, True, tell, "end")
        assert kept

    with child(body) as process:
        process.started()
        texts = [ask(mesh_directory, ControlRequest("ping")).text for _ in range(200)]
        assert all("cannot take more connections (Too many open files)" in text for text in texts)
        os.kill(process.pid, signal.SIGUSR1)
        until("served", lambda: ask(mesh_directory, ControlRequest("ping")).ok)
        ask(mesh_directory, ControlRequest("end"))
        assert int(process.started()) < 200 * 2 + 100
        assert process.wait() == 0


def test_without_even_the_reserved_descriptor_the_server_pauses(mesh_directory):
    """Not even an answer is possible: the client waits, the loop sleeps, and later serves it."""

    def body(tell):
        serving(mesh_directory, False, tell, "end")

    with child(body) as process:
        process.started()

        def late(tell):
            tell()
            tell(ask(mesh_directory, ControlRequest("ping"), timeout=60.0).text)

        with child(late) as client:
            client.started()
            before = psutil.Process(process.pid).num_ctx_switches().voluntary

            def slept():
                return psutil.Process(process.pid).num_ctx_switches().voluntary > before + 5

            until("the loop sleeps", slept)
            os.kill(process.pid, signal.SIGUSR1)
            assert client.started() == "ping"
        ask(mesh_directory, ControlRequest("end"))
        assert process.wait() == 0


@pytest.fixture
def mesh_directory():
    """A directory for a socket alone."""
    path = Path(tempfile.mkdtemp(prefix="control-test-", dir="/dev/shm"))
    yield path
    shutil.rmtree(path)


def highest_gap():
    """How many numbers below this process's highest descriptor are free."""
    used = {int(each.name) for each in Path("/proc/self/fd").iterdir()}
    return max(used) + 1 - len(used) + 8


def test_thousands_of_connections(tmp_path):
    """Five thousand that come, say something or nothing, and go: the worker runs on untouched."""
    with daemon(tmp_path, ONE, "[supervisor]\nrequests_per_s = 10000") as one:
        pid = one.running("first")
        packet = msgspec.msgpack.encode(ControlRequest("ping"))
        for number in range(5000):
            with connected(one) as client, contextlib.suppress(BrokenPipeError):
                client.send((packet, packet[:-1], b"\0", b"x" * 60_000)[number % 4])
                if number % 100 == 0:
                    client.recv(65536)
        assert ask(one.mesh_path, ControlRequest("ping")).ok
        assert one.running("first") == pid
        assert one.status()["incidents"] == []
        descriptors = list(Path(f"/proc/{one.process.pid}/fd").iterdir())
        assert len(descriptors) < 80


def test_oversize_is_refused_whole(tmp_path):
    """A packet above the limit is cut by the kernel and is no request; nothing is carried out."""
    with daemon(tmp_path, ONE) as one, connected(one) as client:
        pid = one.running("first")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        packet = msgspec.msgpack.encode(ControlRequest("restart", "first" + "x" * (1 << 17)))
        client.send(packet)
        reply = msgspec.msgpack.decode(client.recv(65536), type=ControlReply)
        assert not reply.ok
        assert "not a request" in reply.text
        assert one.running("first") == pid
