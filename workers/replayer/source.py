"""What a source of market data is: rows by position, in the order of their time."""

from __future__ import annotations

from datetime import date
from typing import Any, Protocol

import numpy as np

from workers.records import TICK_DTYPE

Rows = np.ndarray[Any, np.dtype[Any]]
DAY_NS = 86_400 * 10**9


class SourceError(Exception):
    """The data cannot be read; the message names the path, what is wrong and the remedy."""


class Source(Protocol):
    """Rows of TICK_DTYPE, ordered by `ts_event`; the same position gives the same row."""

    name: str

    def read(self, position: int, count: int) -> Rows:
        """Give up to `count` rows from `position` on; none at the end of the data."""


def blank(count: int) -> Rows:
    """Give `count` rows in which every price and greek is absent (NaN)."""
    rows = np.zeros(count, TICK_DTYPE)
    for name in TICK_DTYPE.names or ():
        if TICK_DTYPE[name].kind == "f":
            rows[name] = np.nan
    rows["sequence"] = -1
    return rows


def occ_symbol(root: str, expiry: date, right: str, strike_thousandths: int) -> str:
    """Give the 21-character OCC symbol (OSI): root, YYMMDD, C or P, strike in 1/1000."""
    return f"{root.upper():<6}{expiry:%y%m%d}{right}{strike_thousandths:08d}"
