"""The compiled plan against fastavro: random schemas, values and broken bytes, one result."""

from __future__ import annotations

import copy
import io
import json
import math

import fastavro
import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from workers.contract.quote_schema import frame
from workers.ingest.decode.decoder import Decoder, plan
from workers.ingest.decode.mapping import Column, RowMapping
from workers.ingest.decode.wellformed import BodyCheck

NAMES = ["a", "b", "c", "d", "e", "f"]
SYMBOLS = ["BUY", "SELL", "HOLD", "OFF"]
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}
MICROS = {"type": "long", "logicalType": "timestamp-micros"}
NANOS = {"type": "long", "logicalType": "timestamp-nanos"}
DATE = {"type": "int", "logicalType": "date"}
DECIMAL = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 3}
FITS = {
    "boolean": ["f8", "i1"],
    "int": ["i8", "f8"],
    "long": ["i8"],
    "float": ["f8", "f4"],
    "double": ["f8"],
    "null": ["f8"],
    "decimal": ["f8"],
    "date": ["i8"],
    "timestamp-millis": ["i8"],
    "timestamp-micros": ["i8"],
    "timestamp-nanos": ["i8"],
}
KINDS = ["f8", "f4", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "S4", "S12"]


class Shelf:
    """A registry of the outside world with one schema."""

    def __init__(self, schema):
        self.text = json.dumps(schema)

    def schema(self, schema_id):
        """As SchemaRegistry.schema."""
        assert schema_id == 1
        return self.text


class Drawing:
    """Draws types whose names are used once in a schema."""

    def __init__(self, draw):
        self.draw = draw
        self.names = 0

    def named(self, kind):
        """A new name."""
        self.names += 1
        return f"{kind}{self.names}"

    def primitive(self):
        """A type without parts."""
        choice = self.draw(st.integers(0, 15))
        if choice < 8:
            return ["null", "boolean", "int", "long", "float", "double", "bytes", "string"][choice]
        if choice == 8:
            symbols = self.draw(st.permutations(SYMBOLS))[: self.draw(st.integers(1, 4))]
            made = {"type": "enum", "name": self.named("E"), "symbols": symbols}
            return {**made, "default": symbols[0]} if self.draw(st.booleans()) else made
        if choice == 9:
            size = self.draw(st.integers(0, 6))
            return {"type": "fixed", "name": self.named("F"), "size": size}
        if choice == 10:
            size = self.draw(st.integers(4, 6))
            logical = {"logicalType": "decimal", "precision": 9, "scale": 2}
            return {"type": "fixed", "name": self.named("F"), "size": size, **logical}
        return dict([MILLIS, MICROS, NANOS, DATE, DECIMAL][choice - 11])

    def type(self, depth):
        """Any type."""
        choice = self.draw(st.integers(0, 9))
        if choice < 5 or depth == 0:
            return self.primitive()
        if choice < 7:
            other = self.primitive()
            pair = ["null", other] if other != "null" else ["null", "long"]
            return pair if self.draw(st.booleans()) else pair[::-1]
        if choice < 9:
            branches = {}
            for _ in range(self.draw(st.integers(1, 3))):
                branch = self.record(depth - 1) if self.draw(st.booleans()) else self.primitive()
                kind = branch["type"] if isinstance(branch, dict) else branch
                branches[branch["name"] if kind in {"record", "enum", "fixed"} else kind] = branch
            return list(branches.values())
        return self.record(depth - 1)

    def record(self, depth):
        """A record of up to five fields."""
        names = self.draw(st.permutations(NAMES))[: self.draw(st.integers(1, 5))]
        fields = [{"name": name, "type": self.type(depth)} for name in names]
        return {"type": "record", "name": self.named("R"), "fields": fields}

    def default(self, kind):
        """A default for a type, or None where there is none."""
        kind = kind[0] if isinstance(kind, list) else kind
        if isinstance(kind, dict):
            if kind["type"] == "record":
                return {f["name"]: self.default(f["type"]) for f in kind["fields"]}
            if kind["type"] == "enum":
                return kind["symbols"][-1]
            if kind["type"] == "fixed":
                return "a" * kind["size"]
            kind = kind["type"]
        plain = {"null": None, "boolean": True, "float": 1.5, "double": -2.5, "string": "xyz"}
        return plain.get(kind, "q" if kind == "bytes" else 7)

    def edited(self, schema, *, wrap=True):
        """A writer's version of a reader's schema: other order, types, fields, names."""
        draw = self.draw
        if isinstance(schema, list):
            made = [self.edited(branch, wrap=False) for branch in schema]
            return made[0] if draw(st.integers(0, 4)) == 0 else made
        kind = schema["type"] if isinstance(schema, dict) else schema
        if kind == "record":
            fields = []
            for field in draw(st.permutations(schema["fields"])):
                what = draw(st.integers(0, 14))
                if what == 0:
                    continue
                new = {"name": field["name"], "type": self.edited(field["type"])}
                if what == 1:
                    new["name"] = "old_" + field["name"]
                    field["aliases"] = [new["name"]]
                fields.append(new)
            if draw(st.booleans()):
                fields.insert(
                    draw(st.integers(0, len(fields))), {"name": "extra", "type": self.type(1)}
                )
            return {**schema, "fields": fields}
        if draw(st.integers(0, 7)) == 0:
            down = {
                "double": ["float", "long", "int"],
                "long": ["int"],
                "float": ["long", "int"],
                "string": ["bytes"],
                "bytes": ["string"],
            }
            return draw(st.sampled_from(down.get(kind, [schema] * 9 + ["null", "int"])))
        if kind == "enum" and draw(st.integers(0, 3)) == 0:
            return {**schema, "symbols": draw(st.permutations(SYMBOLS))}
        if wrap and schema != "null" and draw(st.integers(0, 8)) == 0:
            return ["null", schema]
        return schema


def leaves(schema, path=()):
    """Paths at which a schema holds something that is no record, and its type."""
    kind = schema["type"] if isinstance(schema, dict) else schema
    if isinstance(schema, list):
        for branch in schema:
            yield from leaves(branch, path)
    elif kind == "record":
        for field in schema["fields"]:
            yield from leaves(field["type"], (*path, field["name"]))
    elif path:
        yield path, schema.get("logicalType", kind) if isinstance(schema, dict) else kind


@st.composite
def cases(draw):
    """(writer, reader, mapping): most columns can hold what they are mapped to."""
    drawing = Drawing(draw)
    reader = drawing.record(2)
    writer = drawing.edited(reader)
    for field in reader["fields"]:
        if draw(st.integers(0, 30)):
            field["default"] = drawing.default(field["type"])
    paths = {}
    for path, kind in leaves(reader):
        if any(path[: len(p)] == p or p[: len(path)] == path for p in paths if p != path):
            continue
        fits = FITS.get(kind, ["S12", "S4"])
        paths[path] = draw(st.sampled_from([*fits * 40, *KINDS]))
    fields = [(".".join(path), kind) for path, kind in paths.items()] or [("none", "f8")]
    dtype = np.dtype(fields)
    columns = []
    for name, kind in fields if paths else []:
        what, size = kind[0], int(kind[1:])
        absent = {"f": math.nan, "S": b""}.get(what, 0)
        columns.append(
            Column(
                name,
                tuple(name.split(".")),
                what,
                dtype.fields[name][1],
                size,
                unit_ns=draw(st.sampled_from([0, 1, 10**6])) if what == "i" else 0,
                absent=absent,
                required=what != "f"
                and draw(st.integers(0, 9)) == 0
                and (what == "S" or kind == "i8"),
                cut=what == "S" and draw(st.booleans()),
            )
        )
    return writer, reader, RowMapping(dtype, tuple(columns))


def written(writer, draw):
    """A value of the writer's schema as bytes, made by walking it."""
    out = io.BytesIO()

    def long(n):
        n = (n << 1) ^ (n >> 63)
        while n & ~0x7F:
            out.write(bytes([n & 0x7F | 0x80]))
            n >>= 7
        out.write(bytes([n]))

    def value(schema):
        kind = schema["type"] if isinstance(schema, dict) else schema
        if isinstance(schema, list):
            index = draw(st.integers(0, len(schema) - 1))
            long(index)
            value(schema[index])
        elif kind == "record":
            for field in schema["fields"]:
                value(field["type"])
        elif kind == "enum":
            long(draw(st.integers(0, len(schema["symbols"]) - 1)))
        elif kind == "fixed":
            out.write(draw(st.binary(min_size=schema["size"], max_size=schema["size"])))
        elif kind == "boolean":
            out.write(draw(st.sampled_from([b"\0", b"\1"])))
        elif kind == "int":
            long(draw(st.integers(-(1 << 31), (1 << 31) - 1) | st.integers(-3, 300)))
        elif kind == "long":
            large = st.integers(-(1 << 63), (1 << 63) - 1)
            long(draw(st.integers(-3, 300) | st.integers(0, 1 << 44) | large))
        elif kind == "float":
            out.write(np.float32(draw(st.floats(width=32))).tobytes())
        elif kind == "double":
            out.write(np.float64(draw(st.floats() | st.integers(-9, 9).map(float))).tobytes())
        elif kind == "string":
            data = draw(st.text(max_size=14)).encode()
            long(len(data))
            out.write(data)
        elif kind == "bytes":
            data = draw(st.binary(max_size=9))
            long(len(data))
            out.write(data)

    value(writer)
    return out.getvalue()


def broken(body, draw):
    """Flip, cut and extend bytes."""
    data = bytearray(body)
    for _ in range(draw(st.integers(0, 3))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    return bytes(data) + draw(st.binary(max_size=3))


def outcome(decoder, body):
    """The row as bytes, or the class of the error."""
    with np.errstate(over="ignore"):
        rows, status = decoder.decode_values([frame(1, body)])
    if status[0] != plan.OK:
        return "rejected"
    return [
        "nan" if value.dtype.kind == "f" and np.isnan(value) else value.tobytes()
        for value in (rows[0][name] for name in rows.dtype.names)
    ]


def both(writer, reader, mapping):
    """The decoder with its plan, and one that sends everything through fastavro."""
    fast = Decoder(Shelf(writer), mapping, reader, capacity=1)
    slow = Decoder(Shelf(writer), mapping, reader, capacity=1)
    for decoder in (fast, slow):
        decoder.decode_values([frame(1, b"\x80")])
    has_plan = bool(fast._plans)
    slow._plans.clear()
    return fast, slow, has_plan


@settings(max_examples=250)
@given(cases(), st.data())
def test_plan_and_fastavro_agree(case, data):
    """Any pair of schemas, any value, any damage: the same row from both, or both reject."""
    writer, reader, mapping = case
    fast, slow, has_plan = both(writer, reader, mapping)
    event("plan" if has_plan else "rejection" if slow._rejections else "fastavro alone")
    for _ in range(4):
        body = written(writer, data.draw)
        for candidate in (body, broken(body, data.draw)):
            expected = outcome(slow, candidate)
            event("rejected" if expected == "rejected" else "row")
            assert outcome(fast, candidate) == expected
    assert fast.fallback_decoded == 0 or not has_plan or "decimal" in json.dumps(writer)


@pytest.mark.parametrize("kind", ["i8", "i4", "u8", "f8"])
@pytest.mark.parametrize("value", [-(1 << 63), -(1 << 63) + 1, -1, 0, (1 << 63) - 1])
@pytest.mark.parametrize("logical", [{}, {"logicalType": "timestamp-nanos"}])
def test_plan_and_fastavro_agree_at_the_ends_of_a_long(kind, value, logical):
    """The smallest and the largest number, for columns that can hold them and such that cannot."""
    schema = {
        "type": "record",
        "name": "R",
        "fields": [{"name": "a", "type": {"type": "long", **logical}}],
    }
    column = Column("a", ("a",), kind[0], 0, int(kind[1:]))
    fast, slow, has_plan = both(schema, schema, RowMapping(np.dtype([("a", kind)]), (column,)))
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(copy.deepcopy(schema)), {"a": value})
    found = outcome(fast, out.getvalue())
    assert found == outcome(slow, out.getvalue())
    if kind == "i8":
        assert has_plan
        assert found == [value.to_bytes(8, "little", signed=True)]


@settings(max_examples=150)
@given(cases(), st.data())
def test_what_is_well_formed_reads_as_fastavro_does(case, data):
    """The check before fastavro refuses nothing that is whole: values are fastavro's own."""
    writer, _, _ = case
    check = BodyCheck(fastavro.parse_schema(copy.deepcopy(writer)))
    body = written(writer, data.draw)
    check(body)
    stream = io.BytesIO(body)
    try:
        fastavro.schemaless_reader(stream, fastavro.parse_schema(copy.deepcopy(writer)))
    except (OverflowError, ValueError):  # a time beyond year 9999
        return
    assert stream.tell() == len(body)
