"""When a market state is due: paced by event time, live and recorded alike.

Wall time has no say here, so a replay faster than real time gives the states that real time gave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from workers.trading_env.market_state import MarketState

Array = np.ndarray[Any, np.dtype[Any]]


class StatePacer:
    """Feeds ticks into a `MarketState` and stops at each moment a state is due."""

    def __init__(self, market: MarketState, interval_s: float) -> None:
        """Let a state be due whenever event time advanced by `interval_s`."""
        self._market = market
        self._interval = int(interval_s * 1e9)
        self._due = 0

    def feed(self, ticks: Array) -> Iterator[None]:
        """Take ticks (TICK_DTYPE) in the order of arrival; yields when a state is due.

        At each yield the market holds exactly the ticks that arrived before the one that made
        the state due.
        """
        while ticks.size:
            late = np.flatnonzero(ticks["ts_event"] >= self._due) if self._due else np.arange(1)
            if late.size == 0:
                self._market.take(ticks)
                return
            self._market.take(ticks[: late[0]])
            if self._due:
                yield
            self._due = int(ticks["ts_event"][late[0]]) + self._interval
            self._market.take(ticks[late[0] : late[0] + 1])
            ticks = ticks[late[0] + 1 :]
