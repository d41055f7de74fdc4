"""Which value of a message fills which column of a row, and how it is converted.

Both decoders follow one rule: the compiled plan (`plan`) does in C what `Column.cell` does to a
value that fastavro has read.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import numpy as np

from workers.contract.dtypes import TICK_DTYPE
from workers.ingest.errors import ErrorClass, MessageRejected

Rows = np.ndarray[Any, np.dtype[Any]]
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
DAY_NS: Final = 86_400 * 10**9
UNITS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
#: columns of TICK_DTYPE by the field of the message that fills them, where nothing else is said
FIELDS: Final[dict[str, str]] = {
    "symbol": "symbol",
    "ts_event": "timestamp",
    "ts_recv": "ts_recv",
    "bid": "bid",
    "ask": "ask",
    "last": "last",
    "bid_size": "bid_size",
    "ask_size": "ask_size",
    "volume": "volume",
    "open_interest": "open_interest",
    "implied_volatility": "implied_volatility",
    "delta": "delta",
    "gamma": "gamma",
    "vega": "vega",
    "theta": "theta",
    "rho": "rho",
    "underlying_price": "underlying_price",
    "sequence": "sequence",
    "source_flags": "flags",
    "venue": "venue",
}
TIMES: Final = ("ts_event", "ts_recv")
REQUIRED: Final = ("symbol", "ts_event")
CUT: Final = ("venue",)
ABSENT: Final[dict[str, int]] = {"sequence": -1}


class Nanoseconds(int):
    """A value of Avro's timestamp-nanos, which fastavro would return as a plain int."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the row, and the value in the message that fills it."""

    name: str
    path: tuple[str, ...]  # names of fields, from the outermost record on
    kind: str  # numpy's: f, i, u or S
    at: int  # bytes from the start of the row
    size: int  # bytes
    unit_ns: int = 0  # what a plain number counts, for a time; 0: no time
    absent: float | int | bytes = 0
    required: bool = False  # not empty, above 0
    cut: bool = False  # a longer text is cut, else refused

    def cell(self, value: Any) -> float | int | bytes:
        """Return the cell for `value` (as fastavro reads it).

        Raises:
            MessageRejected: the message cannot become a row.
        """
        if value is None:
            return self.absent
        if self.kind == "S":
            return self._text(value)
        if self.kind == "f":
            return self._float(value)
        return self._integer(value)

    def check(self, cell: float | bytes) -> None:
        """Raise MessageRejected where a required column holds nothing."""
        if not cell or (isinstance(cell, int) and cell < 0):
            raise MessageRejected(ErrorClass.VALUE, f"{self.name}: {cell!r}; it is required")

    def _text(self, value: Any) -> bytes:
        if not isinstance(value, str | bytes):
            raise self._unfit(value)
        data = value.encode() if isinstance(value, str) else value
        if b"\0" in data:
            raise MessageRejected(ErrorClass.VALUE, f"{self.name}: a zero byte in {data[:64]!r}")
        if len(data) > self.size:
            if not self.cut:
                raise MessageRejected(
                    ErrorClass.VALUE, f"{self.name}: {len(data)} bytes, {self.size} fit"
                )
            data = data[: self.size]
            if isinstance(value, str):
                data = data.decode(errors="ignore").encode()
        return data

    def _float(self, value: Any) -> float:
        if not isinstance(value, int | float | Decimal) or isinstance(value, Nanoseconds):
            raise self._unfit(value)
        return float(value)

    def _integer(self, value: Any) -> int:
        if isinstance(value, datetime):
            aware = value if value.tzinfo else value.replace(tzinfo=UTC)
            whole = (aware - EPOCH) // timedelta(microseconds=1) * 1000
        elif isinstance(value, date):
            whole = (value - EPOCH.date()).days * DAY_NS
        elif isinstance(value, float):
            whole = self._whole(value)
        elif isinstance(value, int):
            whole = int(value) * (1 if isinstance(value, Nanoseconds) else self.unit_ns or 1)
        else:
            raise self._unfit(value)
        bits = self.size * 8
        low, high = (0, 1 << bits) if self.kind == "u" else (-(1 << (bits - 1)), 1 << (bits - 1))
        if not low <= whole < min(high, 1 << 63):
            raise MessageRejected(
                ErrorClass.VALUE, f"{self.name}: {whole} does not fit {bits} bits"
            )
        return whole

    def _whole(self, value: float) -> int:
        scaled = value * self.unit_ns if self.unit_ns > 1 else value
        if not math.isfinite(scaled) or (self.unit_ns <= 1 and scaled != int(scaled)):
            raise MessageRejected(ErrorClass.VALUE, f"{self.name}: {value} is no whole number")
        return round(scaled)

    def _unfit(self, value: Any) -> MessageRejected:
        text = f"{self.name}: a {type(value).__name__} cannot fill a column of kind {self.kind!r}"
        return MessageRejected(ErrorClass.SCHEMA_INCOMPATIBLE, text)


class RowMapping:
    """The columns of one row dtype, and the row before anything is filled in."""

    def __init__(self, dtype: np.dtype[Any], columns: tuple[Column, ...]) -> None:
        """Keep both; `tree` has the columns by the path of their values."""
        self.dtype = dtype
        self.columns = columns
        template = np.zeros(1, dtype)
        for column in columns:
            template[column.name] = column.absent
        self.template = template.tobytes()
        self.tree: dict[str, Any] = {}
        for column in columns:
            node = self.tree
            for name in column.path[:-1]:
                node = node.setdefault(name, {})
            node[column.path[-1]] = column

    def row(self, record: Any) -> Rows:
        """Return the row, shape (1,), of a record as fastavro reads it.

        Raises:
            MessageRejected: the message cannot become a row.
        """
        return self.filled(_at(record, column.path) for column in self.columns)

    def filled(self, values: Iterable[Any]) -> Rows:
        """Return the row, shape (1,), of a value for each of `columns`.

        Raises:
            MessageRejected: the message cannot become a row.
        """
        row = np.frombuffer(bytearray(self.template), self.dtype)
        for column, value in zip(self.columns, values, strict=True):
            cell = column.cell(value)
            row[column.name] = cell
            if column.required:
                column.check(cell)
        return row


def _at(value: Any, path: tuple[str, ...]) -> Any:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def tick_mapping(
    fields: Mapping[str, str] | None = None, units: Mapping[Any, str] | None = None
) -> RowMapping:
    """Return the mapping to TICK_DTYPE: FIELDS, with `fields` put over them.

    `fields` has paths ("a.b") by column, an empty one for a column that is not filled; `units`
    has what a time counts (s, ms, us, ns) where the writer sends a plain number.
    """
    paths = {**FIELDS, **(fields or {})}
    columns = tuple(
        _column(TICK_DTYPE, name, tuple(path.split(".")), UNITS[(units or {}).get(name, "ns")])
        for name, path in paths.items()
        if path
    )
    return RowMapping(TICK_DTYPE, columns)


def _column(dtype: np.dtype[Any], name: str, path: tuple[str, ...], unit_ns: int) -> Column:
    field, at = dtype.fields[name][:2]  # type: ignore[index] # a record dtype has fields
    absent: float | bytes = ABSENT.get(name, 0)
    if field.kind == "f":
        absent = math.nan
    elif field.kind == "S":
        absent = b""
    return Column(
        name,
        path,
        field.kind,
        at,
        field.itemsize,
        unit_ns=unit_ns if name in TIMES else 0,
        absent=absent,
        required=name in REQUIRED,
        cut=name in CUT,
    )
