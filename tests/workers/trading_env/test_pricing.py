"""Prices, greeks and implied volatilities against oracles."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.trading_env.pricing import black_76, black_scholes, greeks, implied_volatility

GRID = (
    Path(__file__).parents[3].parent
    / "shared"
    / "data"
    / "greeks_reference"
    / "py_vollib_test_data.json"
)


def test_known_values():
    """Figures that QuantLib gives (see the data's description)."""
    call = black_scholes(42.0, 40.0, 0.5, 0.10, 0.0, 0.20, 1)
    assert float(call) == pytest.approx(4.75942239287, rel=1e-9)
    assert float(black_scholes(42.0, 40.0, 0.5, 0.10, 0.0, 0.20, -1)) == pytest.approx(
        0.8085993729, rel=1e-8
    )
    assert float(black_scholes(100.0, 95.0, 0.5, 0.10, 0.05, 0.20, -1)) == pytest.approx(
        2.46478764676, rel=1e-9
    )
    assert float(black_76(19.0, 19.0, 0.75, 0.10, 0.28, 1)) == pytest.approx(
        1.70105072524, rel=1e-9
    )
    found = np.asarray(greeks(42.0, 40.0, 0.5, 0.10, 0.0, 0.20, 1)).ravel()
    wanted = [0.779131290943, 0.0499626704059, -4.55909219459, 8.8134150596, 13.9820459134]
    assert found == pytest.approx(wanted, rel=1e-8)


@settings(max_examples=100, deadline=None)
@given(
    st.floats(50, 200),
    st.floats(50, 200),
    st.floats(0.02, 3.0),
    st.floats(-0.02, 0.1),
    st.floats(0.05, 1.5),
    st.sampled_from([-1, 1]),
)
def test_prices_agree_with_quantlib(spot, strike, years, rate, sigma, right):
    """Relative difference below 1e-9 wherever the price is not vanishing."""
    ql = pytest.importorskip("QuantLib")
    kind = ql.Option.Call if right > 0 else ql.Option.Put
    forward = spot * np.exp(rate * years)
    wanted = ql.blackFormula(kind, strike, forward, sigma * np.sqrt(years), np.exp(-rate * years))
    found = float(black_scholes(spot, strike, years, rate, 0.0, sigma, right))
    assert found == pytest.approx(wanted, rel=1e-9, abs=1e-10)


@settings(max_examples=200, deadline=None)
@given(st.floats(0.7, 1.4), st.floats(0.02, 2.0), st.floats(0.05, 2.0), st.sampled_from([-1, 1]))
def test_implied_volatility_round_trips(ratio, years, sigma, right):
    """The volatility of a price is the one it was made with, where the price depends on it."""
    price = black_scholes(100.0, 100.0 * ratio, years, 0.01, 0.0, sigma, right)
    vega = float(
        np.asarray(greeks(100.0, 100.0 * ratio, years, 0.01, 0.0, sigma, right)).ravel()[3]
    )
    found = float(implied_volatility(price, 100.0, 100.0 * ratio, years, 0.01, 0.0, right))
    if vega > 1e-3:
        assert found == pytest.approx(sigma, rel=1e-6, abs=1e-6)


@pytest.mark.skipif(not GRID.exists(), reason="the reference data is not beside the project")
def test_the_reference_grid():
    """Prices of the reference rows within their own precision."""
    data = json.loads(GRID.read_text())
    rows = [dict(zip(data["columns"], row, strict=True)) for row in data["data"]]
    for row in rows:
        call = black_scholes(row["S"], row["K"], row["t"], row["R"], 0.0, row["v"], 1)
        assert float(call) == pytest.approx(row["bs_call"], abs=1e-5)
