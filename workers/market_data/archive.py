"""What recorded market data looks like to its readers: blocks of rows, from any position on.

A position is the number of a row in the archive; the same file gives the same row at the same
position, so that whoever notes a position can go on there. Rows come in the order in which they
are to be delivered: as written for streams of ticks (clocks that run backwards included), by time
where the members of a file have to be merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from typing import Any, Protocol

import numpy as np

from workers.contract.dtypes import TICK_DTYPE

Rows = np.ndarray[Any, np.dtype[Any]]
BLOCK_ROWS = 8192
DAY_NS = 86_400 * 10**9
#: bit of `source_flags`: the source itself marks the row as suspicious
SUSPICIOUS = 1


class Archive(Protocol):
    """Rows of TICK_DTYPE; absent prices, sizes and greeks are NaN."""

    name: str
    #: what the files hold besides rows, by kind: counted as far as they were read
    skipped: dict[str, int]

    def blocks(self, start: int = 0) -> Iterator[Rows]:
        """Yield the rows from a position on.

        Args:
            start: Number of the first row.

        Yields:
            TICK_DTYPE (n,), n at least 1.

        Raises:
            MarketDataError: The data cannot be read any further.
        """


def no_beat() -> None:
    """Do nothing: the default `beat`."""


class StreamedRows:
    """An archive that is read from its beginning each time; rows before `start` are skipped."""

    def __init__(
        self,
        name: str,
        read: Callable[[dict[str, int]], Iterator[Rows]],
        beat: Callable[[], object] = no_beat,
    ) -> None:
        """Keep how to read; nothing is opened before `blocks`.

        Args:
            name: Name for messages.
            read: Called with `skipped` to count in; yields TICK_DTYPE (n,).
            beat: Called for every block that is read or skipped.
        """
        self.name = name
        self._beat = beat
        self.skipped: dict[str, int] = {}
        self._read = read

    def blocks(self, start: int = 0) -> Iterator[Rows]:
        """Return the rows from `start` on, as written."""
        position = 0
        self.skipped.clear()
        for rows in self._read(self.skipped):
            self._beat()
            position += rows.size
            if position <= start or rows.size == 0:
                continue
            left = rows[max(0, rows.size - (position - start)) :]
            yield numbered(left, position - left.size)


def numbered(rows: Rows, position: int) -> Rows:
    """Return rows without a sequence of their own their position as sequence, in location."""
    missing = rows["sequence"] < 0
    if missing.any():
        rows["sequence"][missing] = (position + np.arange(rows.size))[missing]
    return rows


def blank(count: int) -> Rows:
    """Return `count` rows in which every price and greek is absent (NaN)."""
    return np.repeat(_BLANK, count)


def _blank_row() -> Rows:
    row = np.zeros(1, TICK_DTYPE)
    for name in TICK_DTYPE.names or ():
        if TICK_DTYPE[name].kind == "f":
            row[name] = np.nan
    row["sequence"] = -1
    return row


_BLANK = _blank_row()


def occ_symbol(root: str, expiry: date, right: str, strike_thousandths: int) -> str:
    """Return the 21-character OCC symbol (OSI): root, YYMMDD, C or P, strike in 1/1000.

    Args:
        root: Root of the option, 1 to 6 characters.
        expiry: Day of expiry.
        right: "C" or "P".
        strike_thousandths: Strike in 1/1000 of the quote currency, below 10^8.

    Raises:
        ValueError: The root or the strike is out of range.
    """
    if not 0 < strike_thousandths < 10**8 or not 0 < len(root) <= 6:
        raise ValueError(
            f"root {root!r} with strike {strike_thousandths / 1000:.15g} fits no OCC symbol"
        )
    return f"{root.upper():<6}{expiry:%y%m%d}{right}{strike_thousandths:08d}"
