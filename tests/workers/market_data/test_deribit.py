"""Deribit snapshots of both kinds: units, absent sides, order; against Black-76 and by count."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from scipy.special import ndtr

from workers.market_data import deribit
from workers.market_data.archive import blank
from workers.market_data.errors import MarketDataError
from workers.trading_env.market.instrument import parse

HISTORY = (
    "timestamp,instrument_name,underlying,bid_price,ask_price,implied_volatility,delta,vega,"
    "open_interest,volume\n"
    "2026-01-01T09:18:35.173006+00:00,BTC-3JAN26-88000-C,87834.3,0.0085,,0.33,0.47,25.5,255.3,7\n"
)
SNAPSHOT = (
    "instrument_name,timestamp,best_bid_price,greeks\n"
    'BTC-22MAY20-9250-P,1590103193775,0.02,"{{{}}}"\n'
)


def rows_of(path):
    """All rows of a file."""
    return np.concatenate([blank(0), *deribit.read(path)])


def test_history_is_read_in_our_units(tmp_path):
    """ISO times to the microsecond, coin prices as they are, vega per 1.00, absent ask NaN."""
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress(HISTORY.encode()))
    row = rows_of(path)[0]
    assert row["ts_event"] == np.datetime64("2026-01-01T09:18:35.173006", "ns").astype("i8")
    assert row["symbol"] == b"BTC-3JAN26-88000-C"
    assert (row["bid"], row["implied_volatility"], row["vega"]) == (0.0085, 0.33, 2550.0)
    assert np.isnan(row["ask"])
    assert (row["open_interest"], row["volume"]) == (255, 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n", "line 1: columns a, b; expected columns instrument_name"),
        (
            HISTORY + "2026-13-01T00:00:00Z,BTC-3JAN26-1-C,1,1,1,1,1,1,1,1\n",
            "line 3: time '2026-13",
        ),
        (HISTORY + "2026-01-01T00:00:00Z,,1,1,1,1,1,1,1,1\n", "line 3: symbol ''"),
        (HISTORY + "2026-01-01T00:00:00Z,BTC-3JAN26-1-C,1,1\n", "line 3: 4 columns"),
        (HISTORY + "2026-01-01T00:00:00Z,B,1,x,1,1,1,1,1,1\n", "line 3: bid_price = 'x'"),
        (SNAPSHOT.format("'vega': --"), "line 2: vega = '--', not a number"),
        (SNAPSHOT.format("'delta': 0.1, 'rho': 1e5e"), "line 2: rho = '1e5e', not a number"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(tmp_path, text, words):
    """Missing columns, impossible times, empty names, short lines, words for numbers."""
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(MarketDataError) as caught:
        rows_of(path)
    assert words in str(caught.value)


def test_packed_greeks_are_read_and_none_is_absent(tmp_path):
    """The text of a dict, as the exchange's own snapshots hold it."""
    path = tmp_path / "a.csv"
    path.write_text(SNAPSHOT.format("'vega': 0.5, 'theta': -2e0, 'rho': None"))
    row = rows_of(path)[0]
    assert (row["vega"], row["theta"]) == (50.0, -730.0)
    assert np.isnan([row["rho"], row["delta"]]).all()


def black_76(rows):
    """Delta, vega (per 1.00) and theta (per year) at rate 0 (Black 1976)."""
    instruments = [parse(symbol.decode()) for symbol in rows["symbol"].tolist()]
    strike = np.array([i.strike for i in instruments])
    years = (np.array([i.expiry for i in instruments]) - rows["ts_event"]) / 1e9 / 86400 / 365
    sign = np.array([i.right for i in instruments])
    forward, sigma = rows["underlying_price"], rows["implied_volatility"]
    d1 = (np.log(forward / strike) + 0.5 * sigma**2 * years) / (sigma * np.sqrt(years))
    density = np.exp(-0.5 * d1**2) / np.sqrt(2 * np.pi)
    return (
        sign * ndtr(sign * d1),
        forward * density * np.sqrt(years),
        -forward * density * sigma / (2 * np.sqrt(years)),
        years,
    )


def test_the_real_snapshot_has_black_76_greeks(data):
    """326 contracts: delta, vega, theta agree with Black-76 at 08:00 UTC expiry in our units."""
    rows = rows_of(data / "deribit" / "options_snapshot_20200521.csv")
    assert rows.size == 326
    delta, vega, theta, years = black_76(rows)
    assert np.abs(rows["delta"] - delta).max() < 2e-4
    assert np.abs(rows["vega"] - vega).max() < 0.2  # 0.002 a point
    far = years > 10 / 365
    assert np.abs(rows["theta"] / theta - 1)[far].max() < 0.05


def test_the_real_history_is_read_whole(data):
    """163,814 rows of 121 snapshots and 3,896 contracts, in order, with its absent sides."""
    rows = rows_of(data / "deribit" / "btc_eth_chains_202601.csv.gz")
    assert rows.size == 163_814
    assert np.unique(rows["symbol"]).size == 3896
    assert np.unique(rows["ts_event"]).size == 121
    assert (np.diff(rows["ts_event"]) >= 0).all()
    assert np.isnan(rows["bid"]).sum() == 8336
    assert np.isnan(rows["ask"]).sum() == 1628
