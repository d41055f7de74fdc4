"""Messages in Confluent's framing to rows of TICK_DTYPE, with a verdict on each."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import fastavro
import fastavro.repository
import fastavro.schema
import numpy as np
from fastavro.read import SchemaResolutionError

from workers.ingest.errors import ErrorClass, SchemaUnknown
from workers.market_schema import FRAME, FRAME_BYTES, MAGIC, QUOTE_READER_SCHEMA
from workers.records import SYMBOL_BYTES, TICK_DTYPE

if TYPE_CHECKING:
    from fastavro.types import Schema

    from workers.ingest.registry import SchemaRegistry

Rows = np.ndarray[Any, np.dtype[Any]]
INT64_MAX = (1 << 63) - 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FLOATS = (
    "bid", "ask", "last", "bid_size", "ask_size", "implied_volatility", "delta", "gamma", "vega",
    "theta", "rho", "underlying_price",
)  # fmt: skip
#: field of the message, field of the row, what stands for null
_INTEGERS = (
    ("timestamp", "ts_event", 0),
    ("ts_recv", "ts_recv", 0),
    ("volume", "volume", 0),
    ("open_interest", "open_interest", 0),
    ("sequence", "sequence", -1),
    ("flags", "source_flags", 0),
)


class Poison(Exception):
    """One message that cannot become a row."""

    def __init__(self, kind: ErrorClass, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Decoder:
    """Decodes with whatever schema each message names."""

    def __init__(self, registry: SchemaRegistry) -> None:
        """Parse the reader's schema once."""
        self._registry = registry
        self._reader: Schema = fastavro.parse_schema(QUOTE_READER_SCHEMA)
        self._writers: dict[int, Schema | Poison] = {}

    def decode(self, values: Sequence[bytes | None]) -> tuple[Rows, list[Poison | None]]:
        """Give the rows of the good messages and, for each message, None or what is wrong.

        Raises RegistryUnavailable when a schema cannot be had now; nothing is lost by it.
        """
        tuples: list[tuple[Any, ...]] = []
        verdicts: list[Poison | None] = []
        for value in values:
            try:
                tuples.append(_row(self._record(value)))
                verdicts.append(None)
            except Poison as poison:
                verdicts.append(poison)
        rows = np.array(tuples, TICK_DTYPE) if tuples else np.zeros(0, TICK_DTYPE)
        return rows, verdicts

    def _record(self, value: bytes | None) -> dict[str, Any]:
        if value is None or len(value) < FRAME_BYTES:
            size = "no value" if value is None else f"{len(value)} bytes"
            raise Poison(ErrorClass.FRAME, f"{size}, a framed message has more than {FRAME_BYTES}")
        magic, schema_id = FRAME.unpack_from(value)
        if magic != MAGIC:
            raise Poison(ErrorClass.FRAME, f"magic byte {magic}, expected {MAGIC}")
        writer = self._writer(schema_id)
        body = io.BytesIO(value)
        body.seek(FRAME_BYTES)
        try:
            record = fastavro.schemaless_reader(body, writer, self._reader)
        except SchemaResolutionError as error:
            raise Poison(ErrorClass.SCHEMA_INCOMPATIBLE, str(error)) from error
        except (EOFError, ValueError, IndexError, KeyError, OverflowError, TypeError) as error:
            text = f"{type(error).__name__}: {error}"
            raise Poison(ErrorClass.BODY, text) from error
        if body.tell() != len(value):
            left = len(value) - body.tell()
            raise Poison(ErrorClass.BODY, f"{left} bytes behind the record")
        if not isinstance(record, dict):
            raise Poison(ErrorClass.SCHEMA_INCOMPATIBLE, "the writer's schema is no record")
        return record

    def _writer(self, schema_id: int) -> Schema:
        known = self._writers.get(schema_id)
        if known is None:
            try:
                known = fastavro.parse_schema(json.loads(self._registry.schema(schema_id)))
            except SchemaUnknown as error:
                raise Poison(ErrorClass.SCHEMA_UNKNOWN, str(error)) from error
            except (ValueError, fastavro.schema.SchemaParseException) as error:
                known = Poison(ErrorClass.SCHEMA_INCOMPATIBLE, f"schema id {schema_id}: {error}")
            except fastavro.repository.SchemaRepositoryError as error:
                known = Poison(ErrorClass.SCHEMA_INCOMPATIBLE, f"schema id {schema_id}: {error}")
            self._writers[schema_id] = known
        if isinstance(known, Poison):
            raise Poison(known.kind, str(known))
        return known


_COLUMNS = TICK_DTYPE.names or ()


def _row(record: dict[str, Any]) -> tuple[Any, ...]:
    """Give a record as the tuple that TICK_DTYPE takes; null becomes absent."""
    symbol = record["symbol"].encode()
    if not 0 < len(symbol) <= SYMBOL_BYTES:
        raise Poison(ErrorClass.VALUE, f"symbol of {len(symbol)} bytes, 1 to {SYMBOL_BYTES} fit")
    values: dict[str, Any] = {"symbol": symbol, "venue": (record["venue"] or "").encode()[:8]}
    for name in _FLOATS:
        found = record[name]
        values[name] = np.nan if found is None else found
    for source, name, absent in _INTEGERS:
        found = record[source]
        values[name] = absent if found is None else _integer(source, found)
    if values["ts_event"] <= 0:
        raise Poison(ErrorClass.VALUE, f"timestamp {values['ts_event']} ns, expected after 1970")
    return tuple(values.get(name, 0) for name in _COLUMNS)


def _integer(name: str, value: Any) -> int:
    if isinstance(value, datetime):  # another logical type of the writer's: milli- or microseconds
        value = (value - EPOCH) // timedelta(microseconds=1) * 1000
    if name == "flags":
        if not 0 <= value < 1 << 32:
            raise Poison(ErrorClass.VALUE, f"flags {value}, 32 bits fit")
        return int(value)
    if not -INT64_MAX <= value <= INT64_MAX:
        raise Poison(ErrorClass.VALUE, f"{name} {value} is outside 64 bits")
    return int(value)
