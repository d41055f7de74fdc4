"""When a market state is due: paced by event time, live and recorded alike.

Wall time has no say here, so a replay faster than real time gives the states that real time gave.
Event time is what a feed says it is, so it is not believed at once: a single message from the year
2100 would make everything else old for ever. Messages whose time is far off wait until enough in
a row agree on it, and are dropped when one in time comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from workers.contract.dtypes import TICK_DTYPE

if TYPE_CHECKING:
    from mesh.arrays import Array
    from workers.trading_env.market.state import MarketState

EARLIEST, FURTHEST = 315_532_800 * 10**9, 7_258_118_400 * 10**9  # the years 1980 and 2200
JUMP_NS = 86_400 * 10**9  # a step of event time that has to be confirmed (or ten intervals)
CONFIRMED_BY = 16  # messages in a row
TICKS_AT_ONCE = 4096  # examined in one pass, so that many outliers cost no more than linear time


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

        Args:
            market: The market that takes the ticks.
            interval_s: Event time between two states, seconds.
            restart: Called when the whole feed has gone back in time (a replay that began anew);
                returns the market to go on with. Without it those ticks are dropped.
        """
        self._market = market
        self._interval = int(interval_s * 1e9)
        self._restart = restart
        self._due = 0
        self._jump = max(JUMP_NS, 10 * self._interval)
        self._waiting = np.zeros(0, TICK_DTYPE)  # the newest ticks, in a row, all far off one way
        #: ticks that were not believed
        self.dropped = 0

    def advance(self, ticks: Array) -> Iterator[None]:
        """Take ticks and yield whenever a state is due.

        At each yield the market holds exactly the ticks that arrived before the one that made
        the state due.

        Args:
            ticks: TICK_DTYPE (n,) in the order of arrival.

        Yields:
            None, once for each state that is due.
        """
        for believed in self._believed(ticks):
            yield from self._paced(believed)

    def _paced(self, ticks: Array) -> Iterator[None]:
        """Let the market take ticks that are believed, as `advance` describes."""
        while ticks.size:
            late = np.flatnonzero(ticks["ts_event"] >= self._due) if self._due else np.arange(1)
            if late.size == 0:
                self._market.apply(ticks)
                return
            self._market.apply(ticks[: late[0]])
            if self._due:
                yield
            self._due = int(ticks["ts_event"][late[0]]) + self._interval
            self._market.apply(ticks[late[0] : late[0] + 1])
            ticks = ticks[late[0] + 1 :]

    def _believed(self, ticks: Array) -> Iterator[Array]:
        """Ticks in order without those whose time is out of range, or far off and not confirmed.

        Far off is said of the newest time when a tick's turn comes, so that a batch may span
        months: each piece has to be taken before the next one is asked for.
        """
        sane = (ticks["ts_event"] > EARLIEST) & (ticks["ts_event"] < FURTHEST)
        if not sane.all():
            self.dropped += int(sane.size - sane.sum())
            ticks = ticks[sane]
        while ticks.size:
            newest = self._market.ts_event or self._beginning(ticks["ts_event"])
            ahead = ticks["ts_event"][:TICKS_AT_ONCE] - newest
            off = np.sign(ahead) * (np.abs(ahead) > self._jump)
            alike = int(np.argmax(off != off[0])) or off.size
            if off[0] == 0:
                self._forget_waiting()
                yield ticks[:alike]
            else:
                alike = min(alike, CONFIRMED_BY)
                yield self._confirmed(ticks[:alike], newest)
            ticks = ticks[alike:]

    def _beginning(self, times: Array) -> int:
        """The time a feed begins with: the first, unless most of the first few agree on another."""
        few = times[:CONFIRMED_BY]
        agreeing = few[np.abs(few - np.median(few)) <= self._jump]
        return int(agreeing.min() if agreeing.size * 2 > few.size else few[0])

    def _confirmed(self, ticks: Array, newest: int) -> Array:
        """Let ticks that are far off one way wait; gives those that are believed now."""
        is_ahead = bool(ticks["ts_event"][0] > newest)
        if self._waiting.size and bool(self._waiting["ts_event"][0] > newest) != is_ahead:
            self._forget_waiting()
        self._waiting = np.concatenate([self._waiting, ticks])
        if self._waiting.size < CONFIRMED_BY:
            return self._waiting[:0]
        if not is_ahead:
            if self._restart is None:
                self._forget_waiting()
                return self._waiting
            self._market, self._due = self._restart(), 0
        moved, self._waiting = self._waiting, self._waiting[:0]
        return moved

    def _forget_waiting(self) -> None:
        self.dropped += self._waiting.size
        self._waiting = self._waiting[:0]


def agreeing(ticks: Array) -> Array:
    """Drop ticks whose time is out of range or more than a day ahead of the median.

    Args:
        ticks: TICK_DTYPE (n,) in any order, as in a table of quotes.

    Returns:
        The other ticks, in the same order.
    """
    times = ticks["ts_event"]
    sane = (times > EARLIEST) & (times < FURTHEST)
    if not sane.any():
        return ticks[sane]
    middle = int(np.median(times[sane]))
    return ticks[sane & (times - middle <= JUMP_NS)]
