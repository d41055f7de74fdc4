"""What a market data provider is. `workers.trading_env.providers.checker.check_provider` tests one.

A market state is a record of `MARKET_DTYPE` (`workers.contract.dtypes`), shape (): everything that
was known at one moment, and nothing that was not. States follow each other in time. What is decided
on a state is filled at that state's quotes and rewarded by the next one, so a provider that puts
tomorrow's price into today's state is the one thing the environment cannot repair.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from mesh.arrays import Array


@runtime_checkable
class MarketDataProvider(Protocol):
    """A stream of market states."""

    def reset(self, *, seed: int | None = None) -> Array:
        """Start an episode and give its first state; the same seed gives the same episode.

        Raises NoMarketData when there is none, and what `advance` raises but EndOfData.
        """

    def advance(self) -> Array:
        """Return the next state.

        Raises EndOfData when there is none any more, StaleData when a live source sent nothing
        new for as long as it may, BadMarketData for what is no market state.
        """


@runtime_checkable
class IndexedProvider(MarketDataProvider, Protocol):
    """A provider whose states lie in memory: environments validate and price them once, at start.

    It is stepped by row number instead of `advance`, which is what makes a million steps a second.
    """

    @property
    def segments(self) -> tuple[Array, ...]:
        """Runs of consecutive states, each MARKET_DTYPE (T,); no episode crosses from one over."""

    def episode(self, seed: int | None) -> tuple[int, int]:
        """First and last row of an episode, counted over all segments; the same for one seed."""
