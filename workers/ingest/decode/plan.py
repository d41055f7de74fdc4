"""Compiles a writer's schema to a decode plan: Avro's schema resolution, done once a schema.

The rules are those of the specification (Avro 1.12, "Schema Resolution") as fastavro has them,
which is the oracle of the tests. What a flat list cannot hold (arrays, maps, recursive types, a
few logical types) is `Unplannable`: those messages go through fastavro, and are counted.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import astuple, dataclass
from typing import Any, Final

import numpy as np

from workers.ingest.decode._avro import _native
from workers.ingest.decode.mapping import Column, RowMapping
from workers.ingest.errors import ErrorClass, MessageRejected

Node = Any  # a Column, a dict of nodes by field name, or None where no column needs it
OP_DTYPE: Final = np.dtype(
    [
        ("code", "u1"),
        ("from", "u1"),
        ("to", "u1"),
        ("flags", "u1"),
        ("at", "<u4"),
        ("size", "<u4"),
        ("jump", "<u4"),
        ("scale", "<i8"),
    ]
)
OK: Final = _native.OK
FRAME: Final = _native.FRAME
UNKNOWN: Final = _native.UNKNOWN
INCOMPATIBLE: Final = _native.INCOMPATIBLE
BODY: Final = _native.BODY
VALUE: Final = _native.VALUE
FALLBACK: Final = _native.FALLBACK
PENDING: Final = _native.PENDING
STATUS_CLASS: Final = {
    FRAME: ErrorClass.FRAME,
    UNKNOWN: ErrorClass.SCHEMA_UNKNOWN,
    INCOMPATIBLE: ErrorClass.SCHEMA_INCOMPATIBLE,
    BODY: ErrorClass.BODY,
    VALUE: ErrorClass.VALUE,
}
STATUS_OF: Final = {kind: status for status, kind in STATUS_CLASS.items()}
_WIRE: Final = {
    "boolean": _native.WIRE_BOOL,
    "int": _native.WIRE_INT,
    "long": _native.WIRE_LONG,
    "float": _native.WIRE_FLOAT,
    "double": _native.WIRE_DOUBLE,
}
_ROW: Final = {
    "f8": _native.ROW_F8,
    "f4": _native.ROW_F4,
    "i8": _native.ROW_I8,
    "i4": _native.ROW_I4,
    "i2": _native.ROW_I2,
    "i1": _native.ROW_I1,
    "u8": _native.ROW_U8,
    "u4": _native.ROW_U4,
    "u2": _native.ROW_U2,
    "u1": _native.ROW_U1,
}
_SKIPS: Final = {
    "boolean": _native.OP_SKIP_BOOL,
    "int": _native.OP_SKIP_INT,
    "long": _native.OP_SKIP_LONG,
    "bytes": _native.OP_SKIP_BYTES,
    "string": _native.OP_SKIP_BYTES,
}
_NAMED: Final = {"record", "error", "enum", "fixed"}
_PRIMITIVE: Final = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
_PROMOTIONS: Final = {
    ("int", "long"),
    ("int", "float"),
    ("int", "double"),
    ("long", "float"),
    ("long", "double"),
    ("float", "double"),
    ("string", "bytes"),
    ("bytes", "string"),
}
#: nanoseconds of one step of a logical time
_LOGICAL_NS: Final = {
    "long-timestamp-millis": 10**6,
    "long-timestamp-micros": 10**3,
    "long-local-timestamp-millis": 10**6,
    "long-local-timestamp-micros": 10**3,
    "long-timestamp-nanos": 1,
    "long-local-timestamp-nanos": 1,
    "int-date": 86_400 * 10**9,
}
#: logical types that fastavro (with the readers that `decoder` adds) returns as own objects
_LOGICAL: Final = {
    *_LOGICAL_NS,
    "string-uuid",
    "int-time-millis",
    "long-time-micros",
    "bytes-decimal",
    "fixed-decimal",
}
_NO_SYMBOL: Final = 0xFFFFFFFF
_MAX_OPS: Final = 20_000


class Unplannable(Exception):
    """A pair of schemas is beyond a flat list."""


class Incompatible(Exception):
    """The writer's schema cannot be read as the reader's."""


def named_types(schema: Any, types: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the named types of a parsed schema by full name."""
    types = {} if types is None else types
    if isinstance(schema, list):
        for branch in schema:
            named_types(branch, types)
    elif isinstance(schema, dict):
        if schema["type"] in _NAMED:
            types[schema["name"]] = schema
        for field in schema.get("fields", ()):
            named_types(field["type"], types)
        for inner in ("items", "values"):
            if inner in schema:
                named_types(schema[inner], types)
    return types


def kind_of(schema: Any) -> str:
    """Return the type name of a resolved schema; `union` for a list."""
    if isinstance(schema, list):
        return "union"
    return str(schema["type"] if isinstance(schema, dict) else schema)


def logical_of(schema: Any) -> str:
    """Return `type-logicalType` where fastavro converts it, else the empty string."""
    name = f"{kind_of(schema)}-{schema.get('logicalType')}" if isinstance(schema, dict) else ""
    return name if name in _LOGICAL else ""


def compile_plan(writer: Any, reader: Any, mapping: RowMapping) -> _native.Plan:
    """Compile two parsed schemas.

    Raises:
        Unplannable: the plan cannot read this schema; fastavro does.
        Incompatible: the writer's schema does not resolve to the reader's.
    """
    return _native.Plan(*plan_parts(writer, reader, mapping))


def plan_parts(writer: Any, reader: Any, mapping: RowMapping) -> tuple[bytes, bytes, bytes]:
    """Return operations, pool and template of a plan (`_avro/plan.h`); raises as compile_plan."""
    return _Compiler(writer, reader, mapping).compile()


@dataclass(slots=True)
class _Op:
    """One operation, its fields as OP_DTYPE has them."""

    code: int
    source: int
    to: int
    flags: int
    at: int
    size: int
    jump: int
    scale: int

    def is_continued(self, at: int) -> bool:
        """Whether bytes for the row position `at` may be appended to this operation."""
        if self.code == _native.OP_COPY:
            return self.at + self.size == at
        return self.code == _native.OP_SKIP


class _Compiler:
    """Walks both schemas in the order of the writer's bytes and appends operations."""

    def __init__(self, writer: Any, reader: Any, mapping: RowMapping) -> None:
        self._writer, self._reader, self._mapping = writer, reader, mapping
        self._writer_names, self._reader_names = named_types(writer), named_types(reader)
        self._ops: list[_Op] = []
        self._pool = bytearray()
        self._template = bytearray(mapping.template)
        self._label = 0  # operations before this one are jumped to: not to be merged with
        self._open: list[str] = []  # names of the records that are being walked
        self._branches = 0  # how many unions deep

    def compile(self) -> tuple[bytes, bytes, bytes]:
        """Return the parts of the plan."""
        self._value(self._writer, self._reader, self._mapping.tree)
        for column in self._mapping.columns:
            if column.required:
                is_text = column.kind == "S"
                code = _native.OP_REQUIRE_TEXT if is_text else _native.OP_REQUIRE_POSITIVE
                self._emit(code, at=column.at)
        self._emit(_native.OP_END)
        ops = np.array([astuple(op) for op in self._ops], OP_DTYPE)
        return ops.tobytes(), bytes(self._pool), bytes(self._template)

    # --- the list -------------------------------------------------------------------------

    def _emit(
        self,
        code: int,
        source: int = 0,
        to: int = 0,
        flags: int = 0,
        *,
        at: int = 0,
        size: int = 0,
        jump: int = 0,
        scale: int = 0,
    ) -> int:
        """Append an operation and give its number; runs of plain bytes become one."""
        last = self._ops[-1] if len(self._ops) > self._label else None
        if last is not None and last.code == code and last.is_continued(at):
            last.size += size
            return len(self._ops) - 1
        if len(self._ops) >= _MAX_OPS:
            raise Unplannable(f"more than {_MAX_OPS} operations")
        self._ops.append(_Op(code, source, to, flags, at, size, jump, scale))
        return len(self._ops) - 1

    def _here(self) -> int:
        """Return the number of the next operation, as a target of jumps."""
        self._label = len(self._ops)
        return self._label

    def _store(self, data: bytes) -> int:
        self._pool += data
        return len(self._pool) - len(data)

    # --- resolution -----------------------------------------------------------------------

    def _value(self, writer: Any, reader: Any, node: Node) -> None:
        """Read a value of `writer` as `reader` into the columns under `node`."""
        writer = self._resolved(writer, self._writer_names)
        if isinstance(writer, list):
            self._union(writer, lambda branch: self._value(branch, reader, node))
            return
        reader = self._match(writer, reader)
        if reader is None:
            raise Incompatible(f"{kind_of(writer)} cannot be read as the reader's type")
        kind = kind_of(writer)
        if kind in {"record", "error"}:
            self._record(writer, reader, node)
        elif isinstance(node, Column):
            self._column(writer, reader, node)
        else:
            self._unread(writer, reader)

    def _match(self, writer: Any, reader: Any) -> Any:
        """Return the reader's type, or branch, that `writer` (no union) is read as, else None."""
        reader = self._resolved(reader, self._reader_names)
        if isinstance(reader, list):
            matches = (self._match(writer, branch) for branch in reader)
            return next((match for match in matches if match is not None), None)
        kind, wanted = kind_of(writer), kind_of(reader)
        if kind in {"array", "map"}:
            raise Unplannable(f"an {kind}")
        if kind in _NAMED and wanted in _NAMED:
            return reader if self._same_name(writer, reader) else None
        return reader if kind == wanted or (kind, wanted) in _PROMOTIONS else None

    def _same_name(self, writer: Any, reader: Any) -> bool:
        kind, wanted = kind_of(writer), kind_of(reader)
        if kind == wanted == "fixed" and writer["size"] != reader["size"]:
            return False
        name, aliases = writer["name"], reader.get("aliases", [])
        short = name.rpartition(".")[2]
        if short != reader["name"].rpartition(".")[2] and not {name, short} & set(aliases):
            return False
        if kind != wanted:
            raise Unplannable(f"{kind} {name} and {wanted} {reader['name']} share a name")
        return True

    def _resolved(self, schema: Any, names: dict[str, Any]) -> Any:
        if isinstance(schema, str) and schema not in _PRIMITIVE:
            schema = names[schema]
        if isinstance(schema, dict) and not isinstance(schema["type"], str):
            raise Unplannable("a type within a type")
        return schema

    def _record(self, writer: Any, reader: Any, node: Node) -> None:
        if isinstance(node, Column):
            raise Incompatible(f"{node.name}: a record cannot fill a column")
        with_names = {field["name"]: field for field in reader["fields"]}
        aliases = {alias: f for f in reader["fields"] for alias in f.get("aliases", ())}
        missing = dict(with_names)
        node = node or {}
        with _Nesting(self._open, writer["name"]):
            for field in writer["fields"]:
                match = with_names.get(field["name"], aliases.get(field["name"]))
                if match is None:
                    self._skip(field["type"])
                elif missing.pop(match["name"], None) is None:
                    raise Unplannable(f"two fields for {match['name']}")
                else:
                    self._value(field["type"], match["type"], node.get(match["name"]))
        for name, field in missing.items():
            if "default" not in field:
                raise Incompatible(f"no default for {name!r}, which the writer does not send")
            self._default(field["default"], node.get(name))

    def _default(self, value: Any, node: Node) -> None:
        """Put the reader's default into the columns under `node`."""
        if isinstance(node, dict):
            for name, below in node.items():
                self._default(value.get(name) if isinstance(value, dict) else None, below)
        elif node is not None and value is not None:
            try:
                cell = node.cell(value)
            except MessageRejected as error:
                raise Unplannable(f"default of {node.name}: {error}") from error
            data = np.array([cell], f"{node.kind}{node.size}").tobytes()
            if self._branches == 0:
                self._template[node.at : node.at + node.size] = data
            else:
                self._emit(_native.OP_SET, at=node.at, size=node.size, scale=self._store(data))

    # --- unions ---------------------------------------------------------------------------

    def _union(self, branches: list[Any], walk: Callable[[Any], None]) -> None:
        """One walk a branch; a branch that cannot be read fails only where it occurs."""
        if any(isinstance(branch, list) for branch in branches):
            raise Incompatible("a union within a union")
        self._branches += 1
        if len(branches) == 2 and "null" in branches and self._nullable(branches, walk):
            self._branches -= 1
            return
        table = self._store(bytes(4 * len(branches)))
        self._emit(_native.OP_UNION, size=len(branches), scale=table)
        jumps = []
        for number, branch in enumerate(branches):
            start = self._here()
            struct.pack_into("<I", self._pool, table + 4 * number, start)
            if not self._try(branch, walk):
                self._emit(_native.OP_FAIL, INCOMPATIBLE)
            jumps.append(self._emit(_native.OP_JUMP))
        end = self._here()
        for jump in jumps:
            self._ops[jump].jump = end
        self._branches -= 1

    def _nullable(self, branches: list[Any], walk: Callable[[Any], None]) -> bool:
        """The common union, in one operation; False where null itself cannot be read."""
        start = len(self._ops)
        if not self._try("null", walk) or len(self._ops) != start:
            del self._ops[start:]
            return False
        null = branches.index("null")
        test = self._emit(_native.OP_NULLABLE, null)
        self._here()
        if not self._try(branches[1 - null], walk):
            self._emit(_native.OP_FAIL, INCOMPATIBLE)
        self._ops[test].jump = self._here()
        return True

    def _try(self, branch: Any, walk: Callable[[Any], None]) -> bool:
        start = len(self._ops)
        try:
            walk(branch)
        except Incompatible:
            del self._ops[start:]
            return False
        return True

    # --- values that are skipped -----------------------------------------------------------

    def _skip(self, writer: Any) -> None:
        """Skip a value that the reader does not have."""
        writer = self._resolved(writer, self._writer_names)
        kind = kind_of(writer)
        if kind == "union":
            self._union(writer, self._skip)
        elif kind in {"record", "error"}:
            with _Nesting(self._open, writer["name"]):
                for field in writer["fields"]:
                    self._skip(field["type"])
        elif kind in _SKIPS:
            self._emit(_SKIPS[kind])
        elif kind == "enum":
            self._emit(_native.OP_SKIP_ENUM, size=len(writer["symbols"]))
        elif kind != "null":
            if kind in {"array", "map"}:
                raise Unplannable(f"an {kind}")
            self._emit(_native.OP_SKIP, size={"float": 4, "double": 8}.get(kind) or writer["size"])

    def _unread(self, writer: Any, reader: Any) -> None:
        """Skip a value that the reader has and no column needs: it must still be readable."""
        kind = kind_of(writer)
        if logical_of(writer) or kind == "enum":
            raise Unplannable(f"{kind} that no column needs")
        if "string" in {kind, kind_of(reader)}:
            self._emit(_native.OP_SKIP_TEXT)
        else:
            self._skip(writer)

    # --- values that fill a column ----------------------------------------------------------

    def _column(self, writer: Any, reader: Any, column: Column) -> None:
        kind, logical = kind_of(writer), logical_of(writer)
        if kind == "null":
            return
        if logical and logical not in _LOGICAL_NS and not logical.endswith("-decimal"):
            raise Unplannable(f"{column.name}: {logical}")
        if logical.endswith("-decimal"):
            self._decimal(writer, column)
        elif kind in _WIRE:
            self._number(kind, kind_of(reader), logical, column)
        else:
            self._text(writer, reader, column)

    def _number(self, kind: str, wanted: str, logical: str, column: Column) -> None:
        if column.kind == "S" or (logical and column.kind == "f"):
            raise Incompatible(f"{column.name}: {logical or kind} cannot fill it")
        if column.kind == "f":
            if (kind, column.size) in {("double", 8), ("float", 4)}:
                self._emit(_native.OP_COPY, at=column.at, size=column.size)
                return
        elif kind in {"int", "long"} and wanted in {"float", "double"}:
            raise Unplannable(f"{column.name}: {kind} as {wanted} as an integer")
        scale = _LOGICAL_NS.get(logical, column.unit_ns if column.unit_ns > 1 else 0)
        to = _ROW[f"{column.kind}{column.size}"]
        self._emit(
            _native.OP_NUMBER,
            _WIRE[kind],
            to,
            at=column.at,
            scale=0 if column.kind == "f" else scale,
        )

    def _text(self, writer: Any, reader: Any, column: Column) -> None:
        kind, wanted = kind_of(writer), kind_of(reader)
        if column.kind != "S":
            raise Incompatible(f"{column.name}: {kind} cannot fill it")
        flags = _native.FLAG_CUT if column.cut else 0
        if kind == "enum":
            self._enum(writer, reader, column)
        elif kind == "fixed":
            self._emit(
                _native.OP_FIXED, flags=flags, at=column.at, size=column.size, jump=writer["size"]
            )
        else:
            if kind != wanted and column.cut:
                raise Unplannable(f"{column.name}: {kind} as {wanted}, to be cut")
            if "string" in {kind, wanted}:
                flags |= _native.FLAG_UTF8
            self._emit(_native.OP_TEXT, flags=flags, at=column.at, size=column.size)

    def _enum(self, writer: Any, reader: Any, column: Column) -> None:
        """A table of what each of the writer's symbols is to the reader."""
        entries = bytearray()
        for symbol in writer["symbols"]:
            known = symbol if symbol in reader["symbols"] else reader.get("default")
            data = (known or "").encode()
            if len(data) > column.size:
                raise Unplannable(f"{column.name}: symbol {symbol!r} is too long")
            size = len(data) if known else _NO_SYMBOL
            entries += struct.pack("<II", self._store(data), size)
        table = self._store(bytes(entries))
        self._emit(_native.OP_ENUM, at=column.at, size=len(writer["symbols"]), scale=table)

    def _decimal(self, writer: Any, column: Column) -> None:
        scale, precision = writer.get("scale", 0), writer["precision"]
        fixed = writer["size"] if kind_of(writer) == "fixed" else 0
        if column.kind != "f":
            raise Incompatible(f"{column.name}: a decimal cannot fill it")
        if scale > 22 or column.size != 8 or (kind_of(writer) == "fixed" and fixed == 0):
            raise Unplannable(f"{column.name}: a decimal of scale {scale}")
        self._emit(_native.OP_DECIMAL, at=column.at, size=precision, jump=fixed, scale=scale)


class _Nesting:
    """A record that is being walked; a recursive one has no flat list."""

    def __init__(self, names: list[str], name: str) -> None:
        self._names, self._name = names, name

    def __enter__(self) -> None:
        if self._name in self._names:
            raise Unplannable(f"{self._name} contains itself")
        self._names.append(self._name)

    def __exit__(self, *_: object) -> None:
        self._names.pop()
