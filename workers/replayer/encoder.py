"""Rows of TICK_DTYPE to Avro messages in Confluent's framing, and to their partition.

Any flat record schema can be written whose fields are known by name: a schema is compiled to a
list of operations once, C runs it over a batch of rows. A field that the rows do not have is
written as null where the schema allows it.
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

#: names of the message that are others in the row
_RENAMED: Final = {"timestamp": "ts_event", "flags": "source_flags"}
#: the value of a row's field that stands for "not given"; NaN and empty texts need no mention
_NOT_GIVEN: Final = {"ts_recv": 0, "sequence": -1, "source_flags": 0}
_OPERATION: Final = struct.Struct("<6iq")  # struct operation of _encode.c
_SOURCES: Final = {"S": 0, "i8": 1, "u4": 2, "f8": 3}
_WRITTEN: Final = {"string": 0, "long": 1, "int": 1, "double": 2, "float": 3, "null": 4}
_NEVER, _IF_NAN, _IF_EQUAL, _IF_EMPTY, _ALWAYS = range(5)


class RegistryUnavailable(Exception):
    """The schema registry did not take the schema; worth another try."""


def register_schema(
    registry_url: str, topic: str, schema: dict[str, Any] = QUOTE_SCHEMA, timeout: float = 5.0
) -> int:
    """Register a schema for the values of `topic`, give its id. Raises RegistryUnavailable."""
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
    """Encodes with one schema and its id."""

    def __init__(self, schema_id: int, schema: dict[str, Any] = QUOTE_SCHEMA) -> None:
        """Compile the schema. Raises ValueError for one that rows cannot fill."""
        self._operations = b"".join(_operation(field) for field in schema["fields"])
        self._head = FRAME.pack(MAGIC, schema_id)

    def encode(self, rows: Rows) -> list[bytes]:
        """Return one message a row."""
        whole = np.ascontiguousarray(rows, TICK_DTYPE)
        return encode(self._operations, self._head, whole.view(np.uint8).data, whole.itemsize)


def _operation(field: dict[str, Any]) -> bytes:
    """Compile one field of a schema."""
    branches = field["type"] if isinstance(field["type"], list) else [field["type"]]
    kinds = [b["type"] if isinstance(b, dict) else b for b in branches]
    nullable = len(kinds) == 2 and kinds[0] == "null"
    kind = kinds[-1]
    if len(kinds) != 1 + nullable or kind not in _WRITTEN:
        raise ValueError(
            f"field {field['name']!r} of type {field['type']!r}: a replayer writes string, long, "
            "double, float, and unions of null and one of them"
        )
    name = _RENAMED.get(field["name"], field["name"])
    if TICK_DTYPE.fields is None or name not in TICK_DTYPE.fields:
        if not nullable and kind != "null":
            raise ValueError(f"field {field['name']!r} is not in the rows and cannot be null")
        return _OPERATION.pack(_SOURCES["f8"], 0, 8, _WRITTEN[kind], _ALWAYS, 0, 0)
    dtype, offset = TICK_DTYPE.fields[name][:2]
    source = _SOURCES["S" if dtype.kind == "S" else f"{dtype.kind}{dtype.itemsize}"]
    absent = _NEVER
    if nullable and dtype.kind == "S":
        absent = _IF_EMPTY
    elif nullable:
        absent = _IF_NAN if dtype.kind == "f" else _IF_EQUAL
    equal = _NOT_GIVEN.get(name, -(1 << 63))
    return _OPERATION.pack(source, offset, dtype.itemsize, _WRITTEN[kind], absent, 0, equal)


class Partitions(dict[bytes, int]):
    """The partition of a symbol, the same for ever: its CRC-32 modulo the number of partitions."""

    def __init__(self, count: int) -> None:
        """Choose among `count`."""
        super().__init__()
        self._count = count

    def __missing__(self, symbol: bytes) -> int:
        """Compute it once."""
        self[symbol] = zlib.crc32(symbol) % self._count
        return self[symbol]
