"""JSON objects and raw records: the same rows, the same error classes, as one value at a time."""

from __future__ import annotations

import json
import math
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import ConfigProblems
from config.ingest import IngestConfig
from tests.workers.ingest.world import ROWS, world
from workers.ingest.decode.formats import JsonDecoder, RawDecoder, check_format
from workers.ingest.decode.mapping import FIELDS, tick_mapping
from workers.ingest.decode.plan import OK
from workers.ingest.errors import ErrorClass, MessageRejected

CAPACITY = 200
FULL = {"symbol": "SPY", "timestamp": 1_760_000_000_000_000_000}
PACKED = {
    "symbol": "S40",
    "timestamp": ">i8",
    "ts_recv": "<f8",
    "bid": "<f4",
    "ask": ">f8",
    "volume": "<u8",
    "open_interest": "<f8",
    "flags": "<i8",
    "venue": "S12",
}
LETTERS = {
    "S40": "40s",
    ">i8": "q",
    "<f8": "d",
    "<f4": "f",
    ">f8": "d",
    "<u8": "Q",
    "<i8": "q",
    "S12": "12s",
}


def decoded(decoder, values):
    """(row or class of the error) of each message."""
    rows, status = decoder.decode_values(list(values))
    return [rows[i].tobytes() if s == OK else decoder.reason(i).kind for i, s in enumerate(status)]


def alone(mapping, values):
    """What the rule for one value a time makes of the values of one message, by path."""
    try:
        found = (values.get(".".join(column.path)) for column in mapping.columns)
        return mapping.filled(found).tobytes()
    except MessageRejected as error:
        return error.rejection.kind


def test_a_whole_market_comes_through_json():
    """Every field of every message is what was sent; NaN is sent as null."""
    values = []
    for row in ROWS[:CAPACITY]:
        said = {}
        for name, field in FIELDS.items():
            value = row[name].item()
            if isinstance(value, bytes):
                value = value.decode()
            said[field] = None if isinstance(value, float) and math.isnan(value) else value
        values.append(json.dumps({**said, "another": [1, {"x": None}]}).encode())
    decoder = JsonDecoder(tick_mapping(), capacity=CAPACITY)
    rows, status = decoder.decode_values(values)
    assert (status == OK).all()
    for name in FIELDS:
        nan = rows[name].dtype.kind == "f"
        assert np.array_equal(rows[name], ROWS[name][:CAPACITY], equal_nan=nan), name


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, ErrorClass.FRAME),
        (b"", ErrorClass.FRAME),
        (b"{", ErrorClass.BODY),
        (b"[]", ErrorClass.BODY),
        (b"\xff", ErrorClass.BODY),
        (b'{"symbol": 7, "timestamp": 1}', ErrorClass.BODY),
        (b'{"symbol": "X", "timestamp": 1, "bid": "dear"}', ErrorClass.BODY),
        (b'{"symbol": "X", "timestamp": 1, "bid": ' + b"[" * 100_000, ErrorClass.BODY),
        (b'{"symbol": "X"}', ErrorClass.VALUE),
        (b'{"timestamp": 1}', ErrorClass.VALUE),
        (b'{"symbol": "X", "timestamp": -1}', ErrorClass.VALUE),
        (b'{"symbol": "X", "timestamp": 1, "volume": 1.5}', ErrorClass.VALUE),
        (b'{"symbol": "X", "timestamp": 99999999999999999999}', ErrorClass.VALUE),
        (b'{"symbol": "X\\u0000Y", "timestamp": 1}', ErrorClass.VALUE),
    ],
)
def test_each_wrong_json_message_has_its_class(value, kind):
    """Nothing is guessed: what is no quote is a dead letter, and the reason says why."""
    decoder = JsonDecoder(tick_mapping(), capacity=CAPACITY)
    good = json.dumps(FULL).encode()
    rows, status = decoder.decode_values([good, value, good])
    assert (status[0], status[2]) == (OK, OK)
    assert rows["symbol"][2] == b"SPY"
    assert decoder.reason(1).kind is kind
    assert decoder.reason(1).text


def test_json_times_have_units_and_may_be_text():
    """Numbers count the configured unit, fractions of it too; RFC 3339 says its own."""
    mapping = tick_mapping({"ts_recv": "meta.got"}, {"ts_event": "ms", "ts_recv": "s"})
    decoder = JsonDecoder(mapping, capacity=CAPACITY)
    texts = [
        {"symbol": "A", "timestamp": 1_700_000_000_123, "meta": {"got": 1.5}},
        {"symbol": "A", "timestamp": "2023-11-14T22:13:20.123Z", "bid": "1.25", "meta": {}},
        {"symbol": "A", "timestamp": "1700000000123", "meta": None},
    ]
    rows, status = decoder.decode_values([json.dumps(text).encode() for text in texts])
    assert (status == OK).all()
    assert rows["ts_event"].tolist() == [1_700_000_000_123_000_000] * 3
    assert rows["ts_recv"].tolist() == [1_500_000_000, 0, 0]
    assert rows["bid"][1] == 1.25


FINITE = st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = {
    "symbol": st.none() | st.text(max_size=40),
    "timestamp": st.none() | st.integers(-(2**70), 2**70) | FINITE,
    "bid": st.none() | FINITE | st.integers(-(2**53), 2**53),
    "volume": st.none() | st.integers(-(2**64), 2**64),
    "flags": st.none() | st.integers(-1, 2**33),
    "venue": st.none() | st.text(max_size=12),
}


@given(st.lists(st.fixed_dictionaries({}, optional=JSON_VALUES), max_size=8))
@settings(max_examples=200, deadline=None)
def test_json_is_what_the_standard_library_reads(records):
    """Oracle: json, then the rule for one value: identical rows, or both refuse in one class."""
    mapping = tick_mapping(None, {"ts_event": "us"})
    decoder = JsonDecoder(mapping, capacity=CAPACITY)
    values = [json.dumps(record).encode() for record in records]
    wanted = [alone(mapping, json.loads(value)) for value in values]
    assert decoded(decoder, values) == wanted


@given(st.binary(max_size=60), st.integers(0, 60))
@settings(max_examples=300, deadline=None)
def test_damaged_json_is_a_row_or_a_dead_letter(noise, at):
    """Whatever stands in a message, nothing but a status comes of it."""
    good = json.dumps({**FULL, "bid": 1.5, "venue": "X"}).encode()
    decoder = JsonDecoder(tick_mapping(), capacity=CAPACITY)
    first, _, last = decoded(decoder, [good, good[:at] + noise + good[at + len(noise) :], good])
    assert first == last


def packed(values):
    """The bytes of one raw record, by the struct module."""
    data = b""
    for name, kind in PACKED.items():
        data += struct.pack(
            ">" * (kind[0] == ">") + "<" * (kind[0] != ">") + LETTERS[kind], values[name]
        )
    return data


RAW_VALUES = {
    "symbol": st.binary(max_size=40),
    "timestamp": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**54),
    "ts_recv": st.floats() | st.integers(-(2**60), 2**60).map(float),
    "bid": st.floats(width=32),
    "ask": st.floats(),
    "volume": st.integers(0, 2**64 - 1),
    "open_interest": st.floats() | st.integers(-(2**65), 2**65).map(float),
    "flags": st.integers(-(2**63), 2**63 - 1) | st.integers(0, 2**32 - 1),
    "venue": st.binary(max_size=12),
}


@given(st.lists(st.fixed_dictionaries(RAW_VALUES), max_size=8), st.booleans())
@settings(max_examples=300, deadline=None)
def test_raw_records_are_what_struct_reads(records, in_ms):
    """Oracle: struct, then the rule for one value: identical rows, or both refuse."""
    mapping = tick_mapping(None, {"ts_event": "ms", "ts_recv": "us"} if in_ms else {})
    decoder = RawDecoder(mapping, PACKED, capacity=CAPACITY)
    values = [packed(record) for record in records]
    padded = [
        {k: v.rstrip(b"\0") if isinstance(v, bytes) else v for k, v in record.items()}
        for record in records
    ]
    assert decoded(decoder, values) == [alone(mapping, record) for record in padded]


def test_a_raw_message_of_another_size_is_no_frame():
    """Too short, too long, none: a dead letter each, the others are rows."""
    decoder = RawDecoder(tick_mapping(), {"symbol": "S8", "timestamp": "<i8"}, capacity=CAPACITY)
    good = b"SPY\0\0\0\0\0" + struct.pack("<q", 5)
    found = decoded(decoder, [good, good[:-1], None, good + b"x", good])
    assert found[1:4] == [ErrorClass.FRAME] * 3
    assert found[0] == found[4]
    assert "16" in decoder.reason(1).text


def test_a_format_that_cannot_be_read_is_a_problem_of_the_configuration(tmp_path):
    """Said once, with the key, at the start; a crash loop would say it for ever."""
    with pytest.raises(ConfigProblems, match="'symbol' is absent") as problems:
        check_format(IngestConfig(format="raw", raw_fields={"timestamp": "S9", "bid": "S2"}))
    assert len(problems.value.problems) == 3
    schema = tmp_path / "schema.json"
    for content in (None, b"{", b'{"type": "record", "name": "X", "fields": 1}'):
        if content is not None:
            schema.write_bytes(content)
        with pytest.raises(ConfigProblems, match="reader_schema"):
            check_format(IngestConfig(reader_schema=str(schema)))
    check_format(IngestConfig())


@pytest.mark.broker
@pytest.mark.crash
@pytest.mark.parametrize("kind", ["json", "raw"])
def test_ingest_takes_the_other_formats(tmp_path, kind):
    """Through the daemon: good ones are in the ring, poison is dead-lettered with its class."""
    extra = f'[ingest]\nformat = "{kind}"\nraw_fields = {{ symbol = "S8", timestamp = "<i8" }}\n'
    good = json.dumps(FULL).encode()
    if kind == "raw":
        good = b"SPY\0\0\0\0\0" + struct.pack("<q", FULL["timestamp"])
    with world(tmp_path, extra) as one:
        one.send([good, good, b"bad"] * 20)
        status = one.consumed(60)
        assert (status["published"], status["dead_lettered"]) == (40, 20)
        letter = dict(one.letters(20)[0].headers())
        assert letter["mesh.error.class"] == (b"body" if kind == "json" else b"frame")
        assert "mesh.schema.id" not in letter
        assert one.registry.asked == []
        one.unhurt()
