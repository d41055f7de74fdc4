"""Market states from memory: recorded, built from recorded ticks, or simulated."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from workers.contract.dtypes import MARKET_DTYPE
from workers.trading_env.errors import BadMarketData, EndOfData, NoMarketData
from workers.trading_env.market.pacing import StatePacer
from workers.trading_env.market.state import MarketState

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array

#: Of the ticks of a file, whose times are not believed: a feed has wrong clocks, a file of which
#: this much is passed over is not in order.
DISBELIEVED = 0.2


class RecordedProvider:
    """Segments of market states, each MARKET_DTYPE (T,) with T of at least 2.

    With `random_start` an episode begins anywhere in a segment that leaves `min_steps` of it;
    without, at a segment's first state. It ends at the segment's last state.
    """

    def __init__(
        self,
        segments: Array | Sequence[Array],
        *,
        random_start: bool = False,
        min_steps: int = 1,
    ) -> None:
        """Take the states as they are; environments validate them.

        Args:
            segments: One segment or several, each MARKET_DTYPE (T,).
            random_start: Start episodes anywhere in a segment, not only at its first state.
            min_steps: Smallest number of steps of an episode; shorter segments are left out.

        Raises:
            BadMarketData: A segment is not an array of MARKET_DTYPE (T,).
            NoMarketData: No segment has more than `min_steps` states.
        """
        runs = [segments] if isinstance(segments, np.ndarray) else list(segments)
        for run in runs:
            if not isinstance(run, np.ndarray):
                raise BadMarketData(f"a segment must be an array, got {type(run).__name__}")
            if run.dtype != MARKET_DTYPE or run.ndim != 1:
                raise BadMarketData(
                    f"a segment must be MARKET_DTYPE of shape (T,), got {str(run.dtype)[:80]} "
                    f"of shape {run.shape}"
                )
        shortest = max(1, min_steps)
        self._segments = tuple(run for run in runs if run.size > shortest)
        if not self._segments:
            sizes = [run.size for run in runs]
            raise NoMarketData(
                f"no segment has more than {shortest} states (they have {sizes[:10]}); "
                "record for longer or ask for fewer steps"
            )
        self._random_start = random_start
        sizes = [run.size for run in self._segments]
        self._stops = list(itertools.accumulate(sizes))
        self._starts = [0, *self._stops[:-1]]
        #: first states to choose from, counted over the segments so far
        self._choices = list(itertools.accumulate(size - shortest for size in sizes))
        self._states = (
            self._segments[0] if len(self._segments) == 1 else np.concatenate(self._segments)
        )
        self._row, self._last = 0, -1

    @property
    def segments(self) -> tuple[Array, ...]:
        """The runs of consecutive states."""
        return self._segments

    @property
    def states(self) -> Array:
        """All states in a row, MARKET_DTYPE (T,)."""
        return self._states

    @property
    def exhausted(self) -> bool:
        """Whether the episode is at its last state."""
        return self._row >= self._last

    def episode(self, seed: int | None) -> tuple[int, int]:
        """Choose an episode.

        Args:
            seed: The same seed gives the same episode. None: the first segment, or with
                `random_start` any episode.

        Returns:
            First and last row of the episode, counted over all segments.
        """
        rng = random.Random(None if seed is None else int(seed))  # noqa: S311 - an episode, no secret; made in microseconds
        if self._random_start:
            drawn = rng.randrange(self._choices[-1])
            segment = bisect.bisect_right(self._choices, drawn)
            offset = drawn - (self._choices[segment - 1] if segment else 0)
            return self._starts[segment] + offset, self._stops[segment] - 1
        segment = rng.randrange(len(self._segments)) if seed is not None else 0
        return self._starts[segment], self._stops[segment] - 1

    def reset(self, *, seed: int | None = None) -> Array:
        """Start the episode of `seed` and return its first state, MARKET_DTYPE of shape ()."""
        self._row, self._last = self.episode(seed)
        return self._states[self._row]  # type: ignore[no-any-return] # numpy: a record

    def advance(self) -> Array:
        """Return the next state, a MARKET_DTYPE record of shape ().

        Raises:
            EndOfData: The episode is at its last state.
        """
        if self._row >= self._last:
            raise EndOfData(f"the segment ends with state {self._last} of {self._states.size}")
        self._row += 1
        return self._states[self._row]  # type: ignore[no-any-return] # numpy: a record


def states_of_ticks(
    batches: Iterable[Array], config: TradingConfig, *, interval_s: float = 60.0, root: str = ""
) -> Array:
    """Make market states from ticks, with the same code as the live feeder.

    Args:
        batches: Arrays of TICK_DTYPE (n,) in the order of arrival.
        config: Slots, session and rates.
        interval_s: Event time between two states, seconds.
        root: Root of the options to follow; empty: that of the first option.

    Returns:
        Market states, MARKET_DTYPE (T,).

    Raises:
        BadMarketData: The times of more than a fifth of the ticks are out of range or order.
        NoMarketData: No state could be made of the ticks.
    """
    market = MarketState(config, root=root)
    pacer = StatePacer(market, interval_s)
    found, ticks = [], 0
    for batch in batches:
        ticks += len(batch)
        found += [market.state() for _ in pacer.advance(batch)]
    if pacer.dropped > DISBELIEVED * ticks:
        raise BadMarketData(
            f"{pacer.dropped} of {ticks} ticks have a time before 1980, behind 2200, or a day or "
            "more from those beside them; correct the times, or sort the ticks by them"
        )
    found.append(market.state())
    states = [state for state in found if state is not None]
    if not states:
        raise NoMarketData(
            f"no market state could be made of {ticks} ticks: {market.lacking}; they must hold "
            "quotes of options that have not expired, and of their underlying"
        )
    return np.stack(states)
