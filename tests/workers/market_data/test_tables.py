"""Parquet and CSV tables: what was written is what is read; what is missing is named."""

from __future__ import annotations

import gzip

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import csv, parquet

from workers.market_data import tables
from workers.market_data.archive import blank
from workers.market_data.errors import MarketDataError

PRICES = st.floats(allow_nan=True, allow_infinity=True)
SYMBOLS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=32)
ROWS = st.lists(
    st.tuples(SYMBOLS, st.integers(10**17, 2 * 10**18), PRICES, PRICES, st.integers(0, 10**9)),
    min_size=1,
    max_size=30,
)


def rows_of(path):
    """All rows of a file."""
    return np.concatenate([blank(0), *tables.read(path)])


@given(ROWS, st.sampled_from(["parquet", "csv", "csv.gz"]))
def test_what_is_written_is_read(tmp_path_factory, values, form):
    """Any symbols, times in ns and prices, NaN and inf among them, through each kind of file."""
    symbols, times, bids, asks, volumes = zip(*values, strict=True)
    table = pa.table(
        {
            "other": symbols,
            "symbol": symbols,
            "timestamp": times,
            "bid": bids,
            "ask": asks,
            "volume": volumes,
        }
    )
    path = tmp_path_factory.getbasetemp() / f"table.{form}"
    if form == "parquet":
        parquet.write_table(table, path, row_group_size=7)
    else:
        sink = pa.BufferOutputStream()
        csv.write_csv(table, sink)
        content = sink.getvalue().to_pybytes()
        path.write_bytes(gzip.compress(content) if form == "csv.gz" else content)
    rows = rows_of(path)
    assert rows["symbol"].tolist() == [symbol.encode() for symbol in symbols]
    assert rows["ts_event"].tolist() == list(times)
    assert np.array_equal(rows["bid"], bids, equal_nan=True)
    assert np.array_equal(rows["ask"], asks, equal_nan=True)
    assert rows["volume"].tolist() == list(volumes)
    assert np.isnan(rows["last"]).all()
    assert (rows["sequence"] == -1).all()


@pytest.mark.parametrize(
    ("time", "nanoseconds"),
    [
        ("1700000000", 1700000000 * 10**9),
        ("1700000000123", 1700000000123 * 10**6),
        ("1700000000123456", 1700000000123456 * 10**3),
        ("1700000000123456789", 1700000000123456789),
        ("2023-11-14T22:13:20Z", 1700000000 * 10**9),
        ("2023-11-14 22:13:20.000000001+00:00", 1700000000 * 10**9 + 1),
        ("2023-11-14T23:13:20+01:00", 1700000000 * 10**9),
    ],
)
def test_times_come_in_many_units(tmp_path, time, nanoseconds):
    """Seconds to nanoseconds by their size, ISO 8601 with any offset."""
    path = tmp_path / "a.csv"
    path.write_text(f"symbol,timestamp,last,venue,flags\nA,{time},1,NYSE,5\n")
    row = rows_of(path)[0]
    assert row["ts_event"] == nanoseconds
    assert (row["last"], row["venue"], row["source_flags"]) == (1.0, b"NYSE", 5)


def test_arrow_timestamps_of_any_unit_are_read(tmp_path):
    """A Parquet column of timestamps, in microseconds with a zone."""
    moments = pa.array([1_700_000_000_000_000], pa.timestamp("us", tz="America/New_York"))
    parquet.write_table(
        pa.table({"symbol": ["A"], "ts_event": moments, "bid": [1.0]}), tmp_path / "a"
    )
    assert rows_of(tmp_path / "a")["ts_event"].tolist() == [1_700_000_000 * 10**9]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("symbol,bid\nA,1\n", "line 1|columns symbol, bid; expected columns symbol, timestamp"),
        ("symbol,timestamp,volume\nA,1,1\n", "at least one of bid, ask, last"),
        ("symbol,timestamp,bid\nA,1,1\nB,soon,1\n", "line 3: time 'soon'"),
        ("symbol,timestamp,bid\nA,1,1\nB,1.5,1\n", "line 3: time '1.5'"),
        ("symbol,timestamp,bid\nA,2023-11-14T22:13:20,1\n", "line 2: time .* with an offset"),
        ("symbol,timestamp,bid\n" + "A" * 33 + ",1,1\n", "line 2: symbol 'A+'; expected 1 to 32"),
        ("symbol,timestamp,bid\nA\0B,1,1\n", "line 2: symbol .*none of them zero"),
        ("symbol,timestamp,bid\nA,1,1\nB,2023-11-14T22:13:20Z,1\n", "line 3: time '2023"),
        ("symbol,timestamp,bid\nA,2023-11-14T22:13:20Z,1\nB,1,1\n", "line 3: time '1'"),
        ("symbol,timestamp,bid\nA,99999999999999999999,1\n", "line 2: time '9+'"),
        ("symbol,timestamp,bid\nA,2300-01-01T00:00:00Z,1\n", "line 2: time '2300.* to 2261"),
        ("symbol,timestamp,bid\nA,0001-01-01T00:00:00+05:00,1\n", "line 2: time '0001"),
        ("symbol,timestamp,bid\nA,1,1\nB,1700000000000,1\n", "line 3: .* in another unit"),
        ("symbol,timestamp,bid,bid\nA,1,1,2\n", "the column bid twice"),
        ("symbol,timestamp,bid\nA,1,1\nB,1,1_0\n", "line 3: bid = '1_0', not a number"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, text, words):
    """Missing columns and double ones, times of no unit, of several, without a zone or beyond 64
    bits, symbols that do not fit.
    """
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(MarketDataError, match=words):
        rows_of(path)


def test_broken_parquet_is_named(tmp_path):
    """A file cut short, a column of lists, a time that is null."""
    path = tmp_path / "a.parquet"
    good = pa.table({"symbol": ["A"] * 100, "timestamp": list(range(100)), "bid": [1.0] * 100})
    parquet.write_table(good, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(MarketDataError, match="cannot be read"):
        rows_of(path)
    parquet.write_table(pa.table({"symbol": ["A"], "timestamp": [1], "bid": [[1.0]]}), path)
    with pytest.raises(MarketDataError, match="column bid of type list"):
        rows_of(path)
    nothing = pa.array([1, None], pa.int64())
    parquet.write_table(
        pa.table({"symbol": ["A", "B"], "timestamp": nothing, "bid": [1.0, 2.0]}), path
    )
    with pytest.raises(MarketDataError, match="line 2: no time"):
        rows_of(path)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"symbol": [1, 2]}, "column symbol of type int64; expected text"),
        ({"venue": [1, 2]}, "column venue of type int64; expected text"),
        ({"bid": ["1", "x"]}, "line 2: bid = 'x'; expected a number"),
        ({"volume": [1, 1 << 62]}, "line 2: volume = '4611686018427387904'"),
        ({"timestamp": pa.array([1, (1 << 64) - 1], pa.uint64())}, "line 2: time 184467"),
        ({"timestamp": pa.array([0, 1 << 57], pa.timestamp("us"))}, "line 2: time 1441.* to 2261"),
        ({"timestamp": [1_700_000_000, 1_700_000_000_000]}, "line 2: .* in another unit"),
    ],
)
def test_columns_that_do_not_fit_are_named(tmp_path, columns, words):
    """Numbers for texts, words for numbers, whole ones and times that would not be held exactly."""
    good = {"symbol": ["A", "B"], "timestamp": [1, 2], "bid": [1.0, 2.0]}
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table(good | columns), path)
    with pytest.raises(MarketDataError, match=words):
        rows_of(path)


def test_dictionaries_decimals_and_missing_receipts_are_read(tmp_path):
    """What other tools write: coded texts, decimals, a receive time of 0 for none."""
    path = tmp_path / "a.parquet"
    symbols = pa.array(["A", "B"]).dictionary_encode()
    prices = pa.array([1.5, None]).cast(pa.decimal128(10, 2))
    times = [1_700_000_000_000, 1_700_000_000_001]
    parquet.write_table(
        pa.table({"symbol": symbols, "timestamp": times, "bid": prices, "ts_recv": [0, times[1]]}),
        path,
    )
    rows = rows_of(path)
    assert rows["symbol"].tolist() == [b"A", b"B"]
    assert rows["bid"][0] == 1.5
    assert np.isnan(rows["bid"][1])
    assert rows["ts_recv"].tolist() == [0, times[1] * 10**6]


def test_damaged_pages_with_a_checksum_are_refused(tmp_path):
    """A flipped bit in a page that was written with its checksum is not taken for data."""
    path = tmp_path / "a.parquet"
    table = pa.table({"symbol": ["A"] * 500, "timestamp": range(500), "bid": np.arange(500.0)})
    options = {"compression": "none", "use_dictionary": False}
    parquet.write_table(table, path, write_page_checksum=True, **options)
    good = path.read_bytes()
    at = good.index(np.arange(490.0, 495.0).tobytes())
    path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    with pytest.raises(MarketDataError, match=r"cannot be read .*CRC"):
        rows_of(path)
