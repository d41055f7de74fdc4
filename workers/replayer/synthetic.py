"""A seeded option market without end: stochastic volatility, a chain, spreads and faults.

The underlying follows a geometric random walk whose log-volatility reverts to its mean (Scott
1987 in discrete steps); options are priced by Black-Scholes with a smile. The row at a position
depends on the seed and the position alone, so a replayer that was killed goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import count as counting

import numpy as np
from scipy.special import ndtr

from workers.market_data.archive import DAY_NS, Rows, blank, occ_symbol

ROOT = "SYNX"
STEP_NS = 10**9  # market time between two updates of the underlying
PER_STEP = 13  # rows a step: the underlying and a dozen contracts
BLOCK = 4096  # steps simulated at once
READ_ROWS = 1024
YEAR_S = 365.0 * 86400.0
START_PRICE = 100.0
STRIKES = np.arange(80.0, 121.0, 5.0)
EXPIRIES = 2
MEAN_LOG_VOL = np.log(0.25)
REVERSION = 2e-4  # a step
VOL_OF_VOL = 4e-3  # a step
RATE = 0.0
ABSENT, CROSSED, NO_GREEKS, NO_IV = 0.02, 0.001, 0.005, 0.01


class SyntheticMarket:
    """The chain of one underlying, two weekly expiries, nine strikes, calls and puts."""

    def __init__(self, seed: int, start: str) -> None:
        """Begin at `start` (ISO 8601 with an offset). Raises ValueError for another form."""
        self.name = f"synthetic seed {seed}"
        self.skipped: dict[str, int] = {}
        self._seed = seed
        moment = datetime.fromisoformat(start)
        if moment.tzinfo is None:
            raise ValueError(f"replayer.start {start!r} has no offset; append +00:00")
        self._start_ns = round(moment.timestamp()) * 10**9
        self._path = lru_cache(maxsize=4)(self._simulate)

    def read(self, position: int, count: int) -> Rows:
        """Give exactly `count` rows from `position` on: the market has no end."""
        first = position // PER_STEP
        steps = -(-(position + count) // PER_STEP) - first
        rows = np.concatenate([self._step(step) for step in range(first, first + steps)])
        offset = position - first * PER_STEP
        return rows[offset : offset + count]

    def blocks(self, start: int = 0) -> Iterator[Rows]:
        """Give the rows from position `start` on, for ever."""
        for position in counting(start, READ_ROWS):
            yield self.read(position, READ_ROWS)

    def _simulate(self, block: int) -> tuple[Rows, Rows]:
        """Log-price and log-volatility after each step of a block, and so its end."""
        x, v = np.log(START_PRICE), MEAN_LOG_VOL
        if block > 0:
            prices, vols = self._path(block - 1)
            x, v = prices[-1], vols[-1]
        draws = np.random.default_rng([self._seed, block]).standard_normal((2, BLOCK))
        vols = np.empty(BLOCK)
        for i in range(BLOCK):
            v += REVERSION * (MEAN_LOG_VOL - v) + VOL_OF_VOL * draws[0, i]
            vols[i] = v
        scale = np.exp(vols) * np.sqrt(STEP_NS / 1e9 / YEAR_S)
        return x + np.cumsum(scale * draws[1] - 0.5 * scale**2), vols

    def _step(self, step: int) -> Rows:
        prices, vols = self._path(step // BLOCK)
        spot = float(np.exp(prices[step % BLOCK]))
        sigma = float(np.exp(vols[step % BLOCK]))
        now = self._start_ns + step * STEP_NS
        dice = np.random.default_rng([self._seed, 1, step])
        rows = blank(PER_STEP)
        rows["ts_event"] = now
        rows["sequence"] = step * PER_STEP + np.arange(PER_STEP)
        rows["venue"] = b"SYNTH"
        rows["volume"] = dice.integers(0, 1000, PER_STEP)
        rows["bid_size"] = dice.integers(1, 50, PER_STEP)
        rows["ask_size"] = dice.integers(1, 50, PER_STEP)
        rows["underlying_price"] = spot
        tick = max(0.01, round(spot * 1e-4, 2))
        rows["symbol"][0] = ROOT.encode()
        rows["bid"][0], rows["ask"][0] = round(spot - tick, 4), round(spot + tick, 4)
        rows["last"][0] = round(spot, 4)
        self._options(rows[1:], now, spot, sigma, dice)
        return rows

    def _options(
        self, rows: Rows, now: int, spot: float, sigma: float, dice: np.random.Generator
    ) -> None:
        """Fill rows with a random choice of the chain, some of them faulty."""
        chosen = dice.choice(EXPIRIES * STRIKES.size * 2, rows.size, replace=False)
        expiry_index, rest = np.divmod(chosen, STRIKES.size * 2)
        strike = STRIKES[rest // 2]
        call = rest % 2 == 0
        expiries = _expiries(now)
        expiry = np.array(expiries)[expiry_index]
        years = (expiry - now) / 1e9 / YEAR_S
        moneyness = np.log(strike / spot)
        iv = sigma * (1.0 + 0.8 * moneyness**2 - 0.3 * moneyness) + 0.02
        price, greeks = _black_scholes(spot, strike, years, iv, call)
        half = np.maximum(0.02, 0.01 * price) * dice.uniform(0.5, 1.5, rows.size)
        rows["bid"] = np.round(np.maximum(price - half, 0.0), 2)
        rows["ask"] = np.round(price + half, 2)
        rows["last"] = np.round(price, 2)
        rows["open_interest"] = 100 + 10 * chosen
        rows["implied_volatility"] = iv
        for name, values in greeks.items():
            rows[name] = values
        for i in range(rows.size):
            day = datetime.fromtimestamp(int(expiry[i]) // 10**9, UTC).date()
            right = "C" if call[i] else "P"
            rows["symbol"][i] = occ_symbol(ROOT, day, right, round(strike[i] * 1000)).encode()
        _spoil(rows, dice)


def _expiries(now: int) -> list[int]:
    """The next Fridays 20:00 UTC that are at least a day away, ns."""
    moment = datetime.fromtimestamp(now // 10**9, UTC)
    friday = moment.replace(hour=20, minute=0, second=0, microsecond=0)
    friday += timedelta(days=(4 - moment.weekday()) % 7)
    first = round(friday.timestamp()) * 10**9
    if first - now < DAY_NS:
        first += 7 * DAY_NS
    return [first + 7 * DAY_NS * i for i in range(EXPIRIES)]


def _black_scholes(
    spot: float, strike: Rows, years: Rows, iv: Rows, call: Rows
) -> tuple[Rows, dict[str, Rows]]:
    """Prices and greeks (Black and Scholes 1973), theta per year, vega and rho per 1.00."""
    root = iv * np.sqrt(years)
    d1 = (np.log(spot / strike) + (RATE + 0.5 * iv**2) * years) / root
    d2 = d1 - root
    discount = np.exp(-RATE * years)
    sign = np.where(call, 1.0, -1.0)
    price = sign * (spot * ndtr(sign * d1) - strike * discount * ndtr(sign * d2))
    density = np.exp(-0.5 * d1**2) / np.sqrt(2.0 * np.pi)
    greeks = {
        "delta": sign * ndtr(sign * d1),
        "gamma": density / (spot * root),
        "vega": spot * density * np.sqrt(years),
        "theta": -spot * density * iv / (2.0 * np.sqrt(years))
        - sign * RATE * strike * discount * ndtr(sign * d2),
        "rho": sign * strike * years * discount * ndtr(sign * d2),
    }
    return price, greeks


def _spoil(rows: Rows, dice: np.random.Generator) -> None:
    """What real feeds do: absent sides, crossed quotes, missing greeks, IV 0 for "not computed"."""
    luck = dice.random((4, rows.size))
    rows["bid"][luck[0] < ABSENT] = np.nan
    rows["ask"][luck[0] > 1.0 - ABSENT] = np.nan
    crossed = luck[1] < CROSSED
    rows["bid"][crossed] = rows["ask"][crossed] + 0.05
    for name in ("delta", "gamma", "vega", "theta", "rho"):
        rows[name][luck[2] < NO_GREEKS] = np.nan
    rows["implied_volatility"][luck[3] < NO_IV] = 0.0
