"""One way in: every family is recognised by its name or first bytes, strangers are refused."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from workers.market_data import lean
from workers.market_data.archive import blank
from workers.market_data.errors import MarketDataError
from workers.market_data.families import family_of, open_archive

TABLE = "symbol,timestamp,bid\nA,{},1\n"


@pytest.mark.parametrize(
    ("path", "family"),
    [
        ("lean/option/usa/minute/goog/20151224_quote_american.zip", "lean-option"),
        ("lean/option/usa/hour/goog_2015_quote_american.zip", "lean-option"),
        ("lean/equity/usa/tick/ibm/20131007_trade.zip", "lean-equity"),
        ("lean/forex/fxcm/tick/eurusd/20140501_quote.zip", "lean-forex"),
        ("deribit/btc_eth_chains_202601.csv.gz", "deribit"),
        ("deribit/options_snapshot_20200521.csv", "deribit"),
        ("hftbacktest/usdm_btcusdt_20240808.gz", "binance"),
    ],
)
def test_real_files_are_recognised(data, path, family):
    """Every recorded family, by itself."""
    assert family_of(data / path) == family


def test_a_folder_is_read_file_after_file_from_any_position(tmp_path):
    """The files of one family in the order of their names; a date chooses among them."""
    for day in (1, 2, 3):
        (tmp_path / f"2024010{day}.csv").write_text(TABLE.format(day) + f"B,{day},2\n")
    (tmp_path / "readme.md").write_text("not data")
    archive = open_archive(tmp_path, spill=tmp_path)
    whole = np.concatenate(list(archive.blocks()))
    assert whole["symbol"].tolist() == [b"A", b"B"] * 3
    assert whole["sequence"].tolist() == list(range(6))
    for start in range(7):
        tail = np.concatenate([blank(0), *archive.blocks(start)])
        assert tail.tobytes() == whole[start:].tobytes()
    one = open_archive(tmp_path, date="20240102", spill=tmp_path)
    assert np.concatenate(list(one.blocks()))["ts_event"].tolist() == [2 * 10**9] * 2


def test_a_mark_before_binance_lines_is_passed_over(tmp_path):
    """A byte order mark and empty lines in front change nothing."""
    path = tmp_path / "a.txt"
    path.write_text('\ufeff\n\n1723161255030314667 {"e":"markPriceUpdate"}\n')
    assert family_of(path) == "binance"


def test_what_a_stranger_begins_with_is_said(tmp_path):
    """An empty file, another spelling of a header, UTF-16: the error shows what was found."""
    path = tmp_path / "a.csv"
    for data, says in (
        (b"", "it is empty"),
        (b"Symbol;Timestamp\nA;1\n", "it begins with b'Symbol;Timestamp'"),
        ("symbol,timestamp,bid\n".encode("utf-16"), "UTF-16 text.*convert it with iconv"),
    ):
        path.write_bytes(data)
        with pytest.raises(MarketDataError, match=says):
            open_archive(path, spill=tmp_path)


@pytest.mark.parametrize("text", ["", "\0\1\2", "hello\n", '{"e":"trade"}\n', "a,b\n1,2\n"])
def test_strangers_are_refused_with_what_is_known(tmp_path, text):
    """An empty, binary or unknown file: refused with the list of families and what to set."""
    (tmp_path / "a.csv").write_text(text)
    for path in (tmp_path, tmp_path / "a.csv"):
        with pytest.raises(MarketDataError, match=r"expected .*Parquet or CSV.*replayer.data"):
            open_archive(path, spill=tmp_path)


def test_a_folder_of_several_families_is_not_guessed(tmp_path):
    """Two families side by side: the error names both."""
    (tmp_path / "a.csv").write_text(TABLE.format(1))
    (tmp_path / "b.csv").write_text("instrument_name,timestamp,bid_price\n")
    with pytest.raises(MarketDataError, match="table, deribit"):
        open_archive(tmp_path, spill=tmp_path)


def test_a_universe_is_no_stream_of_quotes(data, tmp_path):
    """Lean's daily universes lie below `option` but hold no quotes: refused, not misread."""
    with pytest.raises(MarketDataError, match="of no known kind"):
        open_archive(data / "lean/option/usa/universes/goog/20151224.csv", spill=tmp_path)


@pytest.mark.parametrize("form", ["deribit", "table", "binance"])
def test_a_line_without_an_end_is_refused_before_it_fills_memory(tmp_path, form):
    """Seventeen million bytes without a line end, in the form of each kind of text."""
    begins = {
        "deribit": b"instrument_name,timestamp,bid_price\n",
        "table": b"symbol,timestamp,bid\n",
        "binance": b'1723161255030314667 {"e":"depthUpdate"}\n',
    }
    path = tmp_path / "a.csv"
    path.write_bytes(begins[form] + b"7" * (17 << 20))
    with pytest.raises(MarketDataError, match="a line longer than 16777216 bytes"):
        list(open_archive(path, form=form, spill=tmp_path).blocks())


def test_archives_within_archives_are_named_where_they_are_broken(tmp_path):
    """A zip without a file in it, one within another that is none or cut, a folder named .zip."""
    path, inner = tmp_path / "a.zip", io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("20240311_spx_quote.csv", "1,2,3")
    for name, content, says in (
        ("__MACOSX/x", b"", "an archive without files"),
        ("b.zip", b"no zip", r"member 'b\.zip': cannot be unpacked"),
        ("b.zip", inner.getvalue()[:-30], r"member 'b\.zip': cannot be unpacked"),
    ):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, content)
        with pytest.raises(MarketDataError, match=says):
            open_archive(path, spill=tmp_path)
    (tmp_path / "c").mkdir()
    with pytest.raises(MarketDataError, match="holds no option quotes"):
        lean.option_day(tmp_path / "c", "", tmp_path)
