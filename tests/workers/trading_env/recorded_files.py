"""Recorded files of the known families, written for a test: any day, symbol and scale."""

from __future__ import annotations

import datetime as dt
import zipfile

import numpy as np

from workers.trading_env.market.pricing import black_scholes

OPENS_MS, MINUTE_MS = 34_200_000, 60_000
VOLATILITY = 0.3


def path_of(spot, steps, seed=0):
    """Prices of the underlying, (steps,): a random walk of a tenth of a percent."""
    moves = np.random.default_rng(seed).normal(0.0, 1e-3, steps)
    return spot * np.exp(np.cumsum(moves))


def quotes_of(prices, strike, years, right):
    """Bid and ask (steps,) of an option, one percent apart."""
    fair = np.maximum(black_scholes(prices, strike, years, 0.0, 0.0, VOLATILITY, right), 1e-3)
    return 0.995 * fair, 1.005 * fair


def lean_chain(
    folder,
    *,
    root="abc",
    day="20240612",
    spot=100.0,
    step=1.0,
    minutes=50,
    days=(9, 16),
    underlying=True,
    edit=None,
):
    """A Lean tree with one day of a chain: eleven strikes, calls and puts, two expiries.

    `edit` changes the rows (ms, bid, ask) of a contract before they are written.
    """
    prices = path_of(spot, minutes)
    times = OPENS_MS + MINUTE_MS * np.arange(minutes)
    base = folder / "option" / "usa" / "minute" / root
    base.mkdir(parents=True)
    with zipfile.ZipFile(base / f"{day}_quote_american.zip", "w") as archive:
        for ahead in days:
            expiry = f"{dt.date.fromisoformat(day) + dt.timedelta(days=ahead):%Y%m%d}"
            for strike in spot + step * np.arange(-5, 6):
                for right, sign in (("call", 1), ("put", -1)):
                    bid, ask = quotes_of(prices, strike, max(ahead, 0.1) / 365, sign)
                    rows = list(zip(times.tolist(), bid.tolist(), ask.tolist(), strict=True))
                    name = f"{day}_{root}_minute_quote_american_{right}_{round(strike * 1e4)}"
                    text = "\n".join(map(_bar, rows if edit is None else edit(rows)))
                    archive.writestr(f"{name}_{expiry}.csv", text)
    if underlying:
        base = folder / "equity" / "usa" / "minute" / root
        base.mkdir(parents=True)
        rows = [_bar((t, p - 1e-3, p + 1e-3)) for t, p in zip(times, prices, strict=True)]
        with zipfile.ZipFile(base / f"{day}_quote.zip", "w") as archive:
            archive.writestr(f"{day}_{root}_minute_quote.csv", "\n".join(rows))
    return folder


def _bar(row):
    """A quote bar of Lean: prices times 10,000, an absent side empty."""
    time, *sides = row
    sides = [("",) * 4 if s is None else (f"{s * 1e4:.0f}",) * 4 for s in sides]
    return ",".join([str(time), *sides[0], "5", *sides[1], "7"])


def deribit_rows(*, coin="ETH", spot=3000.0, step=100.0, snapshots=40, every_s=3600, ticks=1e-4):
    """Rows of a history of snapshots (timestamp first), prices in coin on a grid of `ticks`."""
    prices = path_of(spot, snapshots)
    begin = dt.datetime(2026, 2, 1, 9, tzinfo=dt.UTC)
    rows = []
    for index, price in enumerate(prices):
        now = begin + dt.timedelta(seconds=index * every_s)
        for ahead, name in ((5, "6FEB26"), (12, "13FEB26")):
            for strike in spot + step * np.arange(-5, 6):
                for right, sign in (("C", 1), ("P", -1)):
                    bid, ask = quotes_of(np.array([price]), strike, ahead / 365, sign) / price
                    low, high = np.floor(bid[0] / ticks) * ticks, np.ceil(ask[0] / ticks) * ticks
                    text = f"{strike:g}".replace(".", "d")
                    rows.append(
                        f"{now.isoformat()},{coin}-{name}-{text}-{right},{price},{low:.10g},{high:.10g},0.3"
                    )
    return rows


DERIBIT_HEADER = "timestamp,instrument_name,underlying_price,bid_price,ask_price,implied_volatility"
