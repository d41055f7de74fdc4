"""When a market state is due: paced by event time, live and recorded alike.

Wall time has no say here, so a replay faster than real time gives the states that real time gave.
Event time is what a feed says it is, so it is not believed at once: a single message from the year
2100 would make everything else old for ever. Messages whose time is far off wait until enough in
a row agree on it, and are dropped when one in time comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from workers.records import TICK_DTYPE

if TYPE_CHECKING:
    from workers.trading_env.market_state import MarketState

Array = np.ndarray[Any, np.dtype[Any]]
EARLIEST, FURTHEST = 315_532_800 * 10**9, 7_258_118_400 * 10**9  # the years 1980 and 2200
JUMP_NS = 86_400 * 10**9  # a step of event time that has to be confirmed (or ten intervals)
CONFIRMED_BY = 16  # messages in a row


class StatePacer:
    """Feeds ticks into a `MarketState` and stops at each moment a state is due."""

    def __init__(
        self,
        market: MarketState,
        interval_s: float,
        *,
        restart: Callable[[], MarketState] | None = None,
    ) -> None:
        """Let a state be due whenever event time advanced by `interval_s`.

        When the whole feed has gone back in time (a replay that began anew) `restart` gives the
        market to go on with; without it such ticks are dropped.
        """
        self._market = market
        self._interval = int(interval_s * 1e9)
        self._restart = restart
        self._due = 0
        self._jump = max(JUMP_NS, 10 * self._interval)
        self._waiting = np.zeros(0, TICK_DTYPE)  # the newest ticks, in a row, all far off one way
        #: ticks that were not believed
        self.dropped = 0

    def feed(self, ticks: Array) -> Iterator[None]:
        """Take ticks (TICK_DTYPE) in the order of arrival; yields when a state is due.

        At each yield the market holds exactly the ticks that arrived before the one that made
        the state due.
        """
        ticks = self._believed(ticks)
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

    def _believed(self, ticks: Array) -> Array:
        """Ticks without those whose time is no time, or far off and not confirmed."""
        times, newest = ticks["ts_event"], self._market.ts_event
        sane = (times > EARLIEST) & (times < FURTHEST)
        if not sane.all():
            self.dropped += int(times.size - sane.sum())
            ticks = ticks[sane]
            times = ticks["ts_event"]
        newest = newest or int(times.min(initial=FURTHEST))
        off = np.abs(times - newest) > self._jump
        if not off.any():
            if times.size and self._waiting.size:
                self.dropped += self._waiting.size
                self._waiting = self._waiting[:0]
            return ticks
        return self._doubted(ticks, off, newest)

    def _doubted(self, ticks: Array, off: Array, newest: int) -> Array:
        """Let ticks that are far off wait; gives what can be taken now, what waited included."""
        ahead = ticks["ts_event"] > newest
        breaks = np.flatnonzero(~off | (ahead != ahead[-1]))
        start = int(breaks[-1]) + 1 if breaks.size else 0  # of the last run, off one way
        waited = self._waiting
        if start or (waited.size and bool(waited["ts_event"][-1] > newest) != bool(ahead[-1])):
            self.dropped += waited.size
            waited = waited[:0]
        self.dropped += int(off[:start].sum())
        in_time = ticks[:start][~off[:start]]
        self._waiting = np.concatenate([waited, ticks[start:]])
        if self._waiting.size < CONFIRMED_BY:
            return in_time
        moved, self._waiting = self._waiting, self._waiting[:0]
        if ahead[-1]:
            return np.concatenate([in_time, moved])
        if self._restart is None:
            self.dropped += moved.size
            return in_time
        self._market, self._due = self._restart(), 0
        return moved


def agreeing(ticks: Array) -> Array:
    """Ticks in no order (a table of quotes) without those whose time the others do not share."""
    times = ticks["ts_event"]
    sane = (times > EARLIEST) & (times < FURTHEST)
    if not sane.any():
        return ticks[sane]
    middle = int(np.median(times[sane]))
    return ticks[sane & (times - middle <= JUMP_NS)]
