"""Check a body against its writer's schema, byte by byte, and name the first error.

fastavro is lenient with malformed bytes (it takes negative indices, numbers beyond 64 bits and
fields that are cut short); the compiled plan is not. This walk applies the plan's rules to messages
that fastavro decodes, and describes errors for which the plan only has a status.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from workers.ingest.decode.plan import kind_of, named_types
from workers.ingest.errors import ErrorClass, MessageRejected

MAX_ITEMS: Final = 100_000  # of arrays and maps in one message: items may take no bytes at all
MAX_NESTING: Final = 64
_LONG_BITS: Final = 63
_SIZES: Final = {"float": 4, "double": 8}


class BodyCheck:
    """The rules of one writer's schema."""

    def __init__(self, writer: Any) -> None:
        """Check bodies of `writer`, a parsed schema."""
        self._writer = writer
        self._names = named_types(writer)

    def __call__(self, body: bytes) -> None:
        """Walk one body.

        Raises:
            MessageRejected: (BODY) with the field and byte of the first error.

        """
        walk = _Walk(body, self._names)
        walk.value(self._writer)
        if walk.at != len(body):
            raise _body_error(
                f"{len(body) - walk.at} bytes after the record, which ends at {walk.at}"
            )


def _body_error(text: str) -> MessageRejected:
    return MessageRejected(ErrorClass.BODY, text)


class _Walk:
    def __init__(self, body: bytes, names: dict[str, Any]) -> None:
        self._body, self._names = body, names
        self.at = 0
        self._items = 0
        self._depth = 0
        self._field = ""

    def value(self, schema: Any) -> None:
        """Walk over one value."""
        if isinstance(schema, str):
            schema = self._names.get(schema, schema)
        kind = kind_of(schema)
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._wrong(f"nested more than {MAX_NESTING} deep")
        if kind == "union":
            self.value(schema[self._index(len(schema), "branch")])
        elif kind in {"record", "error"}:
            for field in schema["fields"]:
                self._field = field["name"]
                self.value(field["type"])
        elif kind == "array":
            self._blocks(lambda: self.value(schema["items"]))
        elif kind == "map":
            self._blocks(lambda: self._pair(schema["values"]))
        else:
            self._plain(kind, schema)
        self._depth -= 1

    def _plain(self, kind: str, schema: Any) -> None:
        if kind == "enum":
            self._index(len(schema["symbols"]), "symbol")
        elif kind == "boolean":
            if self._read(1) not in {b"\0", b"\1"}:
                raise self._wrong("a boolean that is neither 0 nor 1")
        elif kind == "int":
            if not -(1 << 31) <= (number := self._long()) < 1 << 31:
                raise self._wrong(f"int {number} has more than 32 bits")
        elif kind == "long":
            self._long()
        elif kind in {"string", "bytes"}:
            self._read(self._long())
        elif kind != "null":
            self._read(_SIZES.get(kind) or schema["size"])

    def _pair(self, values: Any) -> None:
        self._read(self._long())
        self.value(values)

    def _blocks(self, item: Callable[[], None]) -> None:
        while count := self._long():
            if count < 0:
                count = -count
                self._long()  # bytes of the block
            self._items += count
            if self._items > MAX_ITEMS:
                raise self._wrong(f"{self._items} items, {MAX_ITEMS} are allowed")
            for _ in range(count):
                item()

    def _index(self, count: int, what: str) -> int:
        index = self._long()
        if not 0 <= index < count:
            raise self._wrong(f"{what} {index} of {count}")
        return index

    def _long(self) -> int:
        value = shift = 0
        while True:
            byte = self._read(1)[0]
            if shift > _LONG_BITS or (shift == _LONG_BITS and byte > 1):
                raise self._wrong("a number of more than 64 bits")
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return (value >> 1) ^ -(value & 1)
            shift += 7

    def _read(self, size: int) -> bytes:
        left = len(self._body) - self.at
        if not 0 <= size <= left:
            raise self._wrong(f"{size} bytes wanted, {left} are left")
        self.at += size
        return self._body[self.at - size : self.at]

    def _wrong(self, text: str) -> MessageRejected:
        return _body_error(f"field {self._field!r}, byte {self.at}: {text}")
