"""QualityChecks: one bit a doubt, on whole batches, with memory across batches and restarts."""

from __future__ import annotations

import gzip
import io
import re
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config.ingest import GATES, IngestConfig
from workers.contract.dtypes import TICK_DTYPE
from workers.ingest.quality._checks import _native
from workers.ingest.quality.checks import (
    BIT,
    DEAD_LETTER,
    DROP,
    HELD,
    MEMORY_DTYPE,
    NAMES,
    PUBLISH,
    QualityChecks,
    flag_names,
)

S = 10**9
NUMBERS = [
    "bid",
    "ask",
    "last",
    "bid_size",
    "ask_size",
    "volume",
    "open_interest",
    "implied_volatility",
    "delta",
    "gamma",
    "vega",
    "theta",
    "rho",
    "underlying_price",
]


def tick(symbol="A", ts=1_000, bid=1.0, ask=1.1, **fields):
    """One row."""
    row = np.zeros(1, TICK_DTYPE)
    row["symbol"], row["ts_event"], row["bid"], row["ask"] = symbol, ts, bid, ask
    for name, value in fields.items():
        row[name] = value
    return row


def checks(max_rows=5000, **config):
    """QualityChecks with a small table."""
    return QualityChecks(IngestConfig(**{"quotes": 64, **config}), max_rows=max_rows)


def names(rows):
    """The names of the bits of each row."""
    return [{name for name in GATES if row["flags"] & BIT[name]} for row in rows]


def flagged(*rows, now=2**62, **config):
    """The names of the bits of each row after one batch."""
    batch = np.concatenate(rows)
    checks(**config).evaluate(batch, now_ns=now, batch=1)
    return names(batch)


def test_checks_are_named_as_they_are_configured():
    """The order of the bits is C's; the configuration has the same names."""
    assert NAMES == GATES


def test_layouts_are_the_same_on_both_sides():
    """C's structs lie where numpy's fields lie."""
    past = MEMORY_DTYPE["now"]
    dtypes = {"tick": TICK_DTYPE, "check_memory": MEMORY_DTYPE, "check_past": past}
    for name, where in _native.LAYOUT.items():
        kind, _, field = name.partition(".")
        assert where == (dtypes[kind].fields[field][1] if field else dtypes[kind].itemsize), name


def test_each_doubt_has_its_bit():
    """Every gate flags what it is for, and a clean quote has no bit."""
    nan, inf = np.nan, np.inf
    assert flagged(tick()) == [set()]
    assert flagged(tick(bid=inf)) == [{"nonfinite", "crossed"}]
    assert flagged(tick(theta=-inf)) == [{"nonfinite"}]
    assert flagged(tick(bid=nan, ask=nan, last=nan)) == [{"nonfinite"}]
    assert flagged(tick(bid=nan)) == [set()]
    assert flagged(tick(bid=-1.0)) == [{"negative", "wide"}]
    assert flagged(tick(bid=1.2)) == [{"crossed"}]
    assert flagged(tick(bid=1.1)) == [{"locked"}]
    assert flagged(tick(bid=0.0)) == [{"zero_bid", "wide"}]
    assert flagged(tick(implied_volatility=9.0)) == [{"iv_range"}]
    assert flagged(tick(gamma=-0.1)) == [{"greek_sign"}]
    assert flagged(tick(ts=5 * S, ts_recv=S)) == [{"future"}]
    assert flagged(tick(ts=5 * S), now=S) == [{"future"}]
    assert flagged(tick(ts=S, ts_recv=5 * S), stale_s=2.0) == [{"stale"}]
    assert flagged(tick("SPY1"), tick("X"), symbols=["SPY*"]) == [set(), {"unknown"}]
    assert sum(map(int, BIT.values())) == 2 ** len(GATES) - 1


def test_a_symbol_says_when_it_expires_and_what_sign_its_delta_has():
    """An option quoted after its expiry is expired; a put's delta is not positive."""
    put = "GOOG  151224P00750000"
    before, after = 1_450_900_000 * S, 1_451_100_000 * S
    assert flagged(tick(put, ts=before, delta=-0.5), tick(put, ts=before + 1, delta=0.5)) == [
        set(),
        {"greek_sign"},
    ]
    assert flagged(tick(put, ts=after)) == [{"expired"}]


def test_symbols_without_room_are_unknown_and_harm_nobody():
    """More symbols than the table holds: flagged, still published, the others keep their memory."""
    one = checks(quotes=16)
    rows = np.concatenate([tick(f"S{n}", ts=5) for n in range(40)])
    result = one.evaluate(rows, now_ns=2**62, batch=1)
    assert [flag_names(f) for f in rows["flags"]] == [""] * 16 + ["unknown"] * 24
    assert result.published == 40
    assert result.latest.tolist() == list(range(16))
    assert result.untracked.tolist() == list(range(16, 40))
    again = np.concatenate([tick("S3", ts=4), tick("S30", ts=4)])
    one.evaluate(again, now_ns=2**62, batch=2)
    assert names(again) == [{"backwards"}, {"unknown"}]


def test_memory_is_per_symbol_and_crosses_batches():
    """Backwards, duplicate and jump compare with the last quote of the same symbol only."""
    rows = (tick(ts=10), tick("B", ts=5), tick(ts=9), tick(ts=9), tick("B", ts=6, bid=9, ask=9.1))
    assert flagged(*rows) == [set(), set(), {"backwards"}, {"duplicate"}, {"jump"}]
    assert flagged(tick(ts=9), tick(ts=9, bid_size=5.0)) == [set(), set()]
    assert flagged(tick(ask=np.nan), tick(ask=np.nan)) == [set(), {"duplicate"}]


def test_one_wrong_clock_does_not_make_the_market_stale():
    """A leap of one row is not believed; two rows that agree move the clock."""
    rows = [
        tick("A", 10 * S),
        tick("B", 900 * S),
        tick("C", 11 * S),
        tick("D", 8 * S),
        tick("E", 901 * S),
        tick("F", 12 * S),
    ]
    assert flagged(*rows, stale_s=2.0) == [set(), set(), set(), {"stale"}, set(), {"stale"}]


def test_policies_say_what_may_be_published():
    """flag publishes, drop leaves out, dead_letter goes before drop, and drop before hold."""
    config = {"crossed": "drop", "negative": "dead_letter", "locked": "hold", "zero_bid": "flag"}
    rows = np.concatenate(
        [tick(), tick("B", bid=2.0), tick("C", bid=-1.0, ask=-2.0), tick("D", bid=0.0, ask=0.0)]
    )
    result = checks(gates=config).evaluate(rows, now_ns=2**62, batch=1)
    assert result.dispositions.tolist() == [PUBLISH, DROP, DEAD_LETTER, PUBLISH]
    assert result.published == 2
    assert result.latest.tolist() == [0, 3]
    assert result.counts == {"crossed": 2, "negative": 1, "locked": 1, "zero_bid": 1}


def test_hold_publishes_the_last_good_numbers_and_says_so():
    """Held: prices of the last good quote, own time and offset; absent where there was none."""
    good = tick(ts=1, bid=1.0, ask=1.1, volume=7, delta=0.5)
    bad = tick(ts=2, bid=3.0, ask=2.0, volume=9, offset=5)
    rows = np.concatenate([good, bad, bad, tick("B", bid=2.0)])
    checks(gates={"crossed": "hold"}).evaluate(rows, now_ns=2**62, batch=1)
    for row in rows[1:3]:
        assert [row[name] for name in NUMBERS] == [good[0][name] for name in NUMBERS]
        assert (row["ts_event"], row["offset"]) == (2, 5)
        assert row["flags"] & HELD
        assert row["flags"] & BIT["crossed"]
    assert np.isnan(rows["bid"][3])
    assert not rows["flags"][0]


POLICIES = {"crossed": "hold", "jump": "drop", "backwards": "dead_letter"}
STREAM = st.lists(
    st.tuples(
        st.sampled_from("ABC"), st.integers(1, 9), st.sampled_from([1.0, 1.05, 3.0, np.nan, np.inf])
    ),
    min_size=1,
    max_size=24,
)


def rows_of(stream):
    """Rows of drawn (symbol, time, bid)."""
    return np.concatenate([tick(symbol, ts * S, bid=bid) for symbol, ts, bid in stream])


@settings(max_examples=100)
@given(STREAM, st.lists(st.integers(1, 7), min_size=1), st.data())
def test_neither_batches_nor_restarts_change_a_verdict(stream, sizes, data):
    """However a stream is cut, and wherever ingest dies between the table and the commit, every
    row gets the same bits, fate and numbers."""
    config = IngestConfig(quotes=16, gates=POLICIES, stale_s=2.0)
    whole = rows_of(stream)
    dispositions = (
        QualityChecks(config, max_rows=64).evaluate(whole, now_ns=2**62, batch=1).dispositions
    )
    rows, found = rows_of(stream), []
    table = np.zeros(0, MEMORY_DTYPE)
    one, batch, clock, start = QualityChecks(config, max_rows=64), 0, (0, 0), 0
    while start < rows.size:
        end = start + sizes[batch % len(sizes)]
        piece = rows[start:end].copy()
        result = one.evaluate(piece, now_ns=2**62, batch=batch + 1)
        fresh = ~np.isin(table["symbol"], result.memory["symbol"])
        table = np.concatenate([table[fresh], result.memory])
        died = data.draw(st.sampled_from([None, "before the commit", "after it"]))
        if died != "before the commit":
            rows[start:end] = piece
            found += result.dispositions.tolist()
            batch, start, clock = batch + 1, end, one.clock
        if died:
            one = QualityChecks(config, max_rows=64)
            one.restore(table, batch=batch, clock=clock)
    assert found == dispositions.tolist()
    assert rows.tobytes() == whole.tobytes()


def lean_ticks(path, columns):
    """Columns of a Lean CSV in a zip, as floats (empty: NaN)."""
    with zipfile.ZipFile(path) as archive:
        text = archive.read(archive.namelist()[0])
    return np.genfromtxt(io.BytesIO(text), delimiter=",", usecols=columns, dtype=float)


def test_real_garbage_is_flagged_and_counted(data):
    """FXCM's quotes: every crossed and locked one is flagged, none is changed."""
    paths = sorted((data / "lean/forex/fxcm/tick/eurusd").glob("*.zip"))
    if not paths:
        pytest.skip("no FXCM ticks beside the project")
    found = lean_ticks(paths[0], (0, 1, 2))
    rows = np.zeros(len(found), TICK_DTYPE)
    rows["symbol"] = "EURUSD"
    rows["ts_event"] = (1_400_000_000_000 + found[:, 0]).astype(np.int64) * 10**6
    rows["bid"], rows["ask"] = found[:, 1], found[:, 2]
    before = rows.copy()
    one, counts, published = checks(max_rows=len(rows)), {}, 0
    result = one.evaluate(rows, now_ns=2**62, batch=1)
    counts, published = result.counts, result.published
    assert published == rows.size
    assert counts["crossed"] == int((before["bid"] > before["ask"]).sum()) > 1000
    assert counts["locked"] == int((before["bid"] == before["ask"]).sum()) > 1000
    steps = np.diff(before["ts_event"])
    assert counts.get("backwards", 0) == int((steps < 0).sum())
    for name in before.dtype.names:
        if name != "flags":
            assert np.array_equal(rows[name], before[name])


def test_clocks_that_run_backwards_are_flagged(data):
    """Binance: exchange time after receive time, and steps back; each row says which."""
    path = data / "hftbacktest/usdm_btcusdt_20240808.gz"
    if not path.exists():
        pytest.skip("no Binance messages beside the project")
    with gzip.open(path, "rb") as lines:
        found = [(int(line[:19]), re.search(rb'"E":(\d+)', line)) for line in lines]
    times = np.array([(recv, int(match[1]) * 10**6) for recv, match in found if match])
    rows = np.zeros(len(times), TICK_DTYPE)
    rows["symbol"], rows["bid"], rows["ask"] = "BTCUSDT", 61_000.0, 61_000.1
    rows["ts_recv"], rows["ts_event"] = times[:, 0], times[:, 1]
    result = checks(max_rows=len(rows), future_s=1.0, stale_s=0.5).evaluate(rows, now_ns=0, batch=1)
    back = np.diff(times[:, 1]) < 0
    assert result.counts["backwards"] == back.sum() > 100
    assert np.array_equal((rows["flags"][1:] & BIT["backwards"]) != 0, back)
    ahead = times[:, 1] > times[:, 0] + 10**9
    assert np.array_equal((rows["flags"] & BIT["future"]) != 0, ahead)
    assert ahead.mean() > 0.5
    assert result.published == rows.size


def test_absent_sides_are_no_doubt_but_no_price_is(data):
    """Option minutes with a side missing: not flagged for it; both missing is no price at all."""
    path = data / "lean/option/usa/minute/goog/20151224_quote_american.zip"
    if not path.exists():
        pytest.skip("no option minutes beside the project")
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()[:300]
        text = b"".join(archive.read(name) for name in names)
    found = np.genfromtxt(io.BytesIO(text), delimiter=",", usecols=(0, 4, 9), dtype=float)
    rows = np.zeros(len(found), TICK_DTYPE)
    rows["symbol"] = "GOOG"
    rows["ts_event"] = np.arange(1, len(found) + 1)
    rows["bid"], rows["ask"], rows["last"] = found[:, 1] / 1e4, found[:, 2] / 1e4, np.nan
    checks(max_rows=len(rows)).evaluate(rows, now_ns=2**62, batch=1)
    no_bid, no_ask = np.isnan(found[:, 1]), np.isnan(found[:, 2])
    assert (no_bid ^ no_ask).sum() > 100
    priceless = (rows["flags"] & BIT["nonfinite"]) != 0
    assert np.array_equal(priceless, no_bid & no_ask)
    two_sided = BIT["crossed"] | BIT["locked"] | BIT["wide"] | BIT["jump"]
    assert not (rows["flags"][no_bid | no_ask] & two_sided).any()
