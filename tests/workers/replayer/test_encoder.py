"""Messages: what any Avro reader decodes back to the rows."""

from __future__ import annotations

import io
import zlib

import fastavro
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.contract.dtypes import TICK_DTYPE
from workers.contract.quote_schema import (
    EVOLVED_SCHEMA,
    FRAME,
    FRAME_BYTES,
    MINIMAL_SCHEMA,
    QUOTE_READER_SCHEMA,
    QUOTE_SCHEMA,
)
from workers.market_data.archive import blank
from workers.replayer._encode import encode
from workers.replayer.encoder import Encoder, Partitions
from workers.replayer.synthetic import SyntheticMarket

ROWS = SyntheticMarket(1, "2026-01-05T14:30:00+00:00").read(0, 500)
READER = fastavro.parse_schema(QUOTE_READER_SCHEMA)
NAMES = {"timestamp": "ts_event", "flags": "source_flags"}
ABSENT = {"ts_recv": 0, "sequence": -1, "flags": 0}
PLAIN = {f["name"] for f in QUOTE_SCHEMA["fields"] if not isinstance(f["type"], list)}


def decoded(message, schema=QUOTE_SCHEMA):
    """A message through fastavro, as a consumer of the full schema reads it."""
    parsed = fastavro.parse_schema(schema)
    body = io.BytesIO(message[FRAME_BYTES:])
    found = fastavro.schemaless_reader(body, parsed, READER)
    assert body.read() == b""
    return found


def same(value, expected):
    """Equal, or both NaN."""
    return value == expected or (value != value and expected != expected)


@st.composite
def rows(draw):
    """A few rows with any values in the fields that are written."""
    made = blank(draw(st.integers(1, 4)))
    long = st.integers(-(1 << 63), (1 << 63) - 1)
    for name in TICK_DTYPE.names:
        kind = TICK_DTYPE[name]
        for row in range(made.size):
            made[name][row] = draw(
                st.floats(width=64)
                if kind.kind == "f"
                else st.text("AZaz09.", max_size=kind.itemsize).map(str.encode)
                if kind.kind == "S"
                else st.integers(0, (1 << 32) - 1)
                if kind == "<u4"
                else st.integers(-(1 << 31), (1 << 31) - 1)
                if kind == "<i4"
                else st.sampled_from([0, -1, 1 << 62]) | long
            )
    return made


@given(rows())
def test_fastavro_reads_every_field_back(some):
    """Any values: longs of any size, NaN and inf, absent optional fields as null, short texts."""
    messages = Encoder(7).encode(some)
    assert len(messages) == some.size
    for row, message in zip(some, messages, strict=True):
        assert FRAME.unpack(message[:FRAME_BYTES]) == (0, 7)
        record = decoded(message)
        for name, value in record.items():
            given_value = row[NAMES.get(name, name)].item()
            if isinstance(given_value, bytes):
                given_value = given_value.decode()
            absent = given_value == ABSENT[name] if name in ABSENT else given_value in {"", None}
            if name not in PLAIN and (absent or given_value != given_value):
                assert value is None
            else:
                assert same(value, given_value)


@pytest.mark.parametrize("schema", [EVOLVED_SCHEMA, MINIMAL_SCHEMA])
def test_other_writers_resolve_to_the_readers_schema(schema):
    """Fields in another order, some gone, one new, float and int for double and long."""
    for row, message in zip(ROWS, Encoder(1, schema).encode(ROWS), strict=True):
        record = decoded(message, schema)
        assert record["symbol"] == row["symbol"].decode()
        assert record["timestamp"] == row["ts_event"]
        assert same(record["bid"], row["bid"])
        assert same(record["ask"], row["ask"])
        assert record["venue"] is None
        if schema is EVOLVED_SCHEMA:
            assert record["open_interest"] == row["open_interest"]
            assert record["bid_size"] == np.float32(row["bid_size"])


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"name": "bid", "type": {"type": "array", "items": "double"}}, "supported are string"),
        ({"name": "settlement", "type": "double"}, "has no column and cannot be null"),
        ({"name": "bid", "type": ["double", "null"]}, "unions of null and one"),
        ({"name": "bid", "type": "long"}, "does not fit"),
    ],
)
def test_schemas_that_rows_cannot_fill_are_refused(field, words):
    """Arrays, fields that are nowhere, other unions, a fraction as a whole number."""
    with pytest.raises(ValueError, match=words):
        Encoder(1, {"fields": [field]}).encode(ROWS)


@given(st.binary(max_size=96), st.binary(max_size=300), st.integers(-5, 300))
def test_the_extension_survives_any_bytes(operations, data, row_bytes):
    """Whatever it is given, it refuses with ValueError or writes within its bounds."""
    try:
        messages = encode(operations, b"head", memoryview(data), row_bytes)
    except ValueError:
        return
    assert all(message.startswith(b"head") for message in messages)


def test_a_symbol_always_goes_to_the_same_partition():
    """The partition is the CRC-32 of the symbol; all partitions are used."""
    partitions = Partitions(3)
    symbols = np.unique(ROWS["symbol"]).tolist()
    chosen = [partitions[symbol] for symbol in symbols]
    assert set(chosen) == {0, 1, 2}
    assert chosen == [zlib.crc32(symbol) % 3 for symbol in symbols]
