"""A schema registry over HTTP: the part of Confluent's API that Kafka clients use.

Schemas are kept in an append-only file, so that their ids survive a restart. Requests are answered
by an HttpServer in the worker's loop. Compatibility is not checked, so NONE is the only level.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from workers.broker.faults import PATH, Faults, FaultSwitches, RegistryFaults
from workers.broker.http_server import Answer, HttpServer, Request

CONTENT_TYPE: Final = "application/vnd.schemaregistry.v1+json"
_NOT_FOUND_SUBJECT: Final = 40401
_NOT_FOUND_VERSION: Final = 40402
_NOT_FOUND_SCHEMA: Final = 40403
_UNREADABLE: Final = 42201
_LEVEL: Final = "NONE"
REGISTER_S: Final = 10.0


class Schemas:
    """Schemas by id and by subject; ids count from 1."""

    def __init__(self, path: Path) -> None:
        """Read the schemas that an earlier registry wrote to `path`, without a torn last line."""
        self._path = path
        self._texts: dict[int, str] = {}
        self._ids: dict[str, int] = {}
        self._subjects: dict[str, list[int]] = {}
        text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        self._torn = bool(text) and not text.endswith("\n")
        for line in text.splitlines():
            try:
                subject, schema = json.loads(line)
                self._add(subject, schema)
            except (ValueError, TypeError):
                continue

    def register(self, subject: str, schema: str) -> int:
        """Write a schema to disk, then add it to a subject.

        Returns:
            Its id; text that is not JSON is a ValueError of the parser.
        """
        known = self._ids.get(_canonical(schema))
        if known is not None and known in self._subjects.get(subject, []):
            return known
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n" * self._torn + json.dumps([subject, schema]) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._torn = False
        return self._add(subject, schema)

    def text(self, schema_id: int) -> str | None:
        """Return a schema by id."""
        return self._texts.get(schema_id)

    def subjects(self) -> list[str]:
        """Return the subjects."""
        return list(self._subjects)

    def versions(self, subject: str) -> list[int]:
        """Return the ids of a subject, oldest version (1) first; empty for an unknown one."""
        return self._subjects.get(subject, [])

    def places(self, schema_id: int) -> list[tuple[str, int]]:
        """Return every (subject, version) under which a schema is registered."""
        return [
            (subject, ids.index(schema_id) + 1)
            for subject, ids in self._subjects.items()
            if schema_id in ids
        ]

    def __len__(self) -> int:
        """Number of schemas."""
        return len(self._texts)

    def id_of(self, schema: str) -> int | None:
        """Return the id of a schema; text that is not JSON is a ValueError of the parser."""
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


class RegistryServer:
    """Serves schemas over HTTP on loopback."""

    def __init__(
        self,
        schemas: Schemas,
        port: int,
        *,
        switches: FaultSwitches | None = None,
        switchable: bool = False,
        expect: Callable[[float], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """Listen; a port that is in use is an OSError of the socket.

        Args:
            schemas: The schemas to serve.
            port: The port; 0: any free one.
            switches: The faults to apply.
            switchable: Whether requests to PATH may switch faults.
            expect: Announces how many seconds a step may take: a schema is written to disk before
                it is used, and the first one loads the library that checks it.
        """
        self._expect = expect
        self.schemas = schemas
        self.switches = switches or FaultSwitches()
        self._switchable = switchable
        self._server = HttpServer(port, self._answer, CONTENT_TYPE)

    @property
    def url(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def requests(self) -> int:
        """Number of requests answered."""
        return self._server.requests

    @property
    def refused(self) -> int:
        """Number of connections refused."""
        return self._server.refused

    @property
    def failing(self) -> int:
        """How many further requests are answered with 503; can be set."""
        faults = self.switches.faults.registry
        return faults.count if faults.status else 0

    @failing.setter
    def failing(self, count: int) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE
        self.switches.apply(Faults(registry=RegistryFaults(count=count, status=status)))

    def serve(self) -> int:
        """Wait up to 0.1 s for requests, answer them, and return how many."""
        return self._server.serve()

    def server_close(self) -> None:
        """Stop listening."""
        self._server.close()

    def _answer(self, request: Request) -> Answer:
        path = request.path.partition("?")[0].rstrip("/")
        if path == PATH and self._switchable:
            return self.switches.answer(request)
        with self._expect(REGISTER_S) if request.method == "POST" else nullcontext():
            answer = _answer(self.schemas, request.method, path, request.body)
        return self.switches.spoil(answer)


def _fault(status: int, code: int, message: str) -> Answer:
    return Answer(status, {"error_code": code, "message": message})


def _answer(schemas: Schemas, method: str, path: str, body: bytes) -> Answer:
    """Route a request; a known path with another method is answered with 405."""
    known = False
    for pattern, methods in _ROUTES:
        if match := pattern.fullmatch(path):
            known = True
            if method in methods:
                arguments = [unquote(part) if part else "" for part in match.groups()]
                return methods[method](schemas, body, *arguments)
    if known:
        return _fault(HTTPStatus.METHOD_NOT_ALLOWED, 405, f"HTTP 405 Method Not Allowed: {method}")
    return _fault(HTTPStatus.NOT_FOUND, 404, f"HTTP 404 Not Found: {path}")


def _schema(schemas: Schemas, _: bytes, number: str) -> Answer:
    text = schemas.text(int(number))
    if text is None:
        return _fault(HTTPStatus.NOT_FOUND, _NOT_FOUND_SCHEMA, f"Schema {number} not found")
    return Answer(HTTPStatus.OK, {"schema": text, "schemaType": "AVRO"})


def _schema_text(schemas: Schemas, body: bytes, number: str) -> Answer:
    found = _schema(schemas, body, number)
    if found.status != HTTPStatus.OK:
        return found
    return Answer(HTTPStatus.OK, json.loads(found.content["schema"]))


def _places(schemas: Schemas, body: bytes, number: str, what: str) -> Answer:
    if (found := _schema(schemas, body, number)).status != HTTPStatus.OK:
        return found
    places = schemas.places(int(number))
    if what == "subjects":
        return Answer(HTTPStatus.OK, [subject for subject, _ in places])
    return Answer(HTTPStatus.OK, [{"subject": s, "version": v} for s, v in places])


def _versions(schemas: Schemas, _: bytes, subject: str) -> Answer:
    ids = schemas.versions(subject)
    if not ids:
        return _fault(HTTPStatus.NOT_FOUND, _NOT_FOUND_SUBJECT, f"Subject {subject!r} not found")
    return Answer(HTTPStatus.OK, list(range(1, len(ids) + 1)))


def _one_version(schemas: Schemas, body: bytes, subject: str, which: str, text: str) -> Answer:
    if (found := _versions(schemas, body, subject)).status != HTTPStatus.OK:
        return found
    ids = schemas.versions(subject)
    number = len(ids) if which in {"latest", "-1"} else int(which)
    if not 1 <= number <= len(ids):
        message = f"Version {which} of {subject!r} not found"
        return _fault(HTTPStatus.NOT_FOUND, _NOT_FOUND_VERSION, message)
    version = _version(schemas, subject, number)
    return Answer(HTTPStatus.OK, json.loads(version["schema"]) if text else version)


def _version(schemas: Schemas, subject: str, number: int) -> dict[str, Any]:
    schema_id = schemas.versions(subject)[number - 1]
    text = schemas.text(schema_id)
    return {
        "subject": subject,
        "version": number,
        "id": schema_id,
        "schema": text,
        "schemaType": "AVRO",
    }


def _register(schemas: Schemas, body: bytes, subject: str) -> Answer:
    schema = _given(body)
    if isinstance(schema, Answer):
        return schema
    if schemas.id_of(schema) is None and (why := _not_avro(schema)):
        return _fault(HTTPStatus.UNPROCESSABLE_ENTITY, _UNREADABLE, f"Invalid schema: {why}")
    try:
        return Answer(HTTPStatus.OK, {"id": schemas.register(subject, schema)})
    except OSError as error:  # a full disk does not end the broker
        return _fault(HTTPStatus.INTERNAL_SERVER_ERROR, 50001, f"Error in the store: {error}")


def _look_up(schemas: Schemas, body: bytes, subject: str) -> Answer:
    schema = _given(body)
    if isinstance(schema, Answer):
        return schema
    ids = schemas.versions(subject)
    if not ids:
        return _fault(HTTPStatus.NOT_FOUND, _NOT_FOUND_SUBJECT, f"Subject {subject!r} not found")
    known = schemas.id_of(schema)
    if known is None or known not in ids:
        return _fault(HTTPStatus.NOT_FOUND, _NOT_FOUND_SCHEMA, "Schema not found")
    return Answer(HTTPStatus.OK, _version(schemas, subject, ids.index(known) + 1))


def _compatible(_schemas: Schemas, body: bytes, *_: str) -> Answer:
    schema = _given(body)
    return schema if isinstance(schema, Answer) else Answer(HTTPStatus.OK, {"is_compatible": True})


def _set_level(_schemas: Schemas, body: bytes, *_: str) -> Answer:
    try:
        level = json.loads(body)["compatibility"]
    except (ValueError, KeyError, TypeError) as error:
        return _fault(HTTPStatus.UNPROCESSABLE_ENTITY, 42203, f"no compatibility level: {error}")
    if level != _LEVEL:
        message = f"level {level!r}: this registry checks nothing; only {_LEVEL} can be set"
        return _fault(HTTPStatus.UNPROCESSABLE_ENTITY, 42203, message)
    return Answer(HTTPStatus.OK, {"compatibility": level})


def _constant(content: Any) -> Callable[..., Answer]:
    return lambda *_: Answer(HTTPStatus.OK, content)


def _given(body: bytes) -> str | Answer:
    """Return the schema text in a body, or the error to answer with."""
    try:
        content = json.loads(body)
        schema = content["schema"]
        json.loads(schema)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return _fault(HTTPStatus.UNPROCESSABLE_ENTITY, _UNREADABLE, f"Invalid schema: {error}")
    if content.get("schemaType", "AVRO") != "AVRO" or content.get("references"):
        message = "Invalid schema: only Avro without references is kept here"
        return _fault(HTTPStatus.UNPROCESSABLE_ENTITY, _UNREADABLE, message)
    return str(schema)


def _not_avro(schema: str) -> str:
    """Return why a JSON text is not an Avro schema; empty if it is one."""
    from fastavro.schema import (  # noqa: PLC0415 - only registrations need it
        SchemaParseException,
        UnknownType,
        parse_schema,
    )

    try:
        parse_schema(json.loads(schema))
    except (SchemaParseException, UnknownType) as error:
        return str(error) or type(error).__name__
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


_Route = tuple[re.Pattern[str], dict[str, Callable[..., Answer]]]
_ROUTES: Final[tuple[_Route, ...]] = tuple(
    (re.compile(pattern), methods)
    for pattern, methods in (
        ("", {"GET": _constant({})}),
        (r"/subjects", {"GET": lambda schemas, _: Answer(HTTPStatus.OK, schemas.subjects())}),
        (r"/subjects/([^/]+)", {"POST": _look_up}),
        (r"/subjects/([^/]+)/versions", {"GET": _versions, "POST": _register}),
        (r"/subjects/([^/]+)/versions/(\d{1,9}|latest|-1)(/schema)?", {"GET": _one_version}),
        (r"/schemas/types", {"GET": _constant(["AVRO"])}),
        (r"/schemas/ids/(\d{1,9})", {"GET": _schema}),
        (r"/schemas/ids/(\d{1,9})/schema", {"GET": _schema_text}),
        (r"/schemas/ids/(\d{1,9})/(subjects|versions)", {"GET": _places}),
        (
            r"/config(?:/([^/]+))?",
            {"GET": _constant({"compatibilityLevel": _LEVEL}), "PUT": _set_level},
        ),
        (r"/mode(?:/([^/]+))?", {"GET": _constant({"mode": "READWRITE"})}),
        (r"/compatibility/subjects/([^/]+)/versions(?:/([^/]+))?", {"POST": _compatible}),
    )
)
