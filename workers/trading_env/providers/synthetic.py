"""A seeded option market: stochastic volatility, a chain, spreads, and the faults of real feeds.

The underlying follows a geometric random walk whose log-volatility reverts to its mean (Scott,
Journal of Financial and Quantitative Analysis, 1987, in discrete steps), correlated with the
returns; options are priced by Black-Scholes with a smile. The quotes go through the same
`MarketState` as a live feed's: slots, rolls, marks, greeks and indicators are made there.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from config.trading import TradingConfig
from workers.contract.dtypes import TICK_DTYPE
from workers.market_data.archive import occ_symbol
from workers.trading_env.market.instrument import parse
from workers.trading_env.market.pricing import YEAR_NS, black_scholes
from workers.trading_env.market.pricing import greeks as greeks_of
from workers.trading_env.providers.recorded import RecordedProvider, states_of_ticks

if TYPE_CHECKING:
    from mesh.arrays import Array

ROOT = "SYNX"


@dataclasses.dataclass(frozen=True)
class SyntheticChain:
    """What the market is like; volatility a year, faults as probabilities a quote and state."""

    start: str = "2026-01-05T14:30:00+00:00"
    start_price: float = 100.0
    interval_s: float = 60.0
    volatility: float = 0.25
    reversion: float = 0.01  # of log-volatility, a state
    vol_of_vol: float = 0.03  # of log-volatility, a state
    correlation: float = -0.5
    drift: float = 0.0  # of the log-price, a year
    expiries: int = 2  # weekly
    strikes: tuple[float, ...] = tuple(float(k) for k in range(80, 121, 2))
    half_spread: float = 0.01  # of the price, at least a cent
    absent: float = 0.02
    crossed: float = 0.001
    without_greeks: float = 0.01
    silent: float = 0.2  # a contract is not quoted anew in a state

    def ticks(self, states: int, seed: int) -> Iterator[Array]:
        """Yield the ticks of the market.

        Args:
            states: Number of states. A longer market begins as a shorter one of the same seed.
            seed: Seed of the path and of the quotes.

        Yields:
            TICK_DTYPE (n,), once for each state: the underlying and the contracts quoted anew.
        """
        # one after the other, so that a longer market begins as a shorter one does
        rng = np.random.default_rng([seed, 1])
        start = int(dt.datetime.fromisoformat(self.start).timestamp()) * 10**9
        spots, volatilities = self._path(states, np.random.default_rng([seed, 0]))
        chain, until = self._chain(start), start
        for step in range(states):
            now = start + int(step * self.interval_s * 1e9)
            if now >= until:
                chain = self._chain(now)
                until = int(chain["expiry"].min()) - 86_400 * 10**9
            yield self._quotes(chain, now, float(spots[step]), float(volatilities[step]), rng)

    def _path(self, states: int, rng: np.random.Generator) -> tuple[Array, Array]:
        first, second = rng.standard_normal((states, 2)).T
        log_volatility = np.empty(states)
        level = mean = np.log(self.volatility)
        for step in range(states):
            log_volatility[step] = level
            level += self.reversion * (mean - level) + self.vol_of_vol * first[step]
        sigma = np.exp(log_volatility)
        years = self.interval_s * 1e9 / YEAR_NS
        normal = self.correlation * first + np.sqrt(1.0 - self.correlation**2) * second
        moves = (self.drift - 0.5 * sigma**2) * years + sigma * np.sqrt(years) * normal
        return self.start_price * np.exp(np.cumsum(moves)), sigma

    def _chain(self, now: int) -> Array:
        """Symbol, expiry, strike and right of every contract that is listed at `now`."""
        day = dt.datetime.fromtimestamp(now / 1e9, dt.UTC).date()
        friday = day + dt.timedelta(days=(4 - day.weekday()) % 7)
        # a day must be left when the next chain is listed, a day before its expiry
        friday += dt.timedelta(days=7 if (friday - day).days < 2 else 0)
        names = [
            occ_symbol(ROOT, friday + dt.timedelta(days=7 * week), right, round(strike * 1000))
            for week in range(self.expiries)
            for strike in self.strikes
            for right in "CP"
        ]
        found = [parse(name) for name in names]
        chain = np.zeros(
            len(found),
            [("symbol", "S32"), ("expiry", "<i8"), ("strike", "<f8"), ("right", "<i8")],
        )
        chain["symbol"] = [one.symbol.encode() for one in found]
        for name in ("expiry", "strike", "right"):
            chain[name] = [getattr(one, name) for one in found]
        return chain

    def _quotes(
        self, chain: Array, now: int, spot: float, sigma: float, rng: np.random.Generator
    ) -> Array:
        uniform = rng.random((5, chain.size))
        rows = np.zeros(1 + chain.size, TICK_DTYPE)
        for name in TICK_DTYPE.names or ():
            if TICK_DTYPE[name].kind == "f":
                rows[name] = np.nan
        rows["ts_event"] = now
        rows["symbol"][0], rows["last"][0] = ROOT.encode(), spot
        rows["bid"][0], rows["ask"][0] = spot * (1 - 1e-4), spot * (1 + 1e-4)
        quotes = rows[1:]
        quotes["symbol"], quotes["underlying_price"] = chain["symbol"], spot
        years = np.maximum(chain["expiry"] - now, 0) / YEAR_NS
        distance = np.log(chain["strike"] / spot)
        smile = sigma * (1.0 + 0.8 * distance**2 - 0.3 * distance) + 0.02
        price = black_scholes(spot, chain["strike"], years, 0.0, 0.0, smile, chain["right"])
        half = np.maximum(0.01, self.half_spread * price) * (0.5 + uniform[0])
        quotes["bid"] = np.round(np.maximum(price - half, 0.0), 2)
        quotes["ask"] = np.round(price + half, 2)
        quotes["bid_size"], quotes["ask_size"] = rng.integers(1, 50, (2, chain.size))
        quotes["volume"] = rng.integers(0, 1000, chain.size)
        quotes["implied_volatility"] = smile
        values = greeks_of(spot, chain["strike"], years, 0.0, 0.0, smile, chain["right"])
        for column, name in enumerate(("delta", "gamma", "theta", "vega", "rho")):
            quotes[name] = np.where(uniform[1] < self.without_greeks, 0.0, values[:, column])
        quotes["implied_volatility"][uniform[1] < self.without_greeks] = 0.0
        quotes["bid"][uniform[2] < self.absent] = np.nan
        quotes["ask"][uniform[2] > 1.0 - self.absent] = np.nan
        crossed = uniform[3] < self.crossed
        quotes["bid"][crossed] = quotes["ask"][crossed] + 0.05
        keep = np.concatenate([[True], uniform[4] >= self.silent])
        kept: Array = rows[keep]
        return kept


def synthetic_provider(
    seed: int = 0,
    *,
    states: int = 2000,
    chain: SyntheticChain | None = None,
    config: TradingConfig | None = None,
    random_start: bool = True,
) -> RecordedProvider:
    """Return a provider of a synthetic market; an episode is a part of it.

    Args:
        seed: The same seed gives the same market.
        states: Number of states.
        chain: What the market is like; the defaults without one.
        config: Slots, session and rates; the defaults without one.
        random_start: Start episodes anywhere, not only at the first state.

    Returns:
        The provider, which holds all states in memory.
    """
    market = SyntheticChain() if chain is None else chain
    config = TradingConfig() if config is None else config
    made = states_of_ticks(
        market.ticks(states, seed), config, interval_s=market.interval_s, root=ROOT
    )
    return RecordedProvider(
        made, random_start=random_start, min_steps=min(64, max(1, made.size // 2))
    )
