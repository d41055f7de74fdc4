"""Writer schemas by id: memory, then disk, then the registry over HTTP.

A schema that was fetched once is kept on disk, so a restart needs no registry. An id that the
registry does not know is remembered for a while: fifty malformed messages cost one request, not 50.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final

from workers.ingest.errors import RegistryUnavailable, SchemaUnknown
from workers.runtime.atomic_file import write_whole

NOT_FOUND: Final = 404
MAX_SCHEMA_BYTES: Final = 4 << 20
MAX_BACKOFF_S: Final = 30.0  # between two requests after failures


def _unannounced(_: float) -> AbstractContextManager[None]:
    return nullcontext()


class SchemaRegistry:
    """A client for the part of a Confluent-compatible registry that a reader needs."""

    def __init__(
        self,
        url: str,
        cache: Path,
        unknown_s: float,
        *,
        clock: Callable[[], float] = time.monotonic,
        timeout: float = 2.0,
        auth: str = "",
        backoff_s: float = 0.0,
        expect: Callable[[float], AbstractContextManager[None]] = _unannounced,
    ) -> None:
        """Set up the client; nothing is requested yet.

        Args:
            url: of the registry.
            cache: folder of the schemas that are known.
            unknown_s: how long an id that the registry does not know is not requested again, s.
            clock: monotonic, s.
            timeout: of a request, s.
            auth: "user:password" for basic authentication; empty: no authentication.
            backoff_s: pause after a failure, doubled with each further failure, with jitter, s.
            expect: entered with the seconds that a request may take, so that the supervisor does
                not take it for a hang.

        """
        self.url = url
        self.requests = 0
        self._cache = cache
        self._unknown_s = unknown_s
        self._clock = clock
        self._timeout = timeout
        self._expect = expect
        self._auth = auth
        self._backoff_s = backoff_s
        self._failures = 0
        self._not_before = 0.0
        self._last_failure = ""
        self._texts: dict[int, str] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, schema_id: int) -> str:
        """Return the text of a schema.

        Raises:
            SchemaUnknown: the registry does not know `schema_id`, or did not a short while ago.
            RegistryUnavailable: the registry does not answer, or did not a short while ago.

        """
        if text := self._texts.get(schema_id):
            return text
        path = self._cache / f"{schema_id}.json"
        if path.exists():
            self._texts[schema_id] = path.read_text(encoding="utf-8")
            return self._texts[schema_id]
        since = self._unknown.get(schema_id)
        if since is not None and self._clock() - since < self._unknown_s:
            raise SchemaUnknown(f"schema id {schema_id} is not in {self.url}")
        text = self._request(schema_id)
        self._texts[schema_id] = text
        with contextlib.suppress(OSError):  # without room for it the next start asks once more
            write_whole(path, text.encode(), durable=False)
        return text

    def _request(self, schema_id: int) -> str:
        """Request a schema, unless a request failed within the backoff."""
        now = self._clock()
        if now < self._not_before:
            raise RegistryUnavailable(self._last_failure)
        try:
            with self._expect(2 * self._timeout + 1.0):
                text = self._fetch(schema_id)
        except RegistryUnavailable as error:
            delay = min(self._backoff_s * 2**self._failures, MAX_BACKOFF_S)
            delay = max(delay * random.uniform(0.5, 1.0), min(error.retry_after_s, MAX_BACKOFF_S))  # noqa: S311 - jitter
            self._failures = min(self._failures + 1, 10)
            self._not_before, self._last_failure = self._clock() + delay, str(error)
            raise
        except SchemaUnknown:
            self._failures = 0
            raise
        self._failures = 0
        return text

    def _fetch(self, schema_id: int) -> str:
        self.requests += 1
        url = f"{self.url}/schemas/ids/{schema_id}"
        request = urllib.request.Request(url)  # noqa: S310 - configured
        if self._auth:
            token = base64.b64encode(self._auth.encode()).decode()
            request.add_header("Authorization", f"Basic {token}")
        try:
            with urllib.request.urlopen(request, timeout=self._timeout) as answer:  # noqa: S310 - as above
                text = json.loads(self._body(answer))["schema"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == NOT_FOUND:
                    self._unknown[schema_id] = self._clock()
                    raise SchemaUnknown(f"schema id {schema_id} is not in {self.url}") from error
                raise RegistryUnavailable(
                    f"{url}: HTTP {error.code}", _seconds(error.headers.get("Retry-After"))
                ) from error
        except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException) as error:
            raise RegistryUnavailable(f"{url}: {type(error).__name__}: {error}") from error
        if not isinstance(text, str):
            raise RegistryUnavailable(f"{url}: the answer has no schema")
        return text

    def _body(self, answer: http.client.HTTPResponse) -> bytes:
        """Read an answer within the timeout, up to the size that a schema may have."""
        deadline, body = self._clock() + self._timeout, b""
        while piece := answer.read1(1 << 16):
            body += piece
            if len(body) > MAX_SCHEMA_BYTES or self._clock() > deadline:
                raise ValueError(f"{len(body)} bytes, incomplete after {self._timeout} s")
        return body


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0
