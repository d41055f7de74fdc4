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
        """Start an episode.

        Args:
            seed: Chooses the episode; the same seed gives the same episode.

        Returns:
            The first state, a MARKET_DTYPE record of shape ().

        Raises:
            NoMarketData: There is no state to start with.
            StaleData: As `advance` raises it.
            BadMarketData: As `advance` raises it.
        """

    def advance(self) -> Array:
        """Return the next state, a MARKET_DTYPE record of shape ().

        Raises:
            EndOfData: The episode has no further state.
            StaleData: A live source sent nothing new within its timeout.
            BadMarketData: What the source sent is not a market state.
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
        """Choose an episode.

        Args:
            seed: The same seed gives the same episode; None chooses freely.

        Returns:
            First and last row of the episode, counted over all segments.
        """
