"""Columns with names to rows: times in any unit, texts, numbers; shared by tables and Deribit."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from workers.records import SYMBOL_BYTES, TICK_DTYPE

if TYPE_CHECKING:
    from workers.market_data.archive import Rows
    from workers.market_data.files import Place

Numbers = np.ndarray[Any, np.dtype[np.float64]]
#: whole numbers below the limit count in this many ns: seconds until the year 5138, and so on
_UNITS: Final = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3))
_UTC: Final = re.compile(r"(?:Z|[+-]00:?00)$")
_TIME: Final = "ISO 8601 with an offset, or whole s, ms, us or ns since 1970"


def numbers(column: pa.ChunkedArray) -> Numbers:
    """Give a column of float64, null as NaN.

    From the buffers: whatever of Arrow's makes a numpy array or a scalar imports pandas where that
    is installed, 45 MiB and half a second.
    """
    array = column.combine_chunks()
    validity, data = array.buffers()
    inside = slice(array.offset, array.offset + len(array))
    values: Numbers = np.frombuffer(data, np.float64)[inside].copy() if data else np.empty(0)
    if array.null_count:
        bits = np.unpackbits(np.frombuffer(validity, np.uint8), bitorder="little")[inside]
        values[bits == 0] = np.nan
    return values


def _integers(column: pa.ChunkedArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Give a column of integers or timestamps without nulls as int64."""
    array = column.cast(pa.int64()).combine_chunks()
    data = array.buffers()[1]
    inside = slice(array.offset, array.offset + len(array))
    return np.frombuffer(data, np.int64)[inside] if data else np.empty(0, np.int64)


def set_symbols(rows: Rows, texts: list[bytes | None], place: Place, line: int) -> None:
    """Fill `symbol`. Raises MarketDataError for an empty or too long one."""
    for row, text in enumerate(texts):
        if not text or len(text) > SYMBOL_BYTES:
            raise place.error(
                f"symbol {(text or b'').decode('utf-8', 'replace')!r}",
                expected=f"1 to {SYMBOL_BYTES} bytes",
                remedy="correct the row",
                line=line + row,
            )
    rows["symbol"] = np.array(texts, f"S{SYMBOL_BYTES}")


def set_numbers(rows: Rows, name: str, values: Numbers) -> None:
    """Fill a field; what an integer field cannot hold (NaN, inf) becomes what means "not given"."""
    kind = TICK_DTYPE[name].kind
    if kind == "f":
        rows[name] = values
        return
    absent = -1 if name == "sequence" else 0
    limit = float(1 << 53) if kind == "i" else float((1 << 32) - 1)
    low = -limit if kind == "i" else 0.0
    usable = np.isfinite(values) & (values >= low) & (values <= limit)
    rows[name] = np.where(usable, np.round(np.where(usable, values, 0.0)), absent)


def times_ns(column: pa.ChunkedArray, place: Place, line: int) -> np.ndarray[Any, Any]:
    """Give times as ns since the epoch. Raises MarketDataError for what is no time."""
    kind = column.type
    if pa.types.is_timestamp(kind):
        _no_nulls(column, place, line)
        return _integers(column.cast(pa.timestamp("ns")))
    if pa.types.is_integer(kind):
        _no_nulls(column, place, line)
        return scaled(_integers(column))
    texts = [_text(value) for value in column.to_pylist()]
    try:
        if texts and texts[0].lstrip("-").replace(".", "", 1).isdigit():
            return scaled(np.array([_whole(text) for text in texts], np.int64))
        return np.array([_iso_ns(text) for text in texts], np.int64)
    except (ValueError, OverflowError):
        row = next(row for row, text in enumerate(texts) if not _is_time(text))
        raise place.error(
            f"time {texts[row][:40]!r}", expected=_TIME, remedy="correct the row", line=line + row
        ) from None


def scaled(values: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
    """Whole numbers of s, ms, us or ns as ns: the unit follows from their size, one for all."""
    largest = int(np.abs(values).max()) if values.size else 0
    factor = next((factor for limit, factor in _UNITS if largest < limit), 1)
    return values * factor


def _no_nulls(column: pa.ChunkedArray, place: Place, line: int) -> None:
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise place.error("no time", expected=_TIME, remedy="correct the row", line=line + row)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace").strip()
    return "" if value is None else str(value).strip()


def _whole(text: str) -> int:
    number, _, fraction = text.partition(".")
    if fraction.strip("0"):
        raise ValueError(text)  # a fraction of which unit?
    return int(number)


@lru_cache(maxsize=1 << 12)
def _iso_ns(text: str) -> int:
    """ISO 8601 in UTC to the nanosecond, with another offset to the microsecond."""
    if match := _UTC.search(text):
        moment = np.datetime64(text[: match.start()].replace(" ", "T"), "ns")
        if np.isnat(moment):
            raise ValueError(text)
        return int(moment.astype(np.int64))
    other = datetime.fromisoformat(text)
    if other.tzinfo is None:
        raise ValueError(text)
    return round(other.timestamp() * 1e6) * 10**3


def _is_time(text: str) -> bool:
    try:
        _whole(text) if text[:9].lstrip("-").isdigit() else _iso_ns(text)
    except ValueError:
        return False
    return True
