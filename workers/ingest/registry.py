"""Writer schemas by id: memory, then disk, then the registry over HTTP.

What was seen once is kept on disk, so that a restart needs no registry. An id that the registry
does not know is remembered for a while: fifty poison messages cost one request, not fifty.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from workers.ingest.errors import RegistryUnavailable, SchemaUnknown

NOT_FOUND = 404


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
    ) -> None:
        """Use `cache` as the folder of known schemas; times in seconds."""
        self.url = url
        self.requests = 0
        self._cache = cache
        self._unknown_s = unknown_s
        self._clock = clock
        self._timeout = timeout
        self._texts: dict[int, str] = {}
        self._unknown: dict[int, float] = {}

    def schema(self, schema_id: int) -> str:
        """Give the schema text. Raises SchemaUnknown, RegistryUnavailable."""
        if text := self._texts.get(schema_id):
            return text
        path = self._cache / f"{schema_id}.json"
        if path.exists():
            self._texts[schema_id] = path.read_text(encoding="utf-8")
            return self._texts[schema_id]
        since = self._unknown.get(schema_id)
        if since is not None and self._clock() - since < self._unknown_s:
            raise SchemaUnknown(f"schema id {schema_id} is not in {self.url}")
        text = self._fetch(schema_id)
        self._texts[schema_id] = text
        self._cache.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)  # noqa: PTH105 - the atomic one
        return text

    def _fetch(self, schema_id: int) -> str:
        self.requests += 1
        url = f"{self.url}/schemas/ids/{schema_id}"
        try:
            with urllib.request.urlopen(url, timeout=self._timeout) as answer:  # noqa: S310 - configured
                text = json.load(answer)["schema"]
        except urllib.error.HTTPError as error:
            with error:
                if error.code == NOT_FOUND:
                    self._unknown[schema_id] = self._clock()
                    raise SchemaUnknown(f"schema id {schema_id} is not in {self.url}") from error
                raise RegistryUnavailable(f"{url}: HTTP {error.code}") from error
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RegistryUnavailable(f"{url}: {error}") from error
        if not isinstance(text, str):
            raise RegistryUnavailable(f"{url}: an answer without a schema")
        return text
