"""A small schema registry that Confluent's clients can talk to, served from the worker's loop.

Ids are kept in an append-only file, so that a restart gives every schema the id it had. The part
of the API is what serializers and deserializers call; the paths are Confluent's.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

MAX_BODY = 1 << 20
_NOT_FOUND_SCHEMA = 40403
_NOT_FOUND_SUBJECT = 40401
_UNREADABLE = 42201


class Schemas:
    """Schemas by id and by subject; ids count from 1."""

    def __init__(self, path: Path) -> None:
        """Read what an earlier registry wrote to `path`; a torn last line is dropped."""
        self._path = path
        self._texts: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        self._subjects: dict[str, list[int]] = {}
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        for line in lines:
            try:
                subject, schema = json.loads(line)
            except ValueError:
                continue
            self._add(subject, schema)

    def register(self, subject: str, schema: str) -> int:
        """Give the id of a schema under a subject, on disk before it is used. Raises ValueError."""
        known = self._ids.get(_canonical(schema))
        if known is not None and known in self._subjects.get(subject, []):
            return known
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps([subject, schema]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        return self._add(subject, schema)

    def text(self, schema_id: int) -> str | None:
        """Give a schema by id."""
        return self._texts.get(schema_id)

    def subjects(self) -> list[str]:
        """Give the subjects."""
        return list(self._subjects)

    def versions(self, subject: str) -> list[int]:
        """Give the ids of a subject, oldest version (1) first; empty for an unknown one."""
        return self._subjects.get(subject, [])

    def id_of(self, schema: str) -> int | None:
        """Give the id of a schema text. Raises ValueError for text that is no JSON."""
        return self._ids.get(_canonical(schema))

    def _add(self, subject: str, schema: str) -> int:
        schema_id = self._ids.setdefault(_canonical(schema), len(self._ids) + 1)
        self._texts.setdefault(schema_id, schema)
        versions = self._subjects.setdefault(subject, [])
        if schema_id not in versions:
            versions.append(schema_id)
        return schema_id


def _canonical(schema: str) -> str:
    return json.dumps(json.loads(schema), sort_keys=True)


Answer = tuple[int, Any]


class RegistryServer(HTTPServer):
    """Answers one request a call of `serve`; a slow client is cut off after two seconds."""

    def __init__(self, schemas: Schemas, port: int) -> None:
        """Listen on loopback. Raises OSError where the port is taken."""
        super().__init__(("127.0.0.1", port), _Exchange)
        self.schemas = schemas
        self.timeout = 0.1
        self.requests = 0
        self.failing = 0  # answer this many requests with 503 (for tests of an outage)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def serve(self) -> int:
        """Wait up to 0.1 s for a request and answer it; gives how many were answered."""
        before = self.requests
        self.handle_request()
        return self.requests - before


class _Exchange(BaseHTTPRequestHandler):
    server: RegistryServer
    timeout = 2.0

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Stay silent: the worker logs what matters."""

    def do_GET(self) -> None:
        """Answer a look-up."""
        self._answer(lambda: _get(self.server.schemas, self.path.partition("?")[0]))

    def do_POST(self) -> None:
        """Answer a registration or a search by text."""
        length = int(self.headers.get("Content-Length", 0))
        if not 0 < length <= MAX_BODY:
            self._answer(lambda: _fault(422, _UNREADABLE, f"a body of {length} bytes"))
            return
        body = self.rfile.read(length)
        self._answer(lambda: _post(self.server.schemas, self.path.partition("?")[0], body))

    def _answer(self, make: Callable[[], Answer]) -> None:
        self.server.requests += 1
        if self.server.failing > 0:
            self.server.failing -= 1
            code, content = _fault(503, 50301, "failing on request")
        else:
            code, content = make()
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/vnd.schemaregistry.v1+json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _fault(status: int, code: int, message: str) -> Answer:
    return status, {"error_code": code, "message": message}


def _get(schemas: Schemas, path: str) -> Answer:
    if match := re.fullmatch(r"/schemas/ids/(\d+)", path):
        text = schemas.text(int(match[1]))
        if text is None:
            return _fault(404, _NOT_FOUND_SCHEMA, f"Schema {match[1]} not found")
        return HTTPStatus.OK, {"schema": text, "schemaType": "AVRO"}
    if path == "/subjects":
        return HTTPStatus.OK, schemas.subjects()
    if match := re.fullmatch(r"/subjects/([^/]+)/versions(?:/(\d+|latest))?", path):
        return _versions(schemas, match[1], match[2])
    return _fault(404, 404, f"HTTP 404 Not Found: {path}")


def _versions(schemas: Schemas, subject: str, which: str | None) -> Answer:
    ids = schemas.versions(subject)
    if not ids:
        return _fault(404, _NOT_FOUND_SUBJECT, f"Subject {subject!r} not found")
    if which is None:
        return HTTPStatus.OK, list(range(1, len(ids) + 1))
    number = len(ids) if which == "latest" else int(which)
    if not 1 <= number <= len(ids):
        return _fault(404, 40402, f"Version {which} of {subject!r} not found")
    return HTTPStatus.OK, _version(schemas, subject, number)


def _version(schemas: Schemas, subject: str, number: int) -> dict[str, Any]:
    schema_id = schemas.versions(subject)[number - 1]
    text = schemas.text(schema_id)
    return {"subject": subject, "version": number, "id": schema_id, "schema": text}


def _post(schemas: Schemas, path: str, body: bytes) -> Answer:
    try:
        schema = json.loads(body)["schema"]
        known = schemas.id_of(schema)
    except (ValueError, KeyError, TypeError) as error:
        return _fault(422, _UNREADABLE, f"Invalid schema: {error}")
    if match := re.fullmatch(r"/subjects/([^/]+)/versions", path):
        return HTTPStatus.OK, {"id": schemas.register(match[1], schema)}
    if match := re.fullmatch(r"/subjects/([^/]+)", path):
        ids = schemas.versions(match[1])
        if known is None or known not in ids:
            return _fault(404, _NOT_FOUND_SCHEMA, "Schema not found")
        return HTTPStatus.OK, _version(schemas, match[1], ids.index(known) + 1)
    return _fault(404, 404, f"HTTP 404 Not Found: {path}")
