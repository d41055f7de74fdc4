"""Deribit option snapshots: CSV with a header, as its API, archives of it and Tardis name columns.

Prices stay in coin, as the exchange quotes them. Deribit writes 0 for a side that is absent. Its
greeks are per day (theta) and per point of volatility or rate (vega, rho); here they are per year
and per 1.00. Volatility comes as a fraction (`implied_volatility`) or in percent (`mark_iv`). What
a file says about expiry or time to maturity is not used: contracts end at 08:00 UTC of the day in
their name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa

from workers.market_data.archive import Rows, blank
from workers.market_data.csv_stream import Layout, tables
from workers.market_data.files import Location, members
from workers.market_data.named_columns import Numbers, numbers, set_numbers, set_symbols, times_ns

SYMBOL: Final = "instrument_name"
#: field -> names it goes by, the best first; each with the factor to our units
_NAMES: Final[dict[str, tuple[tuple[str, float], ...]]] = {
    "bid": (("bid_price", 1.0), ("best_bid_price", 1.0)),
    "ask": (("ask_price", 1.0), ("best_ask_price", 1.0)),
    "bid_size": (("bid_amount", 1.0), ("best_bid_amount", 1.0)),
    "ask_size": (("ask_amount", 1.0), ("best_ask_amount", 1.0)),
    "last": (("last_price", 1.0),),
    "underlying_price": (("underlying_price", 1.0), ("underlying", 1.0), ("futures_price", 1.0)),
    "open_interest": (("open_interest", 1.0),),
    "volume": (("volume", 1.0),),
    "implied_volatility": (("implied_volatility", 1.0), ("mark_iv", 0.01)),
    "delta": (("delta", 1.0),),
    "gamma": (("gamma", 1.0),),
    "vega": (("vega", 100.0),),
    "theta": (("theta", 365.0),),
    "rho": (("rho", 100.0),),
}
_ITEM: Final = re.compile(rb"'(\w+)': ([^,}]+)")
_GREEKS: Final = ("delta", "gamma", "vega", "theta", "rho")
_EXPECTED: Final = f"columns {SYMBOL}, timestamp, and prices such as bid_price or best_bid_price"


def read(path: Path) -> Iterator[Rows]:
    """Read a snapshot, or many written one after the other.

    Args:
        path: CSV, plain, gzip or zip.

    Yields:
        TICK_DTYPE (n,), as written.

    Raises:
        MarketDataError: A column or value is missing or wrong, or the file cannot be read.
    """
    for member in members(path):
        for line, table in tables(member, partial(_layout, member.location)):
            yield _rows(member.location, line, table)


def _layout(location: Location, header: list[str]) -> Layout:
    names = tuple(name.strip() for name in header)
    priced = any(name in names for field in ("bid", "ask") for name, _ in _NAMES[field])
    if SYMBOL not in names or "timestamp" not in names or not priced:
        raise location.error(
            f"columns {', '.join(names)[:200]}", expected=_EXPECTED, remedy="add them", line=1
        )
    types = {name: pa.float64() for known in _NAMES.values() for name, _ in known if name in names}
    types |= dict.fromkeys(
        (n for n in (SYMBOL, "timestamp", "greeks", "stats") if n in names), pa.binary()
    )
    return Layout(names, types, header=True)


def _rows(location: Location, line: int, table: pa.Table) -> Rows:
    rows = blank(table.num_rows)
    set_symbols(rows, table[SYMBOL].to_pylist(), location, line)
    rows["ts_event"] = times_ns(table["timestamp"], location, line)
    rows["venue"] = b"DERIBIT"
    for field, known in _NAMES.items():
        for name, factor in known:
            if name in table.column_names:
                set_numbers(rows, field, numbers(table[name]) * factor)
                break
    for side in ("bid", "ask"):
        rows[side][rows[side] == 0.0] = np.nan
    if "greeks" in table.column_names:
        _set_packed(rows, table["greeks"].to_pylist(), _GREEKS, location, line)
    if "stats" in table.column_names:
        _set_packed(rows, table["stats"].to_pylist(), ("volume",), location, line)
    return rows


def _set_packed(
    rows: Rows, texts: list[bytes | None], fields: tuple[str, ...], location: Location, line: int
) -> None:
    """Fields that a file keeps as the text of a dict, `{'vega': 0.94545, ...}`; None = absent."""
    found = [dict(_ITEM.findall(text or b"")) for text in texts]
    for field in fields:
        factor = _NAMES[field][0][1]
        values: Numbers = np.full(rows.size, np.nan)
        for row, items in enumerate(found):
            text = items.get(field.encode(), b"None").strip()
            if text == b"None":
                continue
            try:
                values[row] = float(text) * factor
            except ValueError:
                raise location.error(
                    f"{field} = {text[:40].decode('utf-8', 'replace')!r}, not a number",
                    expected="a number or None",
                    remedy="correct the row",
                    line=line + row,
                ) from None
        set_numbers(rows, field, values)
