"""Reads msgpack: what a cell of a Struct holds, without the time that importing msgspec takes.

Format: https://github.com/msgpack/msgpack/blob/master/spec.md. Extension types are refused: the
mesh writes none.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

#: first byte -> how its number is packed
NUMBERS = {
    code: struct.Struct(">" + form)
    for code, form in zip(range(0xCA, 0xD4), "fdBHIQbhiq", strict=True)
}
#: first byte -> how the length that follows is packed
LENGTHS = {
    code: struct.Struct(">" + form)
    for code, form in (
        (0xC4, "B"),
        (0xC5, "H"),
        (0xC6, "I"),  # bytes
        (0xD9, "B"),
        (0xDA, "H"),
        (0xDB, "I"),  # text
        (0xDC, "H"),
        (0xDD, "I"),  # arrays
        (0xDE, "H"),
        (0xDF, "I"),  # maps
    )
}
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
#: what `unpack` raises for bytes that are no msgpack value
NOT_MSGPACK = (ValueError, IndexError, TypeError, RecursionError, struct.error)


def unpack(data: bytes) -> Any:
    """Return the one value that `data` holds; raises one of NOT_MSGPACK for anything else."""
    value, end = _value(data, 0)
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes behind the value")
    return value


def _value(data: bytes, at: int) -> tuple[Any, int]:
    """Return the value that begins at `at`, and where it ends."""
    code = data[at]
    at += 1
    if code in CONSTANTS:
        return CONSTANTS[code], at
    if code < 0x80 or code >= 0xE0:
        return code - (256 if code >= 0xE0 else 0), at
    if (number := NUMBERS.get(code)) is not None:
        return number.unpack_from(data, at)[0], at + number.size
    if code < 0xC0:  # a length within the first byte: maps, arrays, text
        take: Callable[[bytes, int, int], tuple[Any, int]] = (_map, _array, _text, _text)[
            (code >> 4) - 8
        ]
        return take(data, at, code & (0x1F if code >= 0xA0 else 0x0F))
    length = LENGTHS.get(code)
    if length is None:
        raise ValueError(f"byte {code:#x} begins no value")
    count, at = length.unpack_from(data, at)[0], at + length.size
    if code <= 0xC6:
        return _bytes(data, at, count)
    return (_text if code <= 0xDB else _array if code <= 0xDD else _map)(data, at, count)


def _bytes(data: bytes, at: int, count: int) -> tuple[bytes, int]:
    if at + count > len(data):
        raise ValueError(f"{count} bytes from {at} on, there are {len(data)}")
    return data[at : at + count], at + count


def _text(data: bytes, at: int, count: int) -> tuple[str, int]:
    raw, end = _bytes(data, at, count)
    return raw.decode(), end


def _array(data: bytes, at: int, count: int) -> tuple[list[Any], int]:
    values = []
    for _ in range(count):
        value, at = _value(data, at)
        values.append(value)
    return values, at


def _map(data: bytes, at: int, count: int) -> tuple[dict[Any, Any], int]:
    values = {}
    for _ in range(count):
        key, at = _value(data, at)
        values[key], at = _value(data, at)
    return values, at
