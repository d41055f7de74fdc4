"""Indicators: each equal to its definition over the whole history, and causal."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.trading import TradingConfig
from tests.workers.trading_env.markets import market
from workers.contract.dtypes import SLOTS
from workers.trading_env.market.indicators import CLIP, NAMES, Indicators, Session
from workers.trading_env.market.pricing import YEAR_NS

CONFIG = TradingConfig(session_timezone="America/New_York")
START = 1_450_967_400 * 10**9  # 2015-12-24 09:30 in New York


def history(seed, steps, gap_s=60):
    """States with volatilities, expiries and rights of all kinds, some slots empty."""
    states = market(seed, steps)
    rng = np.random.default_rng(seed)
    states["ts_event"] = START + np.cumsum(rng.integers(1, 2 * gap_s, steps)) * 10**9
    states["right"] = rng.choice([-1, 0, 1], (steps, SLOTS), p=[0.45, 0.1, 0.45])
    states["strike"] = rng.uniform(80, 120, (steps, SLOTS))
    states["expiry"] = states["ts_event"][:, None] + rng.choice([5, 12], (steps, SLOTS)) * (
        86_400 * 10**9
    )
    sigma = rng.uniform(0.1, 0.6, (steps, SLOTS))
    states["implied_volatility"] = np.where(rng.random((steps, SLOTS)) < 0.1, np.nan, sigma)
    states["tradeable"] &= states["right"] != 0
    states["age_s"] = rng.uniform(0, 30, steps)
    return states, rng.integers(0, 500, steps).astype(float)


def batch(states, volumes):
    """The 20 indicators of every state from their definitions, the whole history at hand."""
    spot = states["underlying"]
    logs, times = np.log(spot), states["ts_event"]
    rows = []
    fast = slow = spot[0]
    signal = gain = loss = 0.0
    for t in range(states.size):
        state = states[t]
        back = {lag: max(0, t - lag) for lag in (1, 5, 20, 60)}
        row = {f"return_{lag}": 100 * (logs[t] - logs[at]) for lag, at in back.items()}
        for lag in (20, 60):
            squares = np.diff(logs[back[lag] : t + 1]) ** 2
            years = (times[t] - times[back[lag]]) / YEAR_NS
            row[f"realised_{lag}"] = math.sqrt(squares.sum() / years) if years > 0 else 0.0
        row.update(surface(state), **book(state))
        row["volume"] = math.log(1 + volumes[t]) / 5
        moves = np.diff(logs[back[20] : t + 1])
        scale = moves.std() * math.sqrt(moves.size) if moves.size > 1 else 0.0
        row["momentum"] = (logs[t] - logs[back[20]]) / scale if scale > 1e-12 else 0.0
        if t:
            move, weight = logs[t] - logs[t - 1], 1 / min(t, 14)
            gain = (1 - weight) * gain + weight * max(move, 0)
            loss = (1 - weight) * loss + weight * max(-move, 0)
        index = 100 * gain / (gain + loss) if gain + loss > 1e-15 else 50.0
        row["rsi"] = (index - 50) / 50
        fast, slow = fast + 2 / 13 * (spot[t] - fast), slow + 2 / 27 * (spot[t] - slow)
        row["macd"] = 100 * (fast - slow) / spot[t]
        signal += 2 / 10 * (row["macd"] - signal)
        row["macd_signal"] = row["macd"] - signal
        seconds = (times[t] - START) / 1e9
        row["to_close"] = 1 - seconds / 23_400 if seconds < 23_400 else 0.0
        held = state["right"] != 0
        row["to_expiry"] = (state["expiry"][held].min() - times[t]) / YEAR_NS if held.any() else 0
        row["age"] = math.log(1 + state["age_s"])
        rows.append([min(CLIP, max(-CLIP, row[name])) for name in NAMES])
    return np.array(rows)


def surface(state):
    """Implied volatility near the money, skew and term structure, slot by slot."""
    slots = [
        (
            abs(math.log(state["strike"][j] / state["underlying"])),
            state["implied_volatility"][j],
            state["right"][j],
            state["expiry"][j],
        )
        for j in range(SLOTS)
        if state["right"][j] and state["implied_volatility"][j] > 0
    ]
    if not slots:
        return {"implied": 0.0, "skew": 0.0, "term": 0.0}
    nearest = sorted(slots, key=lambda slot: slot[0])[:2]
    calls = [s[1] for s in slots if s[2] > 0]
    puts = [s[1] for s in slots if s[2] < 0]
    first = min(s[3] for s in slots)
    near, later = [s[1] for s in slots if s[3] == first], [s[1] for s in slots if s[3] > first]
    return {
        "implied": np.mean([s[1] for s in nearest]),
        "skew": 10 * (np.mean(puts) - np.mean(calls)) if puts and calls else 0.0,
        "term": 10 * (np.mean(later) - np.mean(near)) if later else 0.0,
    }


def book(state):
    """Imbalances and spread of the slots that can be traded."""
    slots = np.flatnonzero(state["tradeable"])
    if slots.size == 0:
        return {"put_call": 0.0, "spread": 0.0, "book": 0.0}
    bids, asks = state["bid_size"][slots].sum(), state["ask_size"][slots].sum()
    both = (state["bid_size"] + state["ask_size"])[slots]
    puts = both[state["right"][slots] < 0].sum()
    spread = ((state["ask"] - state["bid"]) / state["price"])[slots].mean()
    return {
        "put_call": (2 * puts - both.sum()) / both.sum(),
        "spread": spread,
        "book": (bids - asks) / (bids + asks),
    }


@settings(max_examples=12)
@given(st.integers(0, 10**6), st.sampled_from([5, 90]))
def test_incremental_equals_batch(seed, steps):
    """All twenty, state by state, over short and long histories."""
    states, volumes = history(seed, steps)
    indicators = Indicators(CONFIG)
    found = np.stack([indicators.update(s, v) for s, v in zip(states, volumes, strict=True)])
    assert found.shape == (steps, 20)
    assert found.dtype == np.float32
    for place, (mine, defined) in enumerate(zip(found.T, batch(states, volumes).T, strict=True)):
        assert mine == pytest.approx(defined, rel=2e-5, abs=2e-5), NAMES[place]


def test_indicators_are_causal():
    """Another future gives the same indicators up to now."""
    states, volumes = history(3, 80)
    other = states.copy()
    other["underlying"][50:] *= 1.5
    found = []
    for version in (states, other):
        indicators = Indicators(CONFIG)
        found.append([indicators.update(s, v) for s, v in zip(version, volumes, strict=True)])
    assert np.array_equal(found[0][:50], found[1][:50])
    assert not np.array_equal(found[0][50], found[1][50])


@settings(max_examples=50)
@given(st.lists(st.floats(1e-6, 1e9), min_size=1, max_size=80), st.integers(0, 3))
def test_indicators_are_finite_and_clipped(prices, gap):
    """Any positive prices, any times that do not run backwards (duplicates included)."""
    indicators = Indicators(TradingConfig())
    states = market(1, len(prices))
    states["underlying"] = prices
    states["ts_event"] = np.cumsum(np.resize([0, gap], len(prices)))
    for state in states:
        values = indicators.update(state, float("1e9"))
        assert np.isfinite(values).all()
        assert np.abs(values).max() <= CLIP


def test_the_session_knows_daylight_saving_and_weekends():
    """Open from 09:30 to 16:00 in New York, summer and winter, not on Saturday."""
    session = Session(CONFIG)
    winter, summer = START, 1_467_379_800 * 10**9  # 2016-07-01 09:30 EDT
    for start in (winter, summer):
        assert not session.closed(start)
        assert session.closed(start - 1)
        assert session.left(start) == 1.0
        assert session.left(start + 11_700 * 10**9) == 0.5
        assert session.closed(start + 23_400 * 10**9)
    assert session.closed(winter + 2 * 86_400 * 10**9)


def test_a_day_may_close_early_or_not_open():
    """A day of `session_closes` ends when it says, its share of time left counts to then."""
    closes = {"2015-12-24": 46_800, "2015-12-25": 0}
    session = Session(CONFIG.model_validate({**CONFIG.model_dump(), "session_closes": closes}))
    hour = 3_600 * 10**9
    assert session.left(START) == 1.0
    assert session.left(START + 7 * hour // 4) == 0.5
    assert not session.closed(START + 7 * hour // 2 - 1)
    assert session.closed(START + 7 * hour // 2)
    assert all(session.closed(START + (24 + k) * hour) for k in range(7))
    assert session.left(START + 24 * hour) == 0.0
    assert not session.closed(START + 4 * 24 * hour + 6 * hour)  # the Monday after, 15:30
