"""Markets for the tests of the environment."""

from __future__ import annotations

import numpy as np

from workers.contract.dtypes import MARKET_DTYPE, SLOTS
from workers.trading_env.errors import StaleData


def market(seed, steps):
    """A random but sane market: prices, spreads, rolls, slots without a quote."""
    rng = np.random.default_rng(seed)
    states = np.zeros(steps, MARKET_DTYPE)
    states["ts_event"] = np.arange(1, steps + 1) * 10**9
    states["step"] = np.arange(steps)
    states["underlying"] = 100.0 * np.exp(np.cumsum(rng.normal(0, 0.01, steps)))
    states["strike"], states["right"] = 100.0, 1
    states["expiry"] = 10**18
    states["contract"] = b"X"
    price = 5.0 * np.exp(np.cumsum(rng.normal(0, 0.05, (steps, SLOTS)), axis=0))
    half = 0.02 * price
    states["price"], states["bid"], states["ask"] = price, price - half, price + half
    states["bid_size"] = states["ask_size"] = rng.integers(1, 10, (steps, SLOTS))
    states["greeks"] = rng.normal(0, 1, (steps, SLOTS, 5))
    states["indicators"] = rng.normal(0, 1, (steps, 20))
    states["tradeable"] = rng.random((steps, SLOTS)) > 0.1
    states["stale"] = rng.random(steps) < 0.03
    states["closed"] = rng.random(steps) < 0.03
    states["rolled"][1:] = rng.random((steps - 1, SLOTS)) < 0.05
    states["previous_price"] = np.where(states["rolled"], price * 1.1, price)
    states["previous_half_spread"] = np.where(states["rolled"], half, 0.0)
    return states


class Streamed:
    """A recorded provider of which only `reset` and `advance` can be seen."""

    def __init__(self, inner, silent_at=None):
        self.inner = inner
        self.silent_at = silent_at
        self.calls = 0

    @property
    def exhausted(self):
        """Whether the episode is at its last state."""
        return self.inner.exhausted

    def reset(self, *, seed=None):
        """Start an episode."""
        return self.inner.reset(seed=seed)

    def advance(self):
        """Return the next state, or nothing at all from `silent_at` on."""
        self.calls += 1
        if self.silent_at is not None and self.calls >= self.silent_at:
            raise StaleData("silent on purpose")
        return self.inner.advance()
