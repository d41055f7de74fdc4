"""Rows of TICK_DTYPE to Avro messages in Confluent's framing, and to their partition."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
import zlib
from typing import TYPE_CHECKING, Any

import fastavro
import numpy as np

from workers.market_schema import FRAME, MAGIC, QUOTE_SCHEMA, QUOTE_SCHEMA_TEXT, subject

if TYPE_CHECKING:
    from workers.market_data.archive import Rows

#: field of the message, field of the row, and the row's value that stands for "not given"
_NULLABLE = (
    ("ts_recv", "ts_recv", 0),
    ("sequence", "sequence", -1),
    ("flags", "source_flags", 0),
)
_ABSENT_IF_NAN = ("bid_size", "ask_size", "underlying_price", "rho")
_PLAIN = (
    "bid", "ask", "last", "volume", "open_interest", "implied_volatility", "delta", "gamma",
    "vega", "theta",
)  # fmt: skip


class RegistryUnavailable(Exception):
    """The schema registry did not take the schema; worth another try."""


def register_schema(registry_url: str, topic: str, timeout: float = 5.0) -> int:
    """Register QUOTE_SCHEMA for `topic` and give its id. Raises RegistryUnavailable."""
    url = f"{registry_url}/subjects/{subject(topic)}/versions"
    body = json.dumps({"schema": QUOTE_SCHEMA_TEXT}).encode()
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - configured
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - as above
            return int(json.load(answer)["id"])
    except (OSError, ValueError, KeyError, urllib.error.HTTPError) as error:
        raise RegistryUnavailable(f"{url}: {error}") from error


class Encoder:
    """Encodes with one schema id."""

    def __init__(self, schema_id: int) -> None:
        """Parse the schema once."""
        self._schema = fastavro.parse_schema(QUOTE_SCHEMA)
        self._head = FRAME.pack(MAGIC, schema_id)

    def encode(self, rows: Rows) -> list[bytes]:
        """Give one message a row."""
        buffer = io.BytesIO()
        messages = []
        for record in records(rows):
            buffer.seek(0)
            buffer.truncate()
            buffer.write(self._head)
            fastavro.schemaless_writer(buffer, self._schema, record)
            messages.append(buffer.getvalue())
        return messages


def records(rows: Rows) -> list[dict[str, Any]]:
    """Give rows as the dicts that the schema describes; absent optional fields are None."""
    columns: dict[str, list[Any]] = {
        "symbol": [s.decode() for s in rows["symbol"].tolist()],
        "timestamp": rows["ts_event"].tolist(),
        "venue": [v.decode() or None for v in rows["venue"].tolist()],
    }
    for name in _PLAIN:
        columns[name] = rows[name].tolist()
    for name, source, absent in _NULLABLE:
        columns[name] = [None if v == absent else v for v in rows[source].tolist()]
    for name in _ABSENT_IF_NAN:
        columns[name] = [None if v != v else v for v in rows[name].tolist()]  # noqa: PLR0124 - NaN
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def partitions(rows: Rows, count: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Give each row's partition: the same symbol always goes to the same one."""
    symbols, inverse = np.unique(rows["symbol"], return_inverse=True)
    chosen = np.array([zlib.crc32(symbol) % count for symbol in symbols.tolist()], np.int64)
    return chosen[inverse]
