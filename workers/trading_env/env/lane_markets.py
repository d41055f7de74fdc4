"""Where the lanes of a vector environment are: rows `now` and `then` of a block, by three ways.

`Rows`: every lane at its own row of one block in memory. `Streams`: every lane on a stream of its
own. `SharedStream`: all lanes at the newest state of one stream, as the feeder's are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from workers.trading_env.market.block import MarketBlock
from workers.trading_env.market.track import IndexedTrack, StreamTrack
from workers.trading_env.providers.protocol import IndexedProvider, MarketDataProvider

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array


class LaneMarket(Protocol):
    """What a vector environment steps over."""

    now: Array  # int64 (n,): rows on which the actions of a step were decided
    then: Array  # int64 (n,): rows at which the lanes are after it

    def block(self) -> MarketBlock:
        """The block in which `now` and `then` are rows."""

    def start(self, lanes: Array, seeds: Sequence[int]) -> None:
        """Begin episodes of `lanes` (indices), one seed each."""

    def move(self, ended: Array | None) -> Array:
        """Move the lanes that have not `ended` on by a state; bool (n,): the data ends there."""


class Rows:
    """Lanes at rows of one block."""

    def __init__(self, provider: IndexedProvider, lanes: int, config: TradingConfig) -> None:
        """Validate the provider's states once for all lanes."""
        self._track = IndexedTrack(provider, config)
        self.now, self.then = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        self._last = np.zeros(lanes, np.int64)

    def block(self) -> MarketBlock:
        """All states of the provider."""
        return self._track.block

    def start(self, lanes: Array, seeds: Sequence[int]) -> None:
        """Put the lanes onto the first rows of their episodes."""
        for lane, seed in zip(lanes.tolist(), seeds, strict=True):
            self._track.start(seed)
            self.then[lane], self._last[lane] = self._track.row, self._track.last

    def move(self, ended: Array | None) -> Array:
        """Move on by a row."""
        self.now, self.then = self.then, self.now
        np.add(self.now, 1 if ended is None else ~ended, out=self.then)
        data_ends: Array = self.then >= self._last
        return data_ends


class Streams:
    """A stream for each lane; the block is put together from theirs at each step."""

    def __init__(self, providers: Sequence[MarketDataProvider], config: TradingConfig) -> None:
        """Start before the first states."""
        self._tracks = [StreamTrack(provider, config) for provider in providers]
        lanes = len(self._tracks)
        self.now, self.then = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        self._joined: MarketBlock | None = None

    def block(self) -> MarketBlock:
        """The one or two newest states of every lane."""
        if self._joined is None:
            self._joined = MarketBlock.joined([track.block for track in self._tracks])
        return self._joined

    def start(self, lanes: Array, seeds: Sequence[int]) -> None:
        """Ask the providers of `lanes` for episodes."""
        for lane, seed in zip(lanes.tolist(), seeds, strict=True):
            self._tracks[lane].start(seed)
        self._refresh_block()

    def move(self, ended: Array | None) -> Array:
        """Take the next state of every lane that goes on."""
        ends = np.zeros(len(self._tracks), bool)
        for lane, track in enumerate(self._tracks):
            if ended is None or not ended[lane]:
                _, ends[lane] = track.move()
        self._refresh_block()
        return ends

    def _refresh_block(self) -> None:
        self._joined = None
        sizes = [len(track.block) for track in self._tracks]
        starts = np.cumsum([0, *sizes[:-1]])
        rows = np.array([track.row for track in self._tracks])
        self.then[:], self.now[:] = starts + rows, starts


class SharedStream:
    """All lanes at the newest state of one stream; an episode begins wherever the stream is."""

    def __init__(self, provider: MarketDataProvider, lanes: int, config: TradingConfig) -> None:
        """Start before the first state."""
        self._track = StreamTrack(provider, config)
        self.now, self.then = np.zeros(lanes, np.int64), np.zeros(lanes, np.int64)
        self._running = False

    def block(self) -> MarketBlock:
        """The one or two newest states."""
        return self._track.block

    def start(self, lanes: Array, seeds: Sequence[int]) -> None:
        """Begin where the stream is; where it has ended or not begun, ask for it anew."""
        if not self._running or lanes.size == self.then.size:
            self._track.start(seeds[0])
            self._running = True
            self.now[:] = self.then[:] = self._track.row

    def move(self, ended: Array | None) -> Array:
        """Take the next state, for all lanes at once; none when all of them have ended."""
        if ended is not None and ended.all():
            return np.zeros(self.then.size, bool)
        _, data_ends = self._track.move()
        self.now[:], self.then[:] = 0, self._track.row
        self._running = not data_ends
        return np.full(self.then.size, data_ends)


def lane_market(
    provider: MarketDataProvider | Sequence[MarketDataProvider], lanes: int, config: TradingConfig
) -> LaneMarket:
    """Return the market of the lanes, by the kind and number of providers.

    Args:
        provider: One provider for all lanes, or one for each lane.
        lanes: Number of lanes; may be 1 with several providers.
        config: The rules.

    Returns:
        Rows of an indexed provider, one stream that all lanes share, or a stream for each lane.

    Raises:
        TypeError: A provider lacks `reset` or `advance`.
        ValueError: `lanes` is below 1 or not the number of providers.
    """
    if lanes < 1:
        raise ValueError(f"num_envs must be at least 1, got {lanes}")
    if isinstance(provider, IndexedProvider):
        return Rows(provider, lanes, config)
    if isinstance(provider, MarketDataProvider):
        return SharedStream(provider, lanes, config)
    several = list(provider) if isinstance(provider, Sequence) else []
    if not several or not all(isinstance(one, MarketDataProvider) for one in several):
        raise TypeError("give a market data provider or a sequence of them, one a lane")
    if lanes not in (1, len(several)):
        raise ValueError(f"{lanes} environments on {len(several)} providers; give one a lane")
    return Streams(several, config)
