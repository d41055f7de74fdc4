"""Binance lines: quotes and trades become rows, the rest is counted, broken lines are named."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from workers.market_data import binance
from workers.market_data.archive import blank
from workers.market_data.errors import MarketDataError

NS = 1723161255088169167
QUOTE = (
    f'{NS} {{"stream":"btcusdt@bookTicker","data":{{"e":"bookTicker","u":7,"s":"BTCUSDT",'
    '"b":"61800.20","B":"2.5","a":"61800.30","A":"0.1","T":1723161256313,"E":1723161256314}}'
)
TRADE = (
    f'{NS} {{"stream":"t","data":{{"e":"trade","E":5,"T":1723161256322,"s":"BTCUSDT","t":9,'
    '"p":"61800.30","q":"0.006"}}'
)
SPOT = f'{NS} {{"stream":"s","data":{{"u":1,"s":"ETHUSDT","b":"1","B":"2","a":"0","A":"0"}}}}'
DEPTH = f'{NS} {{"stream":"d","data":{{"e":"depthUpdate","b":[["1","2"]],"a":[]}}}}'
MARK = f'{NS} {{"e":"markPriceUpdate","s":"BTCUSDT","p":"1"}}'
LINES = [QUOTE, "", TRADE, SPOT, DEPTH, MARK]


def rows_of(path, skipped=None):
    """All rows of a file."""
    return np.concatenate([blank(0), *binance.read(path, skipped)])


def test_quotes_and_trades_become_rows(tmp_path):
    """A quote has both sides and sizes, a trade the price and the quote as it was; ns receipt."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress("\r\n".join(LINES).encode()))
    skipped = {}
    quote, trade, spot = rows_of(path, skipped)
    assert (quote["bid"], quote["ask"], quote["bid_size"]) == (61800.2, 61800.3, 2.5)
    assert (quote["ts_recv"], quote["ts_event"]) == (NS, 1723161256313 * 10**6)
    assert (quote["sequence"], trade["sequence"]) == (7, 9)
    assert (trade["last"], trade["bid"], trade["ask"]) == (61800.3, 61800.2, 61800.3)
    assert (spot["symbol"], spot["ts_event"], spot["bid"]) == (b"ETHUSDT", NS, 1.0)
    assert np.isnan(spot["ask"])
    assert skipped == {"depthUpdate": 1, "markPriceUpdate": 1}


@pytest.mark.parametrize(
    "line",
    [
        "x " + QUOTE,
        QUOTE[:-3],
        QUOTE.replace('"s":"BTCUSDT",', ""),
        QUOTE.replace("61800.20", "much"),
        QUOTE[20:],
        f"{NS} []",
        QUOTE.replace("BTCUSDT", "B" * 40),
        QUOTE.replace("1723161256313", "9223372036855"),
        QUOTE.replace("1723161256314", "99999999999999999999"),
        QUOTE.replace('"u":7', '"u":9223372036854775808'),
        TRADE.replace('"t":9', '"t":-2'),
        QUOTE.replace(str(NS), "9999999999999999999"),
        QUOTE.replace('"61800.20"', "null"),
    ],
)
def test_broken_lines_are_named(tmp_path, line):
    """No receive time, cut JSON, missing fields, words for numbers, times and numbers beyond what
    64 bits of nanoseconds hold: the line's number is said.
    """
    path = tmp_path / "a.txt"
    path.write_text(f"{QUOTE}\n\n{line}\n")
    with pytest.raises(MarketDataError, match=r"line 3: .*expected `<receive time in ns>"):
        rows_of(path)


def test_a_cut_file_gives_what_is_whole_and_then_says_so(tmp_path):
    """A gzip without its end: an error, not a silent end."""
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress("\n".join([QUOTE] * 1000).encode())[:-20])
    with pytest.raises(MarketDataError, match="cannot be unpacked"):
        rows_of(path)


def test_the_real_file_is_accounted_for(data):
    """All 93,954 messages: rows and what was skipped; the exchange's clock steps back 855 times."""
    skipped = {}
    rows = rows_of(data / "hftbacktest" / "usdm_btcusdt_20240808.gz", skipped)
    assert rows.size + sum(skipped.values()) == 93_954
    assert skipped == {"depthUpdate": 6551, "depthSnapshot": 1}
    assert (np.diff(rows["ts_recv"]) >= 0).all()
    assert (np.diff(rows["ts_event"]) < 0).any()
