"""The HTTP server under clients that are slow, many, silent, wrong or gone."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.daemons import until
from workers.broker.http_server import MAX_BODY, MAX_CONNECTIONS, MAX_HEAD, Answer, HttpServer


@pytest.fixture
def server():
    """A served server that echoes; the thread stands for the worker's loop."""
    with serving(lambda r: Answer(200, [r.method, r.path, r.body.decode("latin-1")])) as one:
        yield one


@contextlib.contextmanager
def serving(answer):
    """A server and its loop."""
    one = HttpServer(0, answer, "application/json")
    done = threading.Event()

    def loop():
        while not done.is_set():
            one.serve(0.02)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield one
    finally:
        done.set()
        thread.join()
        one.close()


def raw(server, data, *, half_close=False):
    """Everything that is answered to these bytes until the server closes or 10 s are over."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        connection.sendall(data)
        if half_close:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65536):
                received += more
        return received


def ask(server, timeout=10.0):
    """One ordinary request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=timeout)
    connection.request("GET", "/x")
    with contextlib.closing(connection):
        return json.loads(connection.getresponse().read())


def test_bodies_of_any_size_arrive(server):
    """From none to the limit; the connection is closed behind the answer."""
    for size in (0, 1, 70_000, MAX_BODY):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        with contextlib.closing(connection):
            connection.request("POST", f"/{size}", b"y" * size)
            answer = connection.getresponse()
            assert json.loads(answer.read()) == ["POST", f"/{size}", "y" * size]
            assert answer.headers["Connection"] == "close"


def test_slow_clients_hold_nobody_up(server):
    """A hundred connections that send half a request: the next one is answered all the same."""
    with contextlib.ExitStack() as stack:
        for number in range(100):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
            slow.sendall(b"POST /slow HTTP/1.1\r\nContent-Length: 10\r\n\r\n"[: 1 + number % 50])
        for _ in range(20):
            assert ask(server) == ["GET", "/x", ""]
    assert ask(server) == ["GET", "/x", ""]


def test_a_client_that_reads_nothing_holds_nobody_up():
    """An answer larger than the socket's buffers waits for its reader alone."""
    big = "z" * (8 << 20)
    with (
        serving(lambda r: Answer(200, big if r.path == "/big" else [])) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as greedy,
    ):
        greedy.sendall(b"GET /big HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert ask(server) == []
        received = 0
        while more := greedy.recv(1 << 20):
            received += len(more)
        assert received > len(big)


def test_delayed_answers_hold_nobody_up():
    """An answer that is due in a minute does not delay the one that is due now."""
    with (
        serving(lambda r: Answer(200, [], delay_s=60.0 * (r.path == "/late"))) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as late,
    ):
        late.sendall(b"GET /late HTTP/1.1\r\n\r\n")
        assert ask(server) == []


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"),
        (b"GET / HTTP/2.0\r\n\r\n", b"400"),
        (b"GET /" + b"a" * (MAX_HEAD + 10), b"431"),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"413"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"411"),
    ],
)
def test_what_is_no_request_is_refused_and_closed(server, data, status):
    """No HTTP, TLS, too long a head or body, a body of unknown length: a status, then the end."""
    assert raw(server, data).split()[1] == status
    assert ask(server) == ["GET", "/x", ""]


def test_curl_is_told_to_go_on(server):
    """`Expect: 100-continue`, as curl sends it before larger bodies."""
    with socket.create_connection(("127.0.0.1", server.port), 10) as connection:
        head = b"POST /c HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n"
        connection.sendall(head + b"Connection: close\r\n\r\n")
        assert connection.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"ok")
        assert b'"ok"' in connection.recv(1000)


def test_more_connections_than_allowed_are_cut_off(server):
    """Beyond the limit the newest are closed at once; when others go there is room again."""
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_CONNECTIONS):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
        one_more = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), 10))
        assert one_more.recv(10) == b""
        assert server.refused == 1

    def answer():
        with contextlib.suppress(ConnectionError):  # the server has not seen them go yet
            return ask(server)

    assert until("there is room again", answer) == ["GET", "/x", ""]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_survived(server, data, ended):
    """Random bytes, also behind the start of a request: the server answers the next client."""
    raw(server, (b"GET /" if ended else b"") + data, half_close=True)
    assert ask(server) == ["GET", "/x", ""]
