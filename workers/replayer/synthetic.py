"""An endless seeded option market: stochastic volatility, rolling chain, spreads, faults.

Log-volatility reverts to its mean (Scott 1987, in steps of a second). Its shocks are correlated
with those of the price, which has occasional jumps (Merton 1976). Options are priced by
Black-Scholes with a smile in standardized moneyness; the strikes of a new expiry are centred on the
price of its first day. Spreads widen with vega and distance from the money and are multiples of a
tick; options worth less than a tick have no bid. Some quotes have the faults of real feeds.

A row depends only on seed, start and position, so a restarted replayer resumes with the same rows.
To reach a position, the price path is computed from the beginning (seconds for a year of market
time), but no quotes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count as counting
from typing import Any, Final

import numpy as np
from scipy.special import ndtr

from workers.market_data.archive import DAY_NS, Rows, blank, occ_symbol

ROOT: Final = "SYNX"
STEP_NS: Final = 10**9  # market time between two updates of the underlying
PER_STEP: Final = 13  # rows a step: the underlying and a dozen contracts
BLOCK: Final = 4096  # steps of the path simulated at once
CHUNK: Final = 128  # steps quoted at once
YEAR_S: Final = 365.0 * 86400.0
START_PRICE: Final = 100.0
STRIKE_STEP: Final = 5.0
STRIKES: Final = np.arange(-4.0, 5.0) * STRIKE_STEP  # around the price at listing
CONTRACTS: Final = 2 * STRIKES.size * 2  # two expiries, calls and puts
MEAN_LOG_VOL: Final = float(np.log(0.25))
REVERSION: Final = 2e-5  # of log-volatility, a step: half of a shock is gone in ten hours
VOL_OF_VOL: Final = 1.2e-3  # a step
SHOCK_CORRELATION: Final = -0.6
JUMPS_A_DAY: Final = 2.0
JUMP_SIZE: Final = 0.0025
SKEW, CURVATURE = -0.06, 0.02  # of the smile, per standard deviation of log-moneyness
IV_RANGE: Final = (0.05, 3.0)
ABSENT, CROSSED, NO_GREEKS, NO_IV = 0.01, 0.001, 0.005, 0.01
_WEEK_S: Final = 7 * 86400
_FRIDAY_S: Final = 86400 + 20 * 3600  # the first Friday 20:00 UTC after the epoch
_GREEKS: Final = ("delta", "gamma", "vega", "theta", "rho")

Floats = np.ndarray[Any, np.dtype[np.float64]]
Integers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class _Chain:
    """The listed contracts: arrays with one element each, the nearer expiry first."""

    symbols: np.ndarray[Any, Any]
    strike: Floats
    expiry_s: Integers
    call: np.ndarray[Any, np.dtype[np.bool_]]


class SyntheticMarket:
    """One underlying with calls and puts at nine strikes in two weekly expiries."""

    def __init__(self, seed: int, start: str) -> None:
        """Create the market.

        Args:
            seed: Seed of all random draws.
            start: Time of the first row, ISO 8601 with an offset from UTC.

        Raises:
            ValueError: `start` has another form.
        """
        self.name = f"synthetic seed {seed}"
        self.skipped: dict[str, int] = {}
        self._seed = seed
        moment = datetime.fromisoformat(start)
        if moment.tzinfo is None:
            raise ValueError(f"replayer.start {start!r} has no offset; append +00:00")
        self._start_s = round(moment.timestamp())
        self._ends: list[tuple[float, float]] = [(float(np.log(START_PRICE)), MEAN_LOG_VOL)]
        self._path = lru_cache(maxsize=8)(self._simulate)
        self._chain = lru_cache(maxsize=4)(self._list)
        self._chunk = lru_cache(maxsize=4)(self._quote)

    def read(self, position: int, count: int) -> Rows:
        """Return exactly `count` rows of TICK_DTYPE from `position` on; the market has no end."""
        size = CHUNK * PER_STEP
        first, last = position // size, (position + count - 1) // size
        rows = np.concatenate([self._chunk(chunk) for chunk in range(first, last + 1)])
        offset = position - first * size
        return rows[offset : offset + count]

    def blocks(self, start: int = 0) -> Iterator[Rows]:
        """Yield blocks of rows from position `start` on, endlessly."""
        for position in counting(start, CHUNK * PER_STEP):
            yield self.read(position, CHUNK * PER_STEP)

    # --- the path -------------------------------------------------------------------------

    def _simulate(self, block: int) -> tuple[Floats, Floats]:
        """Return log-price and log-volatility after each step of a block."""
        while len(self._ends) <= block:
            prices, vols = self._walk(len(self._ends) - 1)
            self._ends.append((float(prices[-1]), float(vols[-1])))
        return self._walk(block)

    def _walk(self, block: int) -> tuple[Floats, Floats]:
        log_price, log_vol = self._ends[block]
        rng = np.random.default_rng([self._seed, 0, block])
        price_shock, other = rng.standard_normal((2, BLOCK))
        vol_shock = SHOCK_CORRELATION * price_shock + np.sqrt(1.0 - SHOCK_CORRELATION**2) * other
        # v[t] = a v[t-1] + e[t] in closed form: a**t (v0 + sum e[i] / a**i)
        decay = (1.0 - REVERSION) ** np.arange(1, BLOCK + 1)
        deviation = decay * (log_vol - MEAN_LOG_VOL + np.cumsum(VOL_OF_VOL * vol_shock / decay))
        vols = MEAN_LOG_VOL + deviation
        # the volatility before the shock; the one after it would turn the correlation into a drift
        before = np.concatenate([[log_vol], vols[:-1]])
        step = np.exp(before) * np.sqrt(STEP_NS / 1e9 / YEAR_S)
        jumps = rng.standard_normal(BLOCK) * JUMP_SIZE
        jumps[rng.random(BLOCK) >= JUMPS_A_DAY * STEP_NS / DAY_NS] = 0.0
        return log_price + np.cumsum(step * price_shock - 0.5 * step**2 + jumps), vols

    def _states(self, steps: Integers) -> tuple[Floats, Floats]:
        """Return spot and volatility (per year) at steps of the same block."""
        prices, vols = self._path(int(steps[0]) // BLOCK)
        inside = steps % BLOCK
        return np.exp(prices[inside]), np.exp(vols[inside])

    # --- listed contracts -------------------------------------------------------------------

    def _list(self, first_expiry_s: int) -> _Chain:
        """Return the contracts of two expiries."""
        symbols, strikes, expiries, calls = [], [], [], []
        for expiry_s in (first_expiry_s, first_expiry_s + _WEEK_S):
            day = datetime.fromtimestamp(expiry_s, UTC).date()
            for strike in self._center(expiry_s) + STRIKES:
                for right in "CP":
                    name = occ_symbol(ROOT, day, right, round(float(strike) * 1000))
                    symbols.append(name.encode())
                    strikes.append(float(strike))
                    expiries.append(expiry_s)
                    calls.append(right == "C")
        return _Chain(
            np.array(symbols, "S32"), np.array(strikes), np.array(expiries), np.array(calls)
        )

    def _center(self, expiry_s: int) -> float:
        """Return the strike nearest to the price on the first day of an expiry."""
        listed_s = expiry_s - 2 * _WEEK_S - 86400  # when the one two weeks before has a day left
        if listed_s <= self._start_s:
            return START_PRICE
        spot, _ = self._states(np.array([listed_s - self._start_s]))
        lowest = (1 - STRIKES[0] / STRIKE_STEP) * STRIKE_STEP  # no strike is below one step
        return max(float(lowest), float(np.round(spot[0] / STRIKE_STEP) * STRIKE_STEP))

    # --- quotes ---------------------------------------------------------------------------

    def _quote(self, chunk: int) -> Rows:
        """Return all rows of CHUNK steps."""
        steps = chunk * CHUNK + np.arange(CHUNK)
        seconds = self._start_s + steps
        rng = np.random.default_rng([self._seed, 1, chunk])
        rows = blank(CHUNK * PER_STEP)
        rows["sequence"] = chunk * CHUNK * PER_STEP + np.arange(rows.size)
        rows["ts_event"] = np.repeat(seconds * 10**9, PER_STEP)
        rows["venue"] = b"SYNTH"
        for name in ("bid_size", "ask_size"):
            rows[name] = rng.geometric(0.08, rows.size)
        spot, sigma = self._states(steps)
        rows["underlying_price"] = np.repeat(spot, PER_STEP)
        grid = rows.reshape(CHUNK, PER_STEP)
        day_s = seconds % 86400
        self._underlying(grid[:, 0], spot, day_s)
        # the nearest Friday that is at least a day away
        first = -(-(seconds + 86400 - _FRIDAY_S) // _WEEK_S) * _WEEK_S + _FRIDAY_S
        for expiry_s in np.unique(first).tolist():
            at = first == expiry_s
            options = grid[at, 1:]
            _quote_options(options, self._chain(expiry_s), seconds[at], spot[at], sigma[at], rng)
            grid[at, 1:] = options
        options = grid[:, 1:].ravel()
        options["volume"] = np.repeat(day_s, PER_STEP - 1) // (60 + options["open_interest"] // 10)
        _spoil(options, rng)
        grid[:, 1:] = options.reshape(CHUNK, PER_STEP - 1)
        return rows

    @staticmethod
    def _underlying(rows: Rows, spot: Floats, day_s: Integers) -> None:
        rows["symbol"] = ROOT.encode()
        rows["bid"] = np.floor(spot * 100.0) / 100.0
        rows["ask"] = rows["bid"] + np.where(spot < 50.0, 0.01, 0.02)
        rows["last"] = np.round(spot, 2)
        rows["bid_size"] *= 100
        rows["ask_size"] *= 100
        rows["volume"] = day_s * 40


def _quote_options(
    rows: Rows,
    chain: _Chain,
    seconds: Integers,
    spot: Floats,
    sigma: Floats,
    rng: np.random.Generator,
) -> None:
    """Fill rows of shape (steps, contracts per step), more often those near the money."""
    count = rows.shape[1]
    years = (chain.expiry_s - seconds[:, None]) / YEAR_S
    moneyness = np.log(chain.strike / spot[:, None])
    deviations = moneyness / (sigma[:, None] * np.sqrt(years))
    # weighted sampling without replacement: the smallest exponential variables
    rate = 0.2 + np.exp(-0.5 * deviations**2)
    waiting = rng.standard_exponential(rate.shape) / rate
    chosen = np.argpartition(waiting, count, axis=1)[:, :count]

    def pick(values: Floats) -> Floats:
        return np.take_along_axis(values, chosen, axis=1)

    years, deviations = pick(years), pick(deviations)
    strike, call = chain.strike[chosen], chain.call[chosen]
    iv = sigma[:, None] * (1.0 + SKEW * deviations + CURVATURE * deviations**2)
    iv = np.clip(iv, *IV_RANGE)
    price, greeks = _black_scholes(spot[:, None], strike, years, iv, call)
    tick = np.where(price < 3.0, 0.01, 0.05)
    points = 0.004 + 0.002 * np.abs(deviations)  # of volatility, the margin of a market maker
    half = tick / 2 + greeks["vega"] * points * rng.uniform(0.7, 1.5, price.shape)
    bid = np.floor((price - half) / tick) * tick
    rows["symbol"] = chain.symbols[chosen]
    rows["bid"] = np.where(bid >= tick, np.round(bid, 2), np.nan)
    rows["ask"] = np.round(np.ceil((price + half) / tick) * tick, 2)
    rows["last"] = np.maximum(tick, np.round(np.round(price / tick) * tick, 2))
    rows["open_interest"] = 100 + 40 * chosen
    rows["implied_volatility"] = iv
    for name in _GREEKS:
        rows[name] = greeks[name]


def _black_scholes(
    spot: Floats, strike: Floats, years: Floats, iv: Floats, call: np.ndarray[Any, Any]
) -> tuple[Floats, dict[str, Floats]]:
    """Return prices and greeks at rate 0 (Black and Scholes 1973).

    Theta is per year, vega and rho are per 1.00.
    """
    root = iv * np.sqrt(years)
    d1 = np.log(spot / strike) / root + 0.5 * root
    d2 = d1 - root
    sign = np.where(call, 1.0, -1.0)
    at_d2 = ndtr(sign * d2)
    price = np.maximum(sign * (spot * ndtr(sign * d1) - strike * at_d2), 0.0)
    density = np.exp(-0.5 * d1**2) / np.sqrt(2.0 * np.pi)
    greeks = {
        "delta": sign * ndtr(sign * d1),
        "gamma": density / (spot * root),
        "vega": spot * density * np.sqrt(years),
        "theta": -spot * density * iv / (2.0 * np.sqrt(years)),
        "rho": sign * strike * years * at_d2,
    }
    return price, greeks


def _spoil(rows: Rows, rng: np.random.Generator) -> None:
    """Add the faults of real feeds: absent sides, crossed quotes, missing greeks, IV 0."""
    uniform = rng.random((4, rows.size))
    rows["bid"][uniform[0] < ABSENT] = np.nan
    rows["ask"][uniform[0] > 1.0 - ABSENT] = np.nan
    for side in ("bid", "ask"):
        rows[f"{side}_size"][np.isnan(rows[side])] = 0.0
    crossed = uniform[1] < CROSSED
    rows["bid"][crossed] = rows["ask"][crossed] + 0.05
    for name in _GREEKS:
        rows[name][uniform[2] < NO_GREEKS] = np.nan
    rows["implied_volatility"][uniform[3] < NO_IV] = 0.0
