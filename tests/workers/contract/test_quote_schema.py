"""The quote schemas and the frame in front of a message."""

from __future__ import annotations

import io
import math

import fastavro

from workers.contract import quote_schema as schema


def test_a_published_quote_is_readable_through_the_reader_schema():
    """What publishers write resolves; what they leave out reads as null."""
    quote = dict.fromkeys(("bid", "ask", "last", "implied_volatility", "delta"), 1.5)
    quote |= {"gamma": math.inf, "vega": 0.0, "theta": -1.0, "volume": 3, "open_interest": 4}
    quote |= {"symbol": "GOOG", "timestamp": 1_450_967_400_000_000_000}
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema.QUOTE_SCHEMA), quote)
    read = fastavro.schemaless_reader(
        io.BytesIO(body.getvalue()),
        fastavro.parse_schema(schema.QUOTE_SCHEMA),
        fastavro.parse_schema(schema.QUOTE_READER_SCHEMA),
    )
    assert {name: read[name] for name in quote} == quote
    assert all(read[name] is None for name in read if name not in quote)


def test_the_reader_needs_only_symbol_and_timestamp():
    """A writer with these two fields alone is accepted."""
    fields = schema.QUOTE_READER_SCHEMA["fields"]
    without_default = [field["name"] for field in fields if "default" not in field]
    assert tuple(without_default) == schema.KEY_FIELDS


def test_the_frame_is_confluents():
    """Magic 0, then the id as four bytes big-endian."""
    assert schema.frame(258, b"body") == b"\x00\x00\x00\x01\x02body"
    assert schema.frame(258, b"")[: schema.FRAME_BYTES] == schema.FRAME.pack(schema.MAGIC, 258)
    assert schema.subject("quotes") == "quotes-value"
