"""The Avro schema of market data in Kafka, and Confluent's wire format.

Publishers of quotes write QUOTE_SCHEMA; ingest reads every writer's schema through
QUOTE_READER_SCHEMA. Times are nanoseconds since the Unix epoch (Avro's
timestamp-nanos); prices are in the quote currency and NaN means "absent"; volume and
open_interest are contracts or shares with 0 where unknown; implied_volatility is per year
(0.2 = 20 %), theta per year, vega and rho per 1.00.

Wire format (Confluent): one byte MAGIC, the schema id as four bytes big-endian, the Avro body.
"""

from __future__ import annotations

import json
import struct
from typing import Any, Final

MAGIC: Final = 0
#: magic byte and schema id in front of every Avro body
FRAME: Final = struct.Struct(">BI")
FRAME_BYTES: Final = FRAME.size

_TIMESTAMP: Final = {"type": "long", "logicalType": "timestamp-nanos"}
_REQUIRED: Final[tuple[tuple[str, Any], ...]] = (
    ("symbol", "string"),
    ("timestamp", _TIMESTAMP),
    ("bid", "double"),
    ("ask", "double"),
    ("last", "double"),
    ("volume", "long"),
    ("open_interest", "long"),
    ("implied_volatility", "double"),
    ("delta", "double"),
    ("gamma", "double"),
    ("vega", "double"),
    ("theta", "double"),
)
_OPTIONAL: Final[tuple[tuple[str, Any], ...]] = (
    ("ts_recv", _TIMESTAMP),
    ("bid_size", "double"),
    ("ask_size", "double"),
    ("sequence", "long"),
    ("underlying_price", "double"),
    ("rho", "double"),
    ("flags", "long"),
    ("venue", "string"),
)
#: required in every message; a reader treats all other fields as optional
KEY_FIELDS: Final = ("symbol", "timestamp")


def _record(fields: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": "OptionQuote",
        "namespace": "tradingmesh",
        "doc": "One quote of one instrument; times in nanoseconds since the Unix epoch.",
        "fields": fields,
    }


def _nullable(name: str, kind: Any) -> dict[str, Any]:
    return {"name": name, "type": ["null", kind], "default": None}


#: The schema that our own publishers write: twelve required and eight nullable fields.
QUOTE_SCHEMA: Final[dict[str, Any]] = _record(
    [{"name": name, "type": kind} for name, kind in _REQUIRED]
    + [_nullable(name, kind) for name, kind in _OPTIONAL]
)
#: The reader schema of ingest: a writer may omit every field but KEY_FIELDS, or send null.
QUOTE_READER_SCHEMA: Final[dict[str, Any]] = _record(
    [
        {"name": name, "type": kind} if name in KEY_FIELDS else _nullable(name, kind)
        for name, kind in _REQUIRED + _OPTIONAL
    ]
)
#: A later version of QUOTE_SCHEMA, for tests: fields in another order, some removed and one added,
#: sizes as float, open interest as int. QUOTE_READER_SCHEMA resolves it.
EVOLVED_SCHEMA: Final[dict[str, Any]] = _record(
    [
        {"name": "timestamp", "type": _TIMESTAMP},
        {"name": "symbol", "type": "string"},
        _nullable("settlement", "double"),
        *({"name": n, "type": "double"} for n in ("ask", "bid", "last", "implied_volatility")),
        {"name": "open_interest", "type": "int"},
        {"name": "volume", "type": "long"},
        *(_nullable(n, "float") for n in ("bid_size", "ask_size")),
        *({"name": n, "type": "double"} for n in ("delta", "gamma", "vega", "theta")),
        _nullable("underlying_price", "double"),
        _nullable("ts_recv", _TIMESTAMP),
        _nullable("sequence", "long"),
    ]
)
#: The smallest schema that ingest accepts as a quote with a price.
MINIMAL_SCHEMA: Final[dict[str, Any]] = _record(
    [
        {"name": "symbol", "type": "string"},
        {"name": "timestamp", "type": _TIMESTAMP},
        {"name": "bid", "type": "double"},
        {"name": "ask", "type": "double"},
    ]
)
QUOTE_SCHEMA_TEXT: Final = json.dumps(QUOTE_SCHEMA)
QUOTE_READER_SCHEMA_TEXT: Final = json.dumps(QUOTE_READER_SCHEMA)


def subject(topic: str) -> str:
    """Return the registry's subject for the values of `topic` (TopicNameStrategy)."""
    return f"{topic}-value"


def frame(schema_id: int, body: bytes) -> bytes:
    """Return an Avro body in Confluent's wire format.

    Args:
        schema_id: Id of the writer's schema in the registry.
        body: The Avro body.
    """
    return FRAME.pack(MAGIC, schema_id) + body
