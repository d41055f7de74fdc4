"""Decoding: fastavro's schemas in, rows out, a verdict on everything else."""

from __future__ import annotations

import decimal
import io
import json

import fastavro
import numpy as np
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.daemons import until
from workers.contract.quote_schema import QUOTE_READER_SCHEMA, QUOTE_SCHEMA_TEXT, frame
from workers.ingest.decode.decoder import Decoder, calls_are_known
from workers.ingest.decode.mapping import tick_mapping
from workers.ingest.decode.plan import OK, PENDING, UNKNOWN
from workers.ingest.errors import ErrorClass, RegistryUnavailable, SchemaUnknown
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


def decode(values, decoder=None, reader=QUOTE_READER_SCHEMA, **mapping):
    """(rows of the good ones, class of the error of each, None where it is a row)."""
    decoder = decoder or Decoder(Shelf(), tick_mapping(**mapping), reader, capacity=1000)
    rows, status = decoder.decode_values(values)
    verdicts = [None if s == OK else decoder.reason(i).kind for i, s in enumerate(status)]
    return rows[status == OK], verdicts


def test_rows_are_what_was_sent():
    """Every field of every message, absent ones included."""
    rows, verdicts = decode(GOOD)
    assert verdicts == [None] * ROWS.size
    for name in ("symbol", "ts_event", "bid", "ask", "last", "volume", "delta", "sequence"):
        assert np.array_equal(rows[name], ROWS[name], equal_nan=rows[name].dtype.kind == "f")


def test_other_writers_are_resolved():
    """A writer with fewer fields, another logical time and narrower numbers is read as ours."""
    rows, verdicts = decode([minimal(symbol="X", timestamp=1_700_000_000_123, bid=1.5, flags=3)])
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
    rows, verdicts = decode([GOOD[0], value, GOOD[1]])
    assert rows.size == 2
    assert verdicts == [None, kind, None]


def test_registry_outage_is_no_verdict():
    """A schema that cannot be had now: that message is pending, the others are decoded."""
    decoder = Decoder(Shelf(), tick_mapping(), QUOTE_READER_SCHEMA, capacity=10)
    _, status = decoder.decode_values([GOOD[0], frame(9, b"x"), GOOD[1], frame(77, b"x")])
    assert status.tolist() == [OK, PENDING, OK, UNKNOWN]
    assert decoder.unavailable == "down"


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
    rows, verdicts = decode([value])
    assert rows.size == (verdicts[0] is None)


NESTED = {
    "type": "record",
    "name": "BookTop",
    "fields": [
        {"name": "inst", "type": {"type": "enum", "name": "I", "symbols": ["AAA", "BBB"]}},
        {"name": "t", "type": "long"},
        {
            "name": "quote",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "Side",
                    "fields": [
                        {"name": "px", "type": ["null", "float", "string"]},
                        {"name": "qty", "type": "int"},
                    ],
                },
            ],
        },
        {"name": "ask", "type": ["null", "Side"]},
        {"name": "tags", "type": ["null", "string"]},
    ],
}
FIELDS = {
    "symbol": "inst",
    "ts_event": "t",
    "bid": "quote.px",
    "bid_size": "quote.qty",
    "ask": "ask.px",
    "ask_size": "ask.qty",
}


def written(schema, value):
    """A body."""
    body = io.BytesIO()
    fastavro.schemaless_writer(body, fastavro.parse_schema(schema), value)
    return body.getvalue()


class One(Shelf):
    """A registry with one other schema, as id 1."""

    def __init__(self, schema):
        self.texts = {1: json.dumps(schema)}


def one(schema, reader="writer", **mapping):
    """A decoder for one writer's schema."""
    return Decoder(
        One(schema),
        tick_mapping(**mapping),
        None if reader == "writer" else reader,
        capacity=100,
    )


def test_any_schema_is_read_by_a_mapping():
    """Nested records, enum, other names, seconds: read through the writer's own schema."""
    decoder = one(NESTED, fields=FIELDS, units={"ts_event": "s"})
    side = {"px": 1.5, "qty": 7}
    values = [
        {"inst": "BBB", "t": 1_700_000_000, "quote": side, "ask": {"px": None, "qty": 3}},
        {"inst": "AAA", "t": 1_700_000_001, "quote": None, "ask": None},
    ]
    rows, verdicts = decode([frame(1, written(NESTED, v)) for v in values], decoder)
    assert verdicts == [None, None]
    assert rows["symbol"].tolist() == [b"BBB", b"AAA"]
    assert rows["ts_event"].tolist() == [1_700_000_000 * 10**9, 1_700_000_001 * 10**9]
    assert rows["bid"][0] == 1.5
    assert rows["bid_size"][0] == 7
    assert rows["ask_size"][0] == 3
    assert np.isnan([rows["ask"][0], rows["bid"][1], rows["bid_size"][1]]).all()
    text = {"inst": "AAA", "t": 1, "quote": {"px": "1.5", "qty": 1}, "ask": None}
    assert decode([frame(1, written(NESTED, text))], decoder)[1] == [ErrorClass.SCHEMA_INCOMPATIBLE]
    assert decoder.fallback_decoded == 0


def test_the_outermost_record_may_have_any_name():
    """A writer whose record is called otherwise has our fields: it is read."""
    other = {**MINIMAL, "name": "Tick", "namespace": "md.v2"}
    value = {"symbol": "A", "timestamp": 1, "bid": None, "flags": 0}
    message = frame(1, written(other, value))
    assert decode([message], one(other, QUOTE_READER_SCHEMA))[1] == [None]


@pytest.mark.parametrize(
    ("kind", "value", "ns"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, 1_700_000_000_123, 10**6),
        ({"type": "long", "logicalType": "timestamp-micros"}, 1_700_000_000_123_456, 10**3),
        ({"type": "long", "logicalType": "timestamp-nanos"}, 1_700_000_000_123_456_789, 1),
        ({"type": "long", "logicalType": "local-timestamp-micros"}, 1_700_000_000_123_456, 10**3),
        ({"type": "int", "logicalType": "date"}, 20_000, 86_400 * 10**9),
    ],
)
def test_logical_times_bring_their_unit(kind, value, ns):
    """Milliseconds, microseconds, nanoseconds, days: nanoseconds in the row."""
    plain = {**MINIMAL, "fields": [*MINIMAL["fields"]]}
    plain["fields"][1] = {"name": "timestamp", "type": kind["type"]}
    body = written(plain, {"symbol": "A", "timestamp": value, "bid": None, "flags": 0})
    plain["fields"][1] = {"name": "timestamp", "type": kind}
    rows, verdicts = decode([frame(1, body)], one(plain, QUOTE_READER_SCHEMA))
    assert verdicts == [None]
    assert rows["ts_event"][0] == value * ns


def test_decimal_prices_are_read():
    """A price as Avro decimal becomes the nearest double; more digits than the plan holds too."""
    schema = {**MINIMAL, "fields": [*MINIMAL["fields"]]}
    kind = {"type": "bytes", "logicalType": "decimal", "precision": 30, "scale": 4}
    schema["fields"][2] = {"name": "bid", "type": kind}
    decoder = one(schema)
    prices = ["1.2345", "-0.0001", "12345678901234567890.1234", "0"]
    values = [
        {"symbol": "A", "timestamp": 1, "bid": decimal.Decimal(p), "flags": 0} for p in prices
    ]
    rows, verdicts = decode([frame(1, written(schema, v)) for v in values], decoder)
    assert verdicts == [None] * 4
    assert rows["bid"].tolist() == [float(p) for p in prices]
    assert decoder.fallback_decoded == 1


def test_arrays_and_maps_go_through_fastavro_and_are_counted():
    """A schema that no plan holds is decoded all the same; an endless array is refused."""
    levels = {"type": "array", "items": "null"}
    schema = {**MINIMAL, "fields": [*MINIMAL["fields"], {"name": "levels", "type": levels}]}
    value = {"symbol": "A", "timestamp": 5, "bid": 2.0, "flags": 1, "levels": [None, None]}
    body = written(schema, value)
    decoder = one(schema, QUOTE_READER_SCHEMA)
    endless = body[:-2] + b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00"
    rows, verdicts = decode([frame(1, body), frame(1, endless), frame(1, body[:-1])], decoder)
    assert verdicts == [None, ErrorClass.BODY, ErrorClass.BODY]
    assert rows["bid"].tolist() == [2.0]
    assert decoder.fallback_decoded == 3
    assert "items" in decoder.reason(1).text


def test_a_verdict_says_where():
    """What is wrong, in which field, at which byte."""
    decoder = one(MINIMAL, QUOTE_READER_SCHEMA)
    good = written(MINIMAL, {"symbol": "A", "timestamp": 5, "bid": None, "flags": 1})
    cases = {
        good[:3] + b"\x09\x00": "field 'bid', byte 4: branch -5 of 2",
        good[:-1]: "field 'flags', byte 4: 1 bytes wanted, 0 are left",
        good + b"zz": "2 bytes after the record, which ends at 5",
        good[:2] + b"\xff" * 10 + good[3:]: "a number of more than 64 bits",
        b"\x02\xff" + good[2:]: "UnicodeDecodeError",
    }
    decoder.decode_values([frame(1, body) for body in cases])
    for index, text in enumerate(cases.values()):
        assert text in decoder.reason(index).text


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_batch_knows_partitions_and_what_was_consumed(is_direct):
    """Messages of several partitions: offsets in the rows, positions moved, repeats left out.

    The same with the C functions of confluent-kafka's messages as with their Python methods.
    """
    producer = Producer({"test.mock.num.brokers": 1})
    name = "two"
    for number in range(60):
        producer.produce(name, GOOD[number], partition=number % 3)
    assert producer.flush(20) == 0
    address = next(iter(producer.list_topics(timeout=10).brokers.values()))
    consumer = Consumer(
        {
            "bootstrap.servers": f"{address.host}:{address.port}",
            "group.id": "x",
            "fetch.wait.max.ms": 5,
        }
    )
    consumer.assign([TopicPartition(name, partition, 0) for partition in range(3)])
    messages = []
    until("messages", lambda: messages.extend(consumer.consume(60, 0.1)) or len(messages) == 60)
    consumer.close()
    decoder = Decoder(
        Shelf(), tick_mapping(), QUOTE_READER_SCHEMA, capacity=100, is_direct=is_direct
    )
    decoder.assign([("other", 0, 0), *((name, 1, partition) for partition in range(3))])
    next_offsets = np.array([0, 0, 5, 20], np.int64)
    events, stale = decoder.load(messages, next_offsets)
    rows, status = decoder.decode()
    assert (events, stale) == ([], 25)
    assert next_offsets.tolist() == [0, 20, 20, 20]
    assert (status == OK).all()
    assert np.unique(rows["topic"]).tolist() == [1]
    for partition, first in ((0, 0), (1, 5)):
        found = rows[rows["partition"] == partition]
        assert found["offset"].tolist() == list(range(first, 20))
        assert found["symbol"].tolist() == [
            ROWS["symbol"][3 * o + partition] for o in range(first, 20)
        ]
    decoder.assign([(name, 0, 0)])
    with pytest.raises(KeyError, match="not assigned"):
        decoder.load(messages, np.zeros(1, np.int64))


class Passing:
    """A message whose value is a new object at every call, as in another release of the client."""

    def __init__(self, offset):
        self._offset = offset

    def error(self):
        """No event."""

    def topic(self):
        """A topic."""
        return "quotes"

    def partition(self):
        """A partition."""
        return 0

    def offset(self):
        """Where it lies."""
        return self._offset

    def value(self):
        """A copy that the message does not hold."""
        return bytes(bytearray(GOOD[self._offset]))


@pytest.mark.parametrize("is_direct", [True, False])
def test_a_batch_keeps_values_that_messages_do_not(is_direct):
    """What a batch reads stays alive, whatever a message does with its value."""
    decoder = Decoder(
        Shelf(), tick_mapping(), QUOTE_READER_SCHEMA, capacity=100, is_direct=is_direct
    )
    decoder.assign([("quotes", 0, 0)])
    messages = [Passing(offset) for offset in range(100)]
    assert decoder.load(messages, np.zeros(1, np.int64)) == ([], 0)
    rows, status = decoder.decode()
    assert (status == OK).all()
    assert rows["symbol"].tolist() == ROWS["symbol"][:100].tolist()
    decoder.clear()


@pytest.mark.parametrize(
    ("version", "known"),
    [
        ("2.16.1", True),
        ("2.16.0rc1", True),
        ("2.17.0", False),
        ("3.16.0", False),
        ("2", False),
        ("", False),
    ],
)
def test_an_untested_client_is_called_by_name(version, known):
    """The internals of confluent-kafka are relied on in the releases that were tested, no other."""
    assert calls_are_known(version) == known
