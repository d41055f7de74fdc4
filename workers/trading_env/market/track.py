"""One lane's way through the states of its provider, as rows of a validated block.

An indexed provider's states are validated and priced once; a stream's, two at a time. Whichever it
is, the environments above see the same three things: a block, the row now, the row then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from workers.contract.dtypes import MARKET_DTYPE
from workers.trading_env.errors import BadMarketData, EndOfData, NoMarketData, StaleData
from workers.trading_env.market.block import MarketBlock
from workers.trading_env.providers.protocol import IndexedProvider, MarketDataProvider

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array


class Track(Protocol):
    """Where a lane is: `block` at `row`."""

    block: MarketBlock
    row: int

    def start(self, seed: int) -> None:
        """Go to the first state of the episode of this seed."""

    def move(self) -> tuple[int, bool]:
        """Move on by a state: (row the decision was made on, whether the data ends here)."""


class IndexedTrack:
    """Rows of a block that is there as a whole."""

    def __init__(self, provider: IndexedProvider, config: TradingConfig) -> None:
        """Validate the provider's states, segment by segment."""
        self.block = MarketBlock.joined([MarketBlock.of(run, config) for run in provider.segments])
        self.provider = provider
        self.row, self.last = 0, 0

    def start(self, seed: int) -> None:
        """Go to the first state of the episode of this seed."""
        self.row, self.last = self.provider.episode(seed)
        if not 0 <= self.row < self.last < len(self.block):
            raise NoMarketData(
                f"episode(seed) gave rows {self.row} to {self.last} of {len(self.block)} states; "
                "an episode needs two at least"
            )

    def move(self) -> tuple[int, bool]:
        """Move on by a state."""
        now = self.row
        self.row = now + 1
        return now, self.row >= self.last


class StreamTrack:
    """Two rows: the state the decision was made on, and the one that came next."""

    def __init__(self, provider: MarketDataProvider, config: TradingConfig) -> None:
        """Start before the first state."""
        self.provider = provider
        self.row = 0
        self._config = config
        self._state: Array | None = None
        self._is_held = False  # the state stands in for ones that broke a rule
        self.block: MarketBlock

    def start(self, seed: int) -> None:
        """Ask the provider for an episode."""
        self._is_held = False
        self._set_block([self.provider.reset(seed=seed)])

    def move(self) -> tuple[int, bool]:
        """Take the next state; without one the last stands, stale, and nothing is traded on it."""
        if self._state is None:
            raise NoMarketData("no episode was started; call reset first")
        previous, ended = self._state, False
        try:
            state = _record(self.provider.advance())
            ended = bool(getattr(self.provider, "exhausted", False))
        except EndOfData:
            state, ended = held(previous), True
        except (StaleData, BadMarketData) as error:
            if self._config.on_bad_data == "raise":
                raise
            was_held = self._is_held
            self._set_block([previous, held(previous)])
            self._is_held = was_held or isinstance(error, BadMarketData)
            return 0, ended
        self._set_block([previous, state])
        return 0, ended

    def _set_block(self, states: list[Array]) -> None:
        run = np.stack([_record(state) for state in states])
        self.block = MarketBlock.of(run, self._config, behind_held=self._is_held)
        self.row = len(states) - 1
        self._is_held = bool(self.block.bad[-1])
        self._state = self.block.states[self.row]


def held(state: Array) -> Array:
    """`state` once more: stale, nothing tradeable, nothing rolled."""
    again = state.copy()
    again["stale"], again["tradeable"], again["rolled"] = True, False, False
    again["previous_price"] = again["price"]
    again["previous_half_spread"] = 0.0
    return again


def _record(state: Any) -> Array:
    if (
        not isinstance(state, np.ndarray | np.void)
        or state.shape != ()
        or state.dtype != MARKET_DTYPE
    ):
        found = f"{getattr(state, 'dtype', type(state).__name__)}, {getattr(state, 'shape', '')}"
        raise BadMarketData(
            f"a market state must be a MARKET_DTYPE record of shape (), got {found:.200}"
        )
    return np.asarray(state)


def track_of(provider: MarketDataProvider, config: TradingConfig) -> Track:
    """Return an indexed track of a provider with segments, else a stream.

    Args:
        provider: The market.
        config: The rules.

    Returns:
        The track, not yet started.

    Raises:
        TypeError: The provider lacks `reset` or `advance`.
    """
    if isinstance(provider, IndexedProvider):
        return IndexedTrack(provider, config)
    if isinstance(provider, MarketDataProvider):
        return StreamTrack(provider, config)
    raise TypeError(
        f"{type(provider).__name__} is not a market data provider: it needs reset(*, seed=None) "
        "and advance()"
    )
