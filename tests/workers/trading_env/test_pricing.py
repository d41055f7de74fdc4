"""Prices, greeks and implied volatilities against oracles."""

from __future__ import annotations

import ast
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv

from workers.trading_env.market.pricing import black_76, black_scholes, greeks, implied_volatility

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


@settings(max_examples=100, deadline=None)
@given(
    st.floats(50, 200),
    st.floats(20, 500),
    st.floats(0.003, 3.0),
    st.floats(-0.02, 0.1),
    st.floats(0.0, 0.08),
    st.floats(0.05, 1.5),
    st.sampled_from([-1, 1]),
)
def test_greeks_agree_with_quantlib(spot, strike, years, rate, dividend, sigma, right):
    """Price and all five greeks, with a dividend yield, far in and out of the money too."""
    ql = pytest.importorskip("QuantLib")
    kind = ql.Option.Call if right > 0 else ql.Option.Put
    forward = spot * np.exp((rate - dividend) * years)
    oracle = ql.BlackCalculator(
        ql.PlainVanillaPayoff(kind, strike), forward, sigma * np.sqrt(years), np.exp(-rate * years)
    )
    wanted = [
        oracle.delta(spot),
        oracle.gamma(spot),
        oracle.theta(spot, years),
        oracle.vega(years),
        oracle.rho(years),
    ]
    found = np.asarray(greeks(spot, strike, years, rate, dividend, sigma, right)).ravel()
    assert found == pytest.approx(wanted, rel=1e-8, abs=1e-9)
    price = float(black_scholes(spot, strike, years, rate, dividend, sigma, right))
    assert price == pytest.approx(oracle.value(), rel=1e-9, abs=1e-12)


def test_batches_are_what_single_options_are():
    """Any shape at once: the same numbers as one at a time."""
    rng = np.random.default_rng(0)
    shape = (7, 5)
    spot, strike = rng.uniform(50, 150, shape), rng.uniform(50, 150, shape)
    years, sigma = rng.uniform(0.01, 2, shape), rng.uniform(0.05, 1, shape)
    right = rng.choice([-1, 1], shape)
    prices = black_scholes(spot, strike, years, 0.03, 0.01, sigma, right)
    values = greeks(spot, strike, years, 0.03, 0.01, sigma, right)
    implied = implied_volatility(prices, spot, strike, years, 0.03, 0.01, right)
    assert values.shape == (*shape, 5)
    for at in np.ndindex(shape):
        one = (spot[at], strike[at], years[at], 0.03, 0.01)
        assert float(black_scholes(*one, sigma[at], right[at])) == prices[at]
        assert np.array_equal(greeks(*one, sigma[at], right[at]), values[at])
        alone = float(implied_volatility(prices[at], *one, right[at]))
        assert alone == pytest.approx(implied[at], rel=1e-9, nan_ok=True)


@pytest.mark.parametrize(
    ("ratio", "years", "sigma"),
    [(2900 / 3164.342969977578, 0.004612590428716388, 0.6424), (1.0, 0.02, 0.3), (1.5, 0.1, 0.5)],
)
def test_volatility_where_newton_alone_fails(ratio, years, sigma):
    """A step into where price and vega underflow, a bracket that closes: the inversion holds."""
    for right in (-1, 1):
        price = black_scholes(100.0, 100.0 * ratio, years, 0.0, 0.0, sigma, right)
        found = float(implied_volatility(price, 100.0, 100.0 * ratio, years, 0.0, 0.0, right))
        assert found == pytest.approx(sigma, rel=1e-8)


@pytest.mark.parametrize(
    ("price", "why"),
    [
        (0.0, "worthless"),
        (-1.0, "negative"),
        (np.nan, "absent"),
        (np.inf, "infinite"),
        (100.0, "the underlying itself"),
        (250.0, "more than the underlying"),
    ],
)
def test_prices_without_a_volatility_give_nan(price, why):
    """No volatility in [1e-4, 10] gives such a price: NaN, never an exception or a bound."""
    del why
    assert np.isnan(implied_volatility(price, 100.0, 100.0, 0.5, 0.0, 0.0, 1))
    assert np.isnan(implied_volatility(5.0, 100.0, 100.0, 0.0, 0.0, 0.0, 1))


def test_an_expired_option_is_worth_its_intrinsic_value():
    """No time left, or no volatility: the discounted intrinsic value, finite greeks."""
    for years, sigma in ((0.0, 0.2), (0.5, 0.0), (0.0, 0.0)):
        assert float(black_scholes(110.0, 100.0, years, 0.0, 0.0, sigma, 1)) == 10.0
        assert float(black_scholes(110.0, 100.0, years, 0.0, 0.0, sigma, -1)) == 0.0
        values = greeks(110.0, 100.0, years, 0.0, 0.0, sigma, 1)
        assert np.isfinite(values).all()
        assert values[0] == 1.0


@pytest.mark.skipif(not GRID.exists(), reason="the reference data is not beside the project")
def test_the_reference_grid():
    """Prices and all greeks of the 101 reference rows within their own nine digits."""
    data = json.loads(GRID.read_text())
    columns = np.array(data["data"], float).T
    row = dict(zip(data["columns"], columns, strict=True))
    terms = (row["S"], row["K"], row["t"], row["R"], 0.0, row["v"])
    for right, price, letter in ((1, "bs_call", "C"), (-1, "bs_put", "P")):
        assert black_scholes(*terms, right) == pytest.approx(row[price], rel=2e-7, abs=1e-6)
        values = greeks(*terms, right)
        for place, greek in enumerate("DGTVR"):
            wanted = row[letter + greek]
            assert values[:, place] == pytest.approx(wanted, rel=2e-7, abs=1e-6), greek


def test_deribit_agrees(data):
    """Their own greeks of 326 contracts: Black-76 on each row's underlying and mark volatility."""
    table = csv.read_csv(data / "deribit" / "options_snapshot_20200521.csv").to_pydict()
    theirs = [ast.literal_eval(text) for text in table["greeks"]]
    right = np.where(np.array(table["option_type"]) == "call", 1, -1)
    forward, strike = np.array(table["underlying_price"]), np.array(table["strike"])
    milliseconds = np.array(table["expiration_timestamp"]) - np.array(table["timestamp"])
    years = milliseconds / 1e3 / 86_400 / 365
    sigma = np.array(table["mark_iv"]) / 100
    price = black_76(forward, strike, years, 0.0, sigma, right) / forward
    assert np.abs(price - np.array(table["mark_price"])).max() <= 2.4e-4
    values = greeks(forward, strike, years, 0.0, 0.0, sigma, right)
    wanted = {name: np.array([row[name] for row in theirs]) for name in theirs[0]}
    assert np.abs(values[:, 0] - wanted["delta"]).max() <= 1.1e-4
    assert np.abs(values[:, 3] / 100 - wanted["vega"]).max() <= 1.6e-3
    later = years >= 5 / 365
    theta = values[later, 2] / 365
    assert theta == pytest.approx(wanted["theta"][later], rel=2e-2, abs=0.05)


def test_deribit_chains_agree(data):
    """163,814 rows of January 2026, time to expiry computed anew: marks of all but a few in coin.

    A snapshot holds several values of one underlying, so that rows a moment apart differ.
    """
    with gzip.open(data / "deribit" / "btc_eth_chains_202601.csv.gz") as file:
        table = csv.read_csv(file)
    column = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}
    moments = [np.array(column[n], "datetime64[ns]") for n in ("expiry_datetime", "timestamp")]
    years = (moments[0] - moments[1]).astype(np.int64) / 1e9 / 86_400 / 365
    sound = (column["mark_price"] > 0) & (column["implied_volatility"] > 0) & (years > 0)
    right = np.where(column["option_type"] == "call", 1, -1)[sound]
    forward, strike = column["futures_price"][sound], column["strike"][sound]
    sigma, years = column["implied_volatility"][sound], years[sound]
    values = greeks(forward, strike, years, 0.0, 0.0, sigma, right)
    price = black_76(forward, strike, years, 0.0, sigma, right) / forward
    off = np.abs(price - column["mark_price"][sound])
    assert np.median(off) <= 1e-5
    assert (off <= 2.4e-4).mean() >= 0.98
    assert np.median(np.abs(values[:, 0] - column["delta"][sound])) <= 2e-4
    found = implied_volatility(price * forward, forward, strike, years, 0.0, 0.0, right)
    reached = values[:, 3] > 1e-3 * forward
    assert np.allclose(found[reached], sigma[reached], rtol=1e-9, atol=0)
