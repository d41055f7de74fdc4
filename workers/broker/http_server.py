"""A small HTTP/1.1 server in one thread, in which slow clients do not delay others.

All sockets are non-blocking, and a connection carries one request. The caller of `serve` is the
only thread, so its heartbeat covers the server too. Bodies need a Content-Length; the sizes of
headers and bodies, the number of connections and the duration of a request are limited. Answers may
be delayed (for tests of a slow server) without delaying other clients.
"""

from __future__ import annotations

import json
import re
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

MAX_HEAD: Final = 1 << 14
MAX_BODY: Final = 1 << 20
MAX_CONNECTIONS: Final = 256
REQUEST_S: Final = 10.0  # from a connection to the last byte of its request
BACKLOG: Final = 128
_LENGTH = re.compile(rb"^content-length:[ \t]*(\d+)[ \t]*$", re.IGNORECASE | re.MULTILINE)
_CHUNKED = re.compile(rb"^transfer-encoding:", re.IGNORECASE | re.MULTILINE)
_CONTINUE = re.compile(rb"^expect:[ \t]*100-continue", re.IGNORECASE | re.MULTILINE)
_HTML: Final = b"<html><body>The server is on a coffee break.</body></html>"
_START = re.compile(rb"([A-Z]+) (\S+) HTTP/1\.[01]")


@dataclass(frozen=True, slots=True)
class Request:
    """One request."""

    method: str
    path: str  # as sent, with the query
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """A status with JSON content; `delay_s` and `garbage` simulate a faulty server."""

    status: int
    content: Any = None
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    garbage: str = ""  # text, cut or drop: see workers.broker.faults


@dataclass(slots=True, eq=False)
class _Connection:
    socket: socket.socket
    since: float  # monotonic s of its start; once it is answered, of the last bytes sent
    received: bytearray = field(default_factory=bytearray)
    sending: bytearray = field(default_factory=bytearray)
    send_at: float = 0.0
    answered: bool = False
    sent_continue: bool = False


class HttpServer:
    """Listens on loopback; each call of `serve` handles the pending events."""

    def __init__(self, port: int, answer: Callable[[Request], Answer], content_type: str) -> None:
        """Listen on loopback; a port that is in use is an OSError of the socket.

        Args:
            port: The port; 0: any free one.
            answer: Called with each request.
            content_type: Content-Type of every answer.
        """
        self._answer = answer
        self._content_type = content_type
        self._listener = socket.create_server(("127.0.0.1", port), backlog=BACKLOG)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._connections: set[_Connection] = set()
        self.requests = 0
        self.refused = 0  # connections refused: too many, too slow, too long, or not HTTP

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._listener.getsockname()[1])

    def serve(self, wait_s: float = 0.1) -> int:
        """Wait up to `wait_s` seconds for events and handle them.

        Returns:
            How many requests were answered.
        """
        before = self.requests
        now = time.monotonic()
        due = [c.send_at - now for c in self._connections if c.send_at > now]
        for key, events in self._selector.select(max(0.0, min([wait_s, *due]))):
            connection = key.data
            if connection is None:
                self._accept()
            elif events & selectors.EVENT_WRITE:
                self._send(connection)
            else:
                self._receive(connection)
        self._expire(time.monotonic())
        return self.requests - before

    def close(self) -> None:
        """Close every connection and stop listening."""
        for connection in list(self._connections):
            self._drop(connection)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                accepted, _ = self._listener.accept()
            except OSError:  # no more clients, one that left, or no free descriptor: try later
                return
            accepted.setblocking(False)
            connection = _Connection(accepted, time.monotonic())
            if len(self._connections) >= MAX_CONNECTIONS:
                self.refused += 1
                accepted.close()
                continue
            self._connections.add(connection)
            self._selector.register(accepted, selectors.EVENT_READ, connection)

    def _receive(self, connection: _Connection) -> None:
        try:
            data = connection.socket.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._drop(connection)
            return
        if not data:
            self._drop(connection)
            return
        connection.received += data
        self._take_request(connection)

    def _take_request(self, connection: _Connection) -> None:
        """Answer the request of a connection once it was received completely."""
        head, separator, _ = bytes(connection.received[: MAX_HEAD + 4]).partition(b"\r\n\r\n")
        if not separator:
            if len(connection.received) > MAX_HEAD:
                self._refuse(connection, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
            return
        lines = head.replace(b"\r\n", b"\n")
        start = _START.match(lines)
        found = _LENGTH.search(lines)
        length = int(found[1]) if found else 0
        if start is None:
            self._refuse(connection, HTTPStatus.BAD_REQUEST)
        elif _CHUNKED.search(lines):
            self._refuse(connection, HTTPStatus.LENGTH_REQUIRED)
        elif length > MAX_BODY:
            self._refuse(connection, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        elif len(connection.received) - len(head) - 4 < length:
            if _CONTINUE.search(lines) and not connection.sent_continue:
                connection.sent_continue = True
                connection.sending += b"HTTP/1.1 100 Continue\r\n\r\n"
                self._send(connection)
        else:
            body = bytes(connection.received[len(head) + 4 : len(head) + 4 + length])
            request = Request(start[1].decode(), start[2].decode("latin-1"), body)
            self._reply(connection, self._answer(request))

    def _reply(self, connection: _Connection, answer: Answer) -> None:
        self.requests += 1
        if answer.garbage == "drop":
            self._drop(connection)
            return
        body = _HTML if answer.garbage == "text" else json.dumps(answer.content).encode()
        lines = [
            f"HTTP/1.1 {answer.status} {_phrase(answer.status)}",
            f"Content-Type: {self._content_type}",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in answer.headers),
        ]
        sent = body[: len(body) // 2] if answer.garbage == "cut" else body
        connection.sending += "\r\n".join([*lines, "", ""]).encode() + sent
        connection.answered = True
        if answer.delay_s > 0.0:
            connection.send_at = time.monotonic() + answer.delay_s
            self._selector.unregister(connection.socket)
        else:
            self._send(connection)

    def _refuse(self, connection: _Connection, status: HTTPStatus) -> None:
        """Answer an unacceptable request with an error and close the connection."""
        self.refused += 1
        self._reply(connection, Answer(status, {"error_code": status, "message": status.phrase}))

    def _send(self, connection: _Connection) -> None:
        try:
            sent = connection.socket.send(connection.sending) if connection.sending else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            self._drop(connection)
            return
        del connection.sending[:sent]
        if connection.answered:
            connection.since = time.monotonic()
        if connection.sending:
            self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
        elif connection.answered:
            self._drop(connection)
        else:  # after `100 Continue`: receive the body
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)

    def _expire(self, now: float) -> None:
        """Send delayed answers that are due, and close connections that are too slow."""
        for connection in list(self._connections):
            if connection.send_at:
                if connection.send_at <= now:
                    connection.send_at = 0.0
                    self._selector.register(connection.socket, selectors.EVENT_WRITE, connection)
                    self._send(connection)
            elif now - connection.since > REQUEST_S:
                if connection.answered:  # the client does not read the answer
                    self.refused += 1
                    self._drop(connection)
                else:
                    self._refuse(connection, HTTPStatus.REQUEST_TIMEOUT)

    def _drop(self, connection: _Connection) -> None:
        self._connections.discard(connection)
        if not connection.send_at:
            self._selector.unregister(connection.socket)
        connection.socket.close()


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
