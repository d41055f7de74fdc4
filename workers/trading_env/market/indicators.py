"""The 20 indicators of a market state: causal, incremental, clipped to [-5, 5], float32.

Each is updated by one state from a bounded memory; tests compare them with their definition over
the whole history. Formulas and sources by name:

    return_1, _5, _20, _60   100 * log(S_t / S_{t-k}); with fewer than k states behind: the oldest
    realised_20, realised_60 sqrt(sum r^2 / elapsed years) over the last k log returns
                             (Andersen, Bollerslev, Diebold, Labys, Econometrica 2003)
    implied                  mean implied volatility of the two slots nearest the money
    skew                     mean implied volatility of puts minus that of calls, times 10
                             (Bates, Journal of Finance 1991)
    term                     mean implied volatility of later expiries minus the nearest, times 10
    put_call                 (put size - call size) / (put size + call size), quoted sizes
    spread                   mean (ask - bid) / price of tradeable slots
    book                     (bid size - ask size) / (bid size + ask size), tradeable slots
                             (Cont, Kukanov, Stoikov, Journal of Financial Econometrics 2014)
    volume                   log(1 + contracts traded since the last state) / 5
    momentum                 log(S_t / S_{t-20}) / (deviation of the returns in it * sqrt(20))
                             (Moskowitz, Ooi, Pedersen, Journal of Financial Economics 2012)
    rsi                      RSI of Wilder (New Concepts in Technical Trading Systems, 1978), 14
                             states, as (RSI - 50) / 50
    macd, macd_signal        100 * (EMA12 - EMA26) / S, and its difference to its own EMA9
                             (Appel, The Moving Average Convergence-Divergence Method, 1979)
    to_close                 share of the session that is left; 0 where the market never closes
    to_expiry                years to the nearest expiry of the slots
    age                      log(1 + seconds since the newest quote)
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import numpy as np

from workers.contract.dtypes import INDICATORS
from workers.trading_env.market.pricing import YEAR_NS

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array


NAMES = (
    "return_1",
    "return_5",
    "return_20",
    "return_60",
    "realised_20",
    "realised_60",
    "implied",
    "skew",
    "term",
    "put_call",
    "spread",
    "book",
    "volume",
    "momentum",
    "rsi",
    "macd",
    "macd_signal",
    "to_close",
    "to_expiry",
    "age",
)
assert len(NAMES) == INDICATORS  # noqa: S101 - a wrong count would shift every feature
CLIP = 5.0
_LONGEST = 60


class Session:
    """When the market is open."""

    def __init__(self, config: TradingConfig) -> None:
        """Take the session from the configuration."""
        self._zone = ZoneInfo(config.session_timezone) if config.session_timezone else None
        self._open, self._close = config.session_open_s, config.session_close_s
        self._closes = config.session_closes

    def left(self, ts_event: int) -> float:
        """Return the share of the session that is left.

        Args:
            ts_event: Event time, ns since the epoch.

        Returns:
            A number from 0 to 1; 0 when the market is closed or never closes.
        """
        if self._zone is None:
            return 0.0
        second, close = self._now(ts_event)
        if not self._open <= second < close:
            return 0.0
        return (close - second) / (close - self._open)

    def closed(self, ts_event: int) -> bool:
        """Say whether the market is closed: outside its hours, on weekends and on holidays.

        Args:
            ts_event: Event time, ns since the epoch.

        Returns:
            True when nothing trades at that time; always False for a market that never closes.
        """
        if self._zone is None:
            return False
        second, close = self._now(ts_event)
        return not self._open <= second < close

    def _now(self, ts_event: int) -> tuple[float, int]:
        """Seconds since midnight there, and when that day closes (0: it does not open)."""
        local = datetime.fromtimestamp(ts_event // 10**9, UTC).astimezone(self._zone)
        whole = local.hour * 3600 + local.minute * 60 + local.second
        weekend = local.weekday() > 4
        close = 0 if weekend else self._closes.get(local.date(), self._close)
        return whole + ts_event % 10**9 / 1e9, close


class Indicators:
    """Memory of the indicators; `update` takes each market state once, in order."""

    def __init__(self, config: TradingConfig) -> None:
        """Start without history."""
        self._session = Session(config)
        self._logs: deque[float] = deque(maxlen=_LONGEST + 1)
        self._times: deque[int] = deque(maxlen=_LONGEST + 1)
        self._fast = self._slow = self._signal = 0.0
        self._gain = self._loss = 0.0
        self._moves = 0

    def update(self, state: Any, volume: float = 0.0) -> Array:
        """Return the indicators of the next market state and remember the state.

        The module's docstring has the formula and the source of each indicator.

        Args:
            state: A MARKET_DTYPE record of shape (), its `indicators` not yet filled in.
            volume: Contracts traded since the state before.

        Returns:
            float32 (20,) in the order of `NAMES`, clipped to [-5, 5]; NaN becomes 0.
        """
        spot = float(state["underlying"])
        self._logs.append(math.log(spot))
        self._times.append(int(state["ts_event"]))
        values = [self._return(lag) for lag in (1, 5, 20, 60)]
        values += [self._realised(20), self._realised(60)]
        values += _surface(state)
        values += _book(state)
        values.append(math.log1p(max(0.0, volume)) / 5.0)
        values.append(self._momentum())
        values.append(self._rsi())
        values += self._macd(spot)
        values.append(self._session.left(int(state["ts_event"])))
        held = state["right"] != 0
        nearest = int(state["expiry"][held].min()) if held.any() else int(state["ts_event"])
        values.append(max(0, nearest - int(state["ts_event"])) / YEAR_NS)
        values.append(math.log1p(max(0.0, float(state["age_s"]))))
        finite = np.nan_to_num(np.array(values), nan=0.0, posinf=CLIP, neginf=-CLIP)
        clipped: Array = np.clip(finite, -CLIP, CLIP).astype(np.float32)
        return clipped

    def _return(self, lag: int) -> float:
        behind = min(lag, len(self._logs) - 1)
        return 100.0 * (self._logs[-1] - self._logs[-1 - behind])

    def _realised(self, lag: int) -> float:
        behind = min(lag, len(self._logs) - 1)
        if behind == 0:
            return 0.0
        logs = list(self._logs)[-1 - behind :]
        years = (self._times[-1] - self._times[-1 - behind]) / YEAR_NS
        squares = sum((b - a) ** 2 for a, b in itertools.pairwise(logs))
        return math.sqrt(squares / years) if years > 0 else 0.0

    def _momentum(self) -> float:
        logs = list(self._logs)[-21:]
        moves = [b - a for a, b in itertools.pairwise(logs)]
        if len(moves) < 2:
            return 0.0
        mean = sum(moves) / len(moves)
        deviation = math.sqrt(sum((move - mean) ** 2 for move in moves) / len(moves))
        scale = deviation * math.sqrt(len(moves))
        return (logs[-1] - logs[0]) / scale if scale > 1e-12 else 0.0

    def _rsi(self) -> float:
        if len(self._logs) < 2:
            return 0.0
        move = self._logs[-1] - self._logs[-2]
        self._moves += 1
        weight = 1.0 / min(self._moves, 14)
        self._gain += weight * (max(move, 0.0) - self._gain)
        self._loss += weight * (max(-move, 0.0) - self._loss)
        total = self._gain + self._loss
        return (self._gain - self._loss) / total if total > 1e-15 else 0.0

    def _macd(self, spot: float) -> list[float]:
        if len(self._logs) == 1:
            self._fast = self._slow = spot
        self._fast += 2.0 / 13.0 * (spot - self._fast)
        self._slow += 2.0 / 27.0 * (spot - self._slow)
        macd = 100.0 * (self._fast - self._slow) / spot
        self._signal += 2.0 / 10.0 * (macd - self._signal)
        return [macd, macd - self._signal]


def _surface(state: Any) -> list[float]:
    """Implied volatility at the money, skew and term structure of the slots that have one."""
    sigma, right = state["implied_volatility"], state["right"]
    known = (right != 0) & np.isfinite(sigma) & (sigma > 0)
    if not known.any():
        return [0.0, 0.0, 0.0]
    strike = np.where(known, state["strike"], 1.0)
    distance = np.where(known, np.abs(np.log(strike / state["underlying"])), np.inf)
    nearest = np.argsort(distance, kind="stable")[: min(2, int(known.sum()))]
    calls, puts = known & (right > 0), known & (right < 0)
    skew = 10.0 * (_mean(sigma, puts) - _mean(sigma, calls)) if calls.any() and puts.any() else 0.0
    first = state["expiry"][known].min()
    near, later = known & (state["expiry"] == first), known & (state["expiry"] > first)
    term = 10.0 * (_mean(sigma, later) - _mean(sigma, near)) if later.any() else 0.0
    return [float(sigma[nearest].mean()), skew, term]


def _book(state: Any) -> list[float]:
    """Put/call imbalance, mean relative spread and book imbalance of tradeable slots."""
    open_slots = state["tradeable"]
    if not open_slots.any():
        return [0.0, 0.0, 0.0]
    bids, asks = state["bid_size"][open_slots], state["ask_size"][open_slots]
    both, put = bids + asks, state["right"][open_slots] < 0
    total = float(both.sum())
    price = np.maximum(state["price"][open_slots], 1e-9)
    spread = float(((state["ask"][open_slots] - state["bid"][open_slots]) / price).mean())
    if total <= 0:
        return [0.0, spread, 0.0]
    put_call = (both[put].sum() - both[~put].sum()) / total
    return [float(put_call), spread, float((bids.sum() - asks.sum()) / total)]


def _mean(values: Array, where: Array) -> float:
    return float(values[where].mean())
