"""Decoding: fastavro's schemas in, rows out, a verdict on everything else."""

from __future__ import annotations

import io
import json

import fastavro
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.ingest.decode import Decoder
from workers.ingest.errors import ErrorClass, RegistryUnavailable, SchemaUnknown
from workers.market_schema import QUOTE_SCHEMA_TEXT, frame
from workers.replayer.encoder import Encoder
from workers.replayer.synthetic import SyntheticMarket

ROWS = SyntheticMarket(1, "2026-01-05T14:30:00+00:00").read(0, 200)
GOOD = Encoder(1).encode(ROWS)
MINIMAL = {
    "type": "record",
    "name": "OptionQuote",
    "namespace": "tradingmesh",
    "fields": [
        {"name": "symbol", "type": "string"},
        {"name": "timestamp", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "bid", "type": ["null", "float"]},
        {"name": "flags", "type": "int"},
    ],
}
WRONG = {"type": "record", "name": "OptionQuote", "fields": [{"name": "symbol", "type": "int"}]}


class Shelf:
    """A registry of the outside world: schemas by id."""

    def __init__(self):
        self.texts = {1: QUOTE_SCHEMA_TEXT, 2: json.dumps(MINIMAL), 3: json.dumps(WRONG), 4: "{"}

    def schema(self, schema_id):
        """As SchemaRegistry.schema."""
        if schema_id == 9:
            raise RegistryUnavailable("down")
        if schema_id not in self.texts:
            raise SchemaUnknown(f"schema id {schema_id}")
        return self.texts[schema_id]


def minimal(**fields):
    """A message of the minimal writer."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(MINIMAL), fields)
    return frame(2, body.getvalue())


def test_rows_are_what_was_sent():
    """Every field of every message, absent ones included."""
    rows, verdicts = Decoder(Shelf()).decode(GOOD)
    assert verdicts == [None] * ROWS.size
    for name in ("symbol", "ts_event", "bid", "ask", "last", "volume", "delta", "sequence"):
        assert np.array_equal(rows[name], ROWS[name], equal_nan=rows[name].dtype.kind == "f")


def test_other_writers_are_resolved():
    """A writer with fewer fields, another logical time and narrower numbers is read as ours."""
    rows, verdicts = Decoder(Shelf()).decode(
        [minimal(symbol="X", timestamp=1_700_000_000_123, bid=1.5, flags=3)]
    )
    assert verdicts == [None]
    assert rows["ts_event"][0] == 1_700_000_000_123 * 10**6
    assert rows["bid"][0] == 1.5
    assert rows["source_flags"][0] == 3
    assert np.isnan(rows["ask"][0])
    assert rows["sequence"][0] == -1


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, ErrorClass.FRAME),
        (b"", ErrorClass.FRAME),
        (b"\x05" + GOOD[0][1:], ErrorClass.FRAME),
        (frame(77, b"x"), ErrorClass.SCHEMA_UNKNOWN),
        (frame(3, b"\x02"), ErrorClass.SCHEMA_INCOMPATIBLE),
        (frame(4, b"\x02"), ErrorClass.SCHEMA_INCOMPATIBLE),
        (GOOD[0][:-3], ErrorClass.BODY),
        (GOOD[0] + b"x", ErrorClass.BODY),
        (minimal(symbol="", timestamp=1, bid=None, flags=0), ErrorClass.VALUE),
        (minimal(symbol="x" * 33, timestamp=1, bid=None, flags=0), ErrorClass.VALUE),
        (minimal(symbol="x", timestamp=0, bid=None, flags=0), ErrorClass.VALUE),
        (minimal(symbol="x", timestamp=1, bid=None, flags=-1), ErrorClass.VALUE),
    ],
)
def test_poison_has_its_class(value, kind):
    """One bad message among good ones: it alone is rejected, under the right name."""
    rows, verdicts = Decoder(Shelf()).decode([GOOD[0], value, GOOD[1]])
    assert rows.size == 2
    assert [v.kind if v else None for v in verdicts] == [None, kind, None]


def test_registry_outage_is_no_verdict():
    """A schema that cannot be had now stops the batch; no message is condemned for it."""
    with pytest.raises(RegistryUnavailable):
        Decoder(Shelf()).decode([GOOD[0], frame(9, b"x")])


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 199), st.data())
def test_mutated_messages_are_a_row_or_a_verdict(index, data):
    """Flip, cut or extend a message anywhere: a row or a verdict, never another exception."""
    message = bytearray(GOOD[index])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(message) - 1))
        message[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(message)))
    value = bytes(message[:cut]) + data.draw(st.binary(max_size=8))
    if value[:5] == frame(9, b""):
        return
    rows, verdicts = Decoder(Shelf()).decode([value])
    assert rows.size == (verdicts[0] is None)
