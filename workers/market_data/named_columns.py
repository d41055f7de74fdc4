"""Columns with names to rows: times in any unit, texts, numbers; shared by tables and Deribit."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from workers.contract.dtypes import SYMBOL_BYTES, TICK_DTYPE

if TYPE_CHECKING:
    from workers.market_data.archive import Rows
    from workers.market_data.errors import MarketDataError
    from workers.market_data.files import Location

Numbers = np.ndarray[Any, np.dtype[np.float64]]
#: whole numbers below the limit count in this many ns: seconds until the year 5138, and so on
_UNITS: Final = ((10**11, 10**9), (10**14, 10**6), (10**17, 10**3))
_ARROW_UNITS: Final = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_MOST_NS: Final = (1 << 63) - 1
_UTC: Final = re.compile(r"(?:Z|[+-]00:?00)$")
_TIME: Final = "ISO 8601 with an offset, or whole s, ms, us or ns since 1970 (of one unit; to 2261)"


def numbers(column: pa.ChunkedArray) -> Numbers:
    """Return a column of float64, null as NaN.

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


def _integers(
    column: pa.ChunkedArray, location: Location, line: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return integers or timestamps as int64.

    Raises:
        MarketDataError: A null, or a number that does not fit.
    """
    if column.null_count:
        raise _no_time("no time", location, line + column.is_null().to_pylist().index(True))
    try:
        array = column.cast(pa.int64()).combine_chunks()
    except pa.ArrowInvalid:  # unsigned ones that are larger
        values = column.to_pylist()
        row = next(row for row, value in enumerate(values) if value > _MOST_NS)
        raise _no_time(f"time {values[row]}", location, line + row) from None
    data = array.buffers()[1]
    inside = slice(array.offset, array.offset + len(array))
    return np.frombuffer(data, np.int64)[inside] if data else np.empty(0, np.int64)


def set_symbols(rows: Rows, texts: list[bytes | None], location: Location, line: int) -> None:
    """Fill `symbol`.

    Raises:
        MarketDataError: A symbol is empty, too long, or has a zero byte.
    """
    for row, text in enumerate(texts):
        if not text or len(text) > SYMBOL_BYTES or b"\0" in text:
            raise location.error(
                f"symbol {(text or b'').decode('utf-8', 'replace')!r}",
                expected=f"1 to {SYMBOL_BYTES} bytes, none of them zero",
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


def times_ns(column: pa.ChunkedArray, location: Location, line: int) -> np.ndarray[Any, Any]:
    """Return times as ns since the epoch.

    Raises:
        MarketDataError: A value is not a time.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        return _scaled(_integers(column, location, line), _ARROW_UNITS[kind.unit], location, line)
    if pa.types.is_integer(kind):
        return scaled(_integers(column, location, line), location, line)
    texts = [_text(value) for value in column.to_pylist()]
    whole = bool(texts) and texts[0].lstrip("-").replace(".", "", 1).isdigit()
    convert: Callable[[str], int] = _whole if whole else _iso_ns
    found = np.empty(len(texts), np.int64)
    for row, text in enumerate(texts):
        try:
            found[row] = convert(text)
        except (ValueError, OverflowError):
            raise _no_time(f"time {text[:40]!r}", location, line + row) from None
    return scaled(found, location, line) if whole else found


def scaled(
    values: np.ndarray[Any, np.dtype[np.int64]], location: Location, line: int
) -> np.ndarray[Any, Any]:
    """Convert whole numbers of s, ms, us or ns to ns.

    The unit follows from the size of the numbers and is one for all; 0 counts as a time in any.

    Args:
        values: Times since the epoch, int64 (n,).
        location: The file, for errors.
        line: Line of the first value, for errors.

    Returns:
        Times in ns since the epoch, int64 (n,).

    Raises:
        MarketDataError: The sizes belong to several units.
    """
    if values.size == 0:
        return values
    factors = np.ones(values.size, np.int64)
    for limit, factor in reversed(_UNITS):
        factors[(values < limit) & (values > -limit)] = factor
    given = values != 0
    factor = int(factors[given][0]) if given.any() else 1
    other = given & (factors != factor)
    if other.any():
        row = int(np.argmax(other))
        raise _no_time(
            f"time {values[row]} in another unit than those before", location, line + row
        )
    return values * factor


def _scaled(
    values: np.ndarray[Any, np.dtype[np.int64]], factor: int, location: Location, line: int
) -> np.ndarray[Any, Any]:
    """Multiply by a factor; a time that 64 bits of ns do not hold is a MarketDataError."""
    limit = _MOST_NS // factor
    far = (values > limit) | (values < -limit)
    if far.any():
        row = int(np.argmax(far))
        raise _no_time(f"time {values[row]} x {factor} ns", location, line + row)
    return values * factor


def _no_time(found: str, location: Location, line: int) -> MarketDataError:
    return location.error(found, expected=_TIME, remedy="correct the row", line=line)


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
        # numpy turns years that do not fit round without a word
        if np.isnat(moment) or not "1678" <= text[:4] <= "2261":
            raise ValueError(text)
        return int(moment.astype(np.int64))
    other = datetime.fromisoformat(text)
    if other.tzinfo is None:
        raise ValueError(text)
    return since_epoch_ns(other)


def since_epoch_ns(moment: datetime) -> int:
    """Return a moment with a zone in ns since the epoch, to the microsecond."""
    return round(moment.timestamp() * 1e6) * 10**3
