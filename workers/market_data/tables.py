"""Parquet and CSV tables with named columns: archives of one's own.

Columns, in any order, are the fields of a message: `symbol` and `timestamp` (or `ts_event`) are
required, and at least one of `bid`, `ask`, `last`; every other field of TICK_DTYPE may be there
under its name (`flags` are the publisher's), what is not there is absent, columns of other names
are passed over. Rows are taken in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from workers.market_data.archive import BLOCK_ROWS, Rows, blank
from workers.market_data.csv_stream import Layout, tables
from workers.market_data.files import Location, members
from workers.market_data.named_columns import Numbers, numbers, set_numbers, set_symbols, times_ns

TIMES: Final = ("timestamp", "ts_event")
NUMBERS: Final = {
    **{
        name: name
        for name in (
            "bid",
            "ask",
            "last",
            "bid_size",
            "ask_size",
            "volume",
            "open_interest",
            "implied_volatility",
            "delta",
            "gamma",
            "vega",
            "theta",
            "rho",
            "underlying_price",
            "sequence",
        )
    },
    "flags": "source_flags",
}
_PRICES: Final = {"bid", "ask", "last"}
_EXPECTED: Final = "columns symbol, timestamp and at least one of bid, ask, last"


def read(path: Path) -> Iterator[Rows]:
    """Read a table.

    Args:
        path: Parquet, or CSV (plain, gzip, zip).

    Yields:
        TICK_DTYPE (n,), as written.

    Raises:
        MarketDataError: A column or value is missing or wrong, or the file cannot be read.
    """
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    if is_parquet:
        yield from _read_parquet(path)
        return
    for member in members(path):
        for line, table in tables(member, partial(_layout, member.location)):
            yield _rows(member.location, line, table)


def _read_parquet(path: Path) -> Iterator[Rows]:
    location = Location(path)
    try:
        # no read-ahead, a small buffer: a row group may be larger than memory
        with parquet.ParquetFile(
            path, pre_buffer=False, buffer_size=1 << 18, page_checksum_verification=True
        ) as file:
            wanted = _wanted(location, file.schema_arrow.names)
            position = 1
            for batch in file.iter_batches(BLOCK_ROWS, columns=wanted, use_threads=False):
                yield _rows(location, position, pa.Table.from_batches([batch]))
                position += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        text = str(error).splitlines()[0]
        raise location.error(f"cannot be read ({text})", expected="a whole Parquet file") from error


def _wanted(location: Location, names: list[str]) -> list[str]:
    """Choose the known columns; a missing or repeated one is a MarketDataError."""
    time = [name for name in TIMES if name in names][:1]
    for name in ("symbol", *time, *NUMBERS):
        if names.count(name) > 1:
            raise location.error(
                f"the column {name} twice", expected="each column once", remedy="rename one of them"
            )
    if "symbol" not in names or not time or not _PRICES & set(names):
        raise location.error(
            f"columns {', '.join(names)[:200]}",
            expected=_EXPECTED,
            remedy="rename or add columns",
        )
    others = (*NUMBERS, "ts_recv", "venue")
    return ["symbol", *time, *(name for name in others if name in names)]


def _layout(location: Location, header: list[str]) -> Layout:
    names = tuple(name.strip() for name in header)
    wanted = _wanted(location, list(names))
    types = {name: pa.float64() if name in NUMBERS else pa.binary() for name in wanted}
    return Layout(names, types, header=True)


def _rows(location: Location, line: int, table: pa.Table) -> Rows:
    rows = blank(table.num_rows)
    names = table.column_names
    set_symbols(rows, _texts(table["symbol"], "symbol", location), location, line)
    rows["ts_event"] = times_ns(
        table["timestamp" if "timestamp" in names else "ts_event"], location, line
    )
    if "ts_recv" in names:
        rows["ts_recv"] = times_ns(table["ts_recv"], location, line)
    if "venue" in names:
        rows["venue"] = np.array(
            [text or b"" for text in _texts(table["venue"], "venue", location)], "S8"
        )
    for name, field in NUMBERS.items():
        if name in names:
            set_numbers(rows, field, _numbers(table[name], name, location, line))
    return rows


def _numbers(column: pa.ChunkedArray, name: str, location: Location, line: int) -> Numbers:
    """Convert a column to float64; a value that does not fit is a MarketDataError."""
    try:
        return numbers(column.cast(pa.float64()))
    except pa.ArrowException as error:
        values = [] if pa.types.is_nested(column.type) else column.to_pylist()
        for row, value in enumerate(values):
            if not _fits(value):
                raise location.error(
                    f"{name} = {str(value)[:40]!r}",
                    expected="a number; whole ones up to 2^53",
                    remedy="correct the row",
                    line=line + row,
                ) from error
        raise location.error(
            f"column {name} of type {column.type}",
            expected="numbers",
            remedy="store it as float64 or int64",
        ) from error


def _fits(value: Any) -> bool:
    """Whether a value is a number that float64 holds exactly."""
    if isinstance(value, int):
        return abs(value) <= 1 << 53
    try:
        return value is None or bool(pa.scalar(value).cast(pa.float64()))
    except pa.ArrowException:
        return False


def _texts(column: pa.ChunkedArray, name: str, location: Location) -> list[bytes | None]:
    """Return a column of texts; another type is a MarketDataError."""
    try:
        values = column.cast(pa.binary()).to_pylist()
    except pa.ArrowException as error:
        raise location.error(
            f"column {name} of type {column.type}", expected="text", remedy="store it as a string"
        ) from error
    return list(values)
