"""Encodes rows of TICK_DTYPE as Avro messages in Confluent's framing, and chooses partitions.

A schema must be a flat record whose fields have the names of columns. It is compiled once to a list
of operations, which C code runs over a batch of rows. A field without a column is written as null
if the schema allows null.
"""

from __future__ import annotations

import json
import struct
import urllib.error
import urllib.request
import zlib
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from workers.contract.dtypes import TICK_DTYPE
from workers.contract.quote_schema import FRAME, MAGIC, QUOTE_SCHEMA, subject
from workers.replayer._encode import encode

if TYPE_CHECKING:
    from workers.market_data.archive import Rows

#: fields whose column has another name
_RENAMED: Final = {"timestamp": "ts_event", "flags": "source_flags"}
#: column values that mean "absent"; NaN and empty strings always do
_ABSENT_VALUES: Final = {"ts_recv": 0, "sequence": -1, "source_flags": 0}
_OPERATION: Final = struct.Struct("<6iq")  # struct operation of _encode.c
_SOURCES: Final = {"S": 0, "i8": 1, "u4": 2, "f8": 3}
_WRITTEN: Final = {"string": 0, "long": 1, "int": 1, "double": 2, "float": 3, "null": 4}
_NEVER, _IF_NAN, _IF_EQUAL, _IF_EMPTY, _ALWAYS = range(5)


class RegistryUnavailable(Exception):
    """The schema registry could not register a schema; the caller may retry."""


def register_schema(
    registry_url: str, topic: str, schema: dict[str, Any] = QUOTE_SCHEMA, timeout: float = 5.0
) -> int:
    """Register a schema for the values of a topic and return its id.

    Args:
        registry_url: URL of the registry, without a trailing slash.
        topic: The topic.
        schema: The Avro schema.
        timeout: Seconds.

    Raises:
        RegistryUnavailable: The registry cannot be reached or refuses the schema.
    """
    url = f"{registry_url}/subjects/{subject(topic)}/versions"
    body = json.dumps({"schema": json.dumps(schema)}).encode()
    headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
    request = urllib.request.Request(url, data=body, headers=headers)  # noqa: S310 - configured
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:  # noqa: S310 - as above
            return int(json.load(answer)["id"])
    except (OSError, ValueError, KeyError, TypeError, urllib.error.HTTPError) as error:
        raise RegistryUnavailable(f"{url}: {error}") from error


class Encoder:
    """Encodes rows with one schema."""

    def __init__(self, schema_id: int, schema: dict[str, Any] = QUOTE_SCHEMA) -> None:
        """Compile a schema.

        Args:
            schema_id: Its id in the registry.
            schema: The schema. A ValueError names a field that the rows cannot fill.
        """
        self._operations = b"".join(_operation(field) for field in schema["fields"])
        self._head = FRAME.pack(MAGIC, schema_id)

    def encode(self, rows: Rows) -> list[bytes]:
        """Return one message per row of a TICK_DTYPE array."""
        whole = np.ascontiguousarray(rows, TICK_DTYPE)
        return encode(self._operations, self._head, whole.view(np.uint8).data, whole.itemsize)


def _operation(field: dict[str, Any]) -> bytes:
    """Compile one field of a schema.

    Raises:
        ValueError: The type cannot be written, or the field has no column and cannot be null.
    """
    branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
    kinds = [b["type"] if isinstance(b, dict) else b for b in branches]
    nullable = len(kinds) == 2 and kinds[0] == "null"
    kind = kinds[-1]
    if len(kinds) != 1 + nullable or kind not in _WRITTEN:
        raise ValueError(
            f"field {field['name']!r} has the type {field['type']!r}; supported are string, long, "
            "double, float, and unions of null and one of them"
        )
    name = _RENAMED.get(field["name"], field["name"])
    if TICK_DTYPE.fields is None or name not in TICK_DTYPE.fields:
        if not nullable and kind != "null":
            raise ValueError(f"field {field['name']!r} has no column and cannot be null")
        return _OPERATION.pack(_SOURCES["f8"], 0, 8, _WRITTEN[kind], _ALWAYS, 0, 0)
    dtype, offset = TICK_DTYPE.fields[name][:2]
    source = _SOURCES["S" if dtype.kind == "S" else f"{dtype.kind}{dtype.itemsize}"]
    absent = _NEVER
    if nullable and dtype.kind == "S":
        absent = _IF_EMPTY
    elif nullable:
        absent = _IF_NAN if dtype.kind == "f" else _IF_EQUAL
    equal = _ABSENT_VALUES.get(name, -(1 << 63))
    return _OPERATION.pack(source, offset, dtype.itemsize, _WRITTEN[kind], absent, 0, equal)


class Partitions(dict[bytes, int]):
    """Partitions by symbol, computed once each: CRC-32 modulo the number of partitions."""

    def __init__(self, count: int) -> None:
        """Distribute symbols over `count` partitions."""
        super().__init__()
        self._count = count

    def __missing__(self, symbol: bytes) -> int:
        """Compute and store the partition of a symbol."""
        self[symbol] = zlib.crc32(symbol) % self._count
        return self[symbol]
