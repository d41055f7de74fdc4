"""The columns of QuantConnect-Lean CSV files, and how they become rows.

The files have no header: what a column is follows from the kind of file and the number of columns
(older files lack sizes, exchange or condition). Bars are known when they end: that is their time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from workers.market_data.archive import SUSPICIOUS, Rows, blank
from workers.market_data.csv_stream import Layout
from workers.market_data.named_columns import numbers, since_epoch_ns

if TYPE_CHECKING:
    from workers.market_data.files import Location

_BID, _ASK = ("bo", "bh", "bl", "bid"), ("ao", "ah", "al", "ask")
#: kind of file -> number of columns -> their names
COLUMNS: Final[dict[str, dict[int, tuple[str, ...]]]] = {
    "quote bars": {
        11: ("time", *_BID, "bid_size", *_ASK, "ask_size"),
        9: ("time", *_BID, *_ASK),
    },
    "trade bars": {
        6: ("time", "open", "high", "low", "last", "volume"),
        5: ("time", "open", "high", "low", "last"),
    },
    "open interest": {2: ("time", "open_interest")},
    "quote ticks": {
        3: ("time", "bid", "ask"),
        5: ("time", "bid", "bid_size", "ask", "ask_size"),
        6: ("time", "bid", "bid_size", "ask", "ask_size", "exchange"),
        7: ("time", "bid", "bid_size", "ask", "ask_size", "exchange", "suspicious"),
        8: ("time", "bid", "bid_size", "ask", "ask_size", "exchange", "condition", "suspicious"),
    },
    "trade ticks": {
        3: ("time", "last", "volume"),
        4: ("time", "last", "volume", "exchange"),
        5: ("time", "last", "volume", "exchange", "suspicious"),
        6: ("time", "last", "volume", "exchange", "condition", "suspicious"),
    },
}
_TEXT = {"exchange", "condition", "suspicious"}
_PRICES = ("bid", "ask", "last")
_DAY_MS = 86_400_000  # what the clock shows: on the days it is changed too
DAILY_S, HOUR_S = 86_400, 3600


@dataclass
class Series:
    """One member: what it is of, and what has to be carried from piece to piece."""

    location: Location
    symbol: bytes
    kind: str
    divisor: float  # of prices
    zone: ZoneInfo
    midnight_ns: int  # of its day; 0 where the rows carry their dates
    bar_s: int  # length of a bar; 0 for ticks, -1 to be found out
    sides: dict[str, float] = field(default_factory=dict)

    def layout(self, fields: list[str]) -> Layout:
        """Choose the columns by their number.

        Raises:
            MarketDataError: Another number of columns.
        """
        known = COLUMNS[self.kind]
        names = known.get(len(fields))
        if names is None:
            shown = " or ".join(", ".join(n) for n in known.values())
            raise self.location.error(
                f"{len(fields)} columns", expected=f"{self.kind}: {shown}", line=1
            )
        dated = self.midnight_ns == 0
        types = {
            name: pa.binary() if name in _TEXT or (dated and name == "time") else pa.float64()
            for name in names
        }
        return Layout(names, types)

    def rows(self, line: int, table: pa.Table) -> Rows:
        """Return the rows of one piece.

        Raises:
            MarketDataError: A time is invalid.
        """
        rows = blank(table.num_rows)
        rows["symbol"] = self.symbol
        rows["venue"] = b"LEAN"
        rows["ts_event"] = self._times(line, table["time"])
        for name in table.column_names:
            if name in _PRICES:
                rows[name] = numbers(table[name]) / self.divisor
            elif name in {"bid_size", "ask_size"}:
                rows[name] = numbers(table[name])
            elif name in {"volume", "open_interest"}:
                rows[name] = np.nan_to_num(numbers(table[name]), posinf=0.0, neginf=0.0)
            elif name == "exchange":
                rows["venue"] = _texts(table[name], b"")
            elif name == "suspicious":
                marked = _texts(table[name], b"0") != b"0"
                rows["source_flags"][marked] |= SUSPICIOUS
        if self.kind == "quote ticks":
            self._carry_sides(rows)
        return rows

    def _times(self, line: int, column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
        if self.midnight_ns == 0:
            return self._dated_times(line, column)
        milliseconds = numbers(column)
        wrong = ~((milliseconds >= 0) & (milliseconds < _DAY_MS))
        if wrong.any():
            row = int(np.argmax(wrong))
            value = milliseconds[row]
            found = "a row without a time" if np.isnan(value) else f"time {value:.15g}"
            raise self.location.error(
                found, expected=f"milliseconds since midnight, 0 to {_DAY_MS}", line=line + row
            )
        return self._shown_at(milliseconds) + self.bar_s * 10**9

    def _shown_at(self, milliseconds: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the moments, in ns, at which the clock of the zone shows so many ms of its day."""
        midnight = datetime.fromtimestamp(self.midnight_ns // 10**9, self.zone)
        if midnight.replace(hour=23).utcoffset() == midnight.utcoffset():
            nanoseconds = np.round(milliseconds * 1e6).astype(np.int64)
            times: np.ndarray[Any, Any] = self.midnight_ns + nanoseconds
            return times
        # the day that clocks are changed: an hour less or more has passed than they show
        shown = [midnight + timedelta(milliseconds=ms) for ms in milliseconds.tolist()]
        return np.array([since_epoch_ns(moment) for moment in shown], np.int64)

    def _dated_times(self, line: int, column: pa.ChunkedArray) -> np.ndarray[Any, Any]:
        """Times of hourly and daily bars, `YYYYMMDD HH:MM`, at the end of the bar."""
        texts = [text or b"" for text in column.to_pylist()]
        if self.bar_s < 0:  # neither the name nor a folder says it
            self.bar_s = HOUR_S if any(not t.endswith(b"00:00") for t in texts) else DAILY_S
        try:
            begins = [moment_ns(text, self.zone) for text in texts]
        except ValueError:
            row = next(i for i, text in enumerate(texts) if not _is_moment(text, self.zone))
            found = f"time {texts[row][:20].decode('utf-8', 'replace')!r}"
            raise self.location.error(found, expected="YYYYMMDD HH:MM", line=line + row) from None
        return np.array(begins, np.int64) + self.bar_s * 10**9

    def _carry_sides(self, rows: Rows) -> None:
        """A side that did not change is written as 0: it is what it was before."""
        for side in ("bid", "ask"):
            size = f"{side}_size"
            given = ~(rows[side] == 0.0)
            last = np.maximum.accumulate(np.where(given, np.arange(rows.size), -1))
            for name in (side, size):
                before = self.sides.get(name, np.nan)
                filled = np.where(last >= 0, rows[name][last], before)
                self.sides[name] = float(filled[-1]) if rows.size else before
                rows[name] = filled


def _texts(column: pa.ChunkedArray, empty: bytes) -> np.ndarray[Any, Any]:
    return np.array([text or empty for text in column.to_pylist()], "S8")


@lru_cache(maxsize=1 << 14)
def moment_ns(text: bytes, zone: ZoneInfo) -> int:
    """Return `YYYYMMDD HH:MM` (or the day alone) in ns since the epoch.

    Raises:
        ValueError: Another form.
    """
    form = "%Y%m%d %H:%M" if b" " in text else "%Y%m%d"
    moment = datetime.strptime(text.decode(), form).replace(tzinfo=zone)
    return since_epoch_ns(moment)


def _is_moment(text: bytes, zone: ZoneInfo) -> bool:
    try:
        moment_ns(text, zone)
    except ValueError:
        return False
    return True
