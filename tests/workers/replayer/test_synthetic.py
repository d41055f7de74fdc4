"""The synthetic market: seeded, without end, with real quotes' faults."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from workers.market_data.archive import DAY_NS
from workers.replayer.synthetic import SyntheticMarket
from workers.trading_env.market.instrument import parse

START = "2026-01-05T14:30:00+00:00"
WHOLE = SyntheticMarket(3, START).read(0, 4000)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 3900), st.integers(1, 100))
def test_a_row_depends_on_seed_and_position_alone(position, count):
    """Read from anywhere in any portion, the rows are the same."""
    part = SyntheticMarket(3, START).read(position, count)
    assert part.tobytes() == WHOLE[position : position + count].tobytes()


def test_quotes_are_of_a_market():
    """Ordered, a chain, spreads on the tick grid around the model's price, some faults."""
    assert (np.diff(WHOLE["ts_event"]) >= 0).all()
    assert np.unique(WHOLE["symbol"]).size == 37
    options = WHOLE[WHOLE["symbol"] != b"SYNX"]
    absent = np.isnan(options["bid"]) | np.isnan(options["ask"])
    assert 0.05 < absent.mean() < 0.35
    two = options[~absent]
    assert (two["ask"] > two["bid"]).mean() > 0.99
    assert (np.abs(two["bid"] * 100 - np.round(two["bid"] * 100)) < 1e-6).all()
    inside = (two["bid"] <= two["last"] + 0.06) & (two["last"] <= two["ask"] + 0.06)
    assert inside.mean() > 0.99
    assert WHOLE["sequence"].tolist() == list(range(4000))
    other = SyntheticMarket(4, START).read(0, 4000)
    assert other.tobytes() != WHOLE.tobytes()


def test_implied_volatility_is_that_of_the_prices():
    """Black-Scholes at a row's volatility gives a price between its bid and ask."""
    rows = WHOLE[(WHOLE["implied_volatility"] > 0) & ~np.isnan(WHOLE["bid"] + WHOLE["ask"])][:400]
    for row in rows[rows["bid"] < rows["ask"]]:
        contract = parse(row["symbol"].decode())
        # the market's options end at 20:00 UTC
        expiry = contract.expiry // DAY_NS * DAY_NS + 20 * 3600 * 10**9
        years = (expiry - row["ts_event"]) / 1e9 / 86400 / 365
        root = row["implied_volatility"] * years**0.5
        d1 = np.log(row["underlying_price"] / contract.strike) / root + root / 2
        sign = contract.right
        price = sign * (
            row["underlying_price"] * ndtr(sign * d1) - contract.strike * ndtr(sign * (d1 - root))
        )
        assert row["bid"] <= price <= row["ask"]


def test_the_path_has_the_marks_of_returns():
    """Weeks: volatility near its mean and moving, fat tails, falls that raise it, no drift."""
    market = SyntheticMarket(5, START)
    blocks = [market._path(block) for block in range(400)]
    price = np.concatenate([block[0] for block in blocks])
    vol = np.exp(np.concatenate([block[1] for block in blocks]))
    returns = np.diff(price)
    year = np.sqrt(365 * 86400)
    assert returns.std() * year == pytest.approx(0.26, abs=0.05)
    assert vol.std() / vol.mean() == pytest.approx(0.2, abs=0.08)
    minutes = price[60::60] - price[:-60:60]
    assert ((minutes - minutes.mean()) ** 4).mean() / minutes.var() ** 2 > 4.0
    assert np.corrcoef(np.diff(np.log(vol)), returns)[0, 1] < -0.3
    days = price.size / 86400
    assert abs(price[-1] - price[0]) < 5 * 0.27 * np.sqrt(days / 365)


def test_expiries_roll_and_strikes_follow_the_price():
    """Months later: two expiries at least a day away, strikes around where the price was."""
    market = SyntheticMarket(3, START)
    rows = market.read(13 * 86400 * 60, 13 * 2000)
    contracts = [parse(s.decode()) for s in np.unique(rows["symbol"]).tolist() if s != b"SYNX"]
    assert len(contracts) == 36
    expiries = sorted({c.expiry for c in contracts})
    assert expiries[1] - expiries[0] == pytest.approx(7 * DAY_NS, abs=DAY_NS // 12)
    assert expiries[0] - rows["ts_event"][-1] > DAY_NS * 0.8
    strikes = sorted({c.strike for c in contracts})
    assert strikes[0] < rows["underlying_price"][0] < strikes[-1]


def test_start_needs_an_offset():
    """A moment without an offset could be any of a day's hours."""
    with pytest.raises(ValueError, match="append"):
        SyntheticMarket(3, "2026-01-05T14:30:00")
