"""The Avro schema in which market data travels over Kafka, and Confluent's framing of it.

A leaf beside `records`: whoever publishes quotes writes QUOTE_SCHEMA, ingest reads any writer's
schema through QUOTE_READER_SCHEMA. Times are nanoseconds since the Unix epoch (Avro's
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
#: what a message cannot do without; a reader takes everything else as absent
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


#: The schema that our own publishers write: twelve fields always, eight nullable ones.
QUOTE_SCHEMA: Final[dict[str, Any]] = _record(
    [{"name": name, "type": kind} for name, kind in _REQUIRED]
    + [_nullable(name, kind) for name, kind in _OPTIONAL]
)
#: The schema through which ingest reads: a writer may leave out all but KEY_FIELDS, or send null.
QUOTE_READER_SCHEMA: Final[dict[str, Any]] = _record(
    [
        {"name": name, "type": kind} if name in KEY_FIELDS else _nullable(name, kind)
        for name, kind in _REQUIRED + _OPTIONAL
    ]
)
#: A later version of it, as publishers make them: fields in another order, some gone and one
#: new, sizes as float, open interest as int. A reader of QUOTE_READER_SCHEMA resolves it.
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
#: The least that a publisher may send.
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
    """Name under which the registry keeps the value schemas of `topic` (TopicNameStrategy)."""
    return f"{topic}-value"


def frame(schema_id: int, body: bytes) -> bytes:
    """`body` in Confluent's wire format."""
    return FRAME.pack(MAGIC, schema_id) + body
