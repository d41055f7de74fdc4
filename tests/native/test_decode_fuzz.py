"""The decoder of ingest under the sanitizers: plans over damaged bodies, in plain C."""

from __future__ import annotations

import decimal
import io
import json
import struct

import fastavro
import pytest

from workers.contract.quote_schema import QUOTE_READER_SCHEMA, QUOTE_SCHEMA
from workers.ingest.decode.decoder import Decoder
from workers.ingest.decode.mapping import tick_mapping
from workers.ingest.decode.plan import plan_parts

SOURCE = "tests/native/fuzz_decode.c"
SANITIZERS = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-lm"]
NESTED = {
    "type": "record",
    "name": "Nested",
    "fields": [
        {"name": "skipped", "type": ["null", "bytes", {"type": "fixed", "name": "F", "size": 3}]},
        {
            "name": "symbol",
            "type": ["string", "bytes", {"type": "enum", "name": "E", "symbols": ["A", "BB"]}],
        },
        {"name": "timestamp", "type": ["long", "double", "boolean"]},
        {
            "name": "bid",
            "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 4},
        },
        {
            "name": "sides",
            "type": [
                "null",
                {
                    "type": "record",
                    "name": "S",
                    "fields": [
                        {"name": "ask", "type": ["float", "null", "int"]},
                        {"name": "flags", "type": "long"},
                        {"name": "venue", "type": "string"},
                    ],
                },
            ],
        },
    ],
}
NESTED_FIELDS = {"ask": "sides.ask", "source_flags": "sides.flags", "venue": "sides.venue"}


def bodies(schema, values):
    """Values as fastavro writes them."""
    parsed = fastavro.parse_schema(schema)
    for value in values:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, value)
        yield out.getvalue()


def case(schema, reader, values, **mapping):
    """What the program reads: one plan, as ingest compiles it, and some good bodies."""
    rows = tick_mapping(**mapping)

    class Shelf:
        def schema(self, _):
            return json.dumps(schema)

    decoder = Decoder(Shelf(), rows, reader, capacity=1)
    decoder.decode_values([b"\0\0\0\0\1"])
    writer = decoder._writers[1]
    parts = plan_parts(writer.schema, writer.reader, rows)
    found = list(bodies(schema, values))
    head = struct.pack("<4I", *map(len, parts), len(found)) + b"".join(parts)
    return head + b"".join(struct.pack("<I", len(body)) + body for body in found)


@pytest.fixture
def corpus(tmp_path):
    """A file of cases."""
    numbers = {f["name"]: n + 0.5 for n, f in enumerate(QUOTE_SCHEMA["fields"])}
    whole = {"timestamp": 1_700_000_000 * 10**9, "volume": 5, "open_interest": 1 << 40}
    full = {
        **numbers,
        **whole,
        "symbol": "SPY   260118C00100000",
        "ts_recv": whole["timestamp"],
        "sequence": 9,
        "flags": 3,
        "venue": "XCBO",
    }
    absent = dict.fromkeys(
        ("ts_recv", "bid_size", "ask_size", "sequence", "underlying_price", "rho", "flags", "venue")
    )
    quotes = [full, {**full, **absent}]
    price = decimal.Decimal("12.3456")
    nested = [
        {"skipped": b"xy", "symbol": "\u20ac" * 10, "timestamp": 1.5, "bid": price, "sides": None},
        {
            "skipped": None,
            "symbol": "BB",
            "timestamp": 5,
            "bid": -price,
            "sides": {"ask": 1.5, "flags": 7, "venue": "a venue with a long name"},
        },
    ]
    path = tmp_path / "corpus"
    path.write_bytes(
        case(QUOTE_SCHEMA, QUOTE_READER_SCHEMA, quotes)
        + case(NESTED, None, nested, fields=NESTED_FIELDS, units={"ts_event": "s"})
    )
    return path


@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_no_damaged_body_makes_the_decoder_leave_its_bounds(compiled, run, corpus, cc):
    """Cut anywhere and damaged at random: no access outside a body, a plan or a row."""
    program = compiled(SOURCE, *SANITIZERS, cc=cc, headers="workers/ingest/decode/_avro")
    with corpus.open("rb") as file:
        ended = run(program, 20_000, stdin=file)
    assert ended.returncode == 0, ended.stderr[:4000]
    decoded, refused = map(int, ended.stdout.split())
    assert decoded > 1000
    assert refused > 10_000
