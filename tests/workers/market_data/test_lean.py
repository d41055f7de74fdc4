"""Lean files: every row once, in order of time; what is broken is named with its line."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest

from workers.market_data import lean
from workers.market_data.archive import SUSPICIOUS, blank
from workers.market_data.errors import MarketDataError
from workers.market_data.families import open_archive

MEMBER = "20240311_spx_minute_quote_american_{}_{}_20240419.csv"
CALL = MEMBER.format("call", "51000000")
ROW = "34200000,100,100,100,200,3,300,300,300,400,5"


def zipped(path, members):
    """A zip with these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return path


def chain(folder, members, name="20240311_quote_american.zip"):
    """A Lean tree with one chain."""
    return zipped(folder / "option" / "usa" / "minute" / "spx" / name, members)


def rows_of(archive, start=0):
    """All rows from a position on."""
    return np.concatenate([blank(0), *archive.blocks(start)])


def nanoseconds(text):
    """A UTC moment in ns."""
    return np.datetime64(text, "ns").astype("i8")


def test_rows_are_merged_with_their_sides_and_times(tmp_path):
    """Two contracts: ordered by the end of the minute, absent sides NaN, New York summer time."""
    chain(
        tmp_path,
        {
            CALL: "34260000,,,,,0,21500,21500,5000,5100,19\n",
            MEMBER.format("put", "51000000"): "34200000,100,100,100,200,3,,,,,0\n",
            MEMBER.format("put", "52005000"): "",
        },
    )
    day = open_archive(tmp_path, spill=tmp_path)
    rows = rows_of(day)
    assert len(day) == rows.size == 2
    assert rows["symbol"].tolist() == [b"SPX   240419P05100000", b"SPX   240419C05100000"]
    first = nanoseconds("2024-03-11T13:31:00")  # 9:30 EDT + the bar
    assert rows["ts_event"].tolist() == [first, first + 60 * 10**9]
    assert rows["bid"][0] == 0.02
    assert np.isnan(rows["ask"][0])
    assert np.isnan(rows["bid"][1])
    assert rows["ask"][1] == 0.51
    assert rows["sequence"].tolist() == [0, 1]
    assert rows_of(day, 1).tobytes() == rows[1:].tobytes()
    assert rows_of(day, 2).size == 0


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"readme.txt": "x"}, "the name 'readme.txt'"),
        ({CALL: "a,b\n"}, "line 1: 2 columns; expected quote bars"),
        ({CALL: f"{ROW}\n{ROW},7\n"}, "line 2: 12 columns"),
        ({CALL: f"{ROW}\n\n{ROW.replace('400', 'four')}\n"}, "line 3: ask = 'four', not a number"),
        ({CALL: ",1,1,1,1,1,1,1,1,1,1\n"}, "line 1: a row without a time"),
        ({CALL: f"{ROW}\n{ROW.replace('34200000', '99000000')}"}, "line 2: time 99000000"),
        ({CALL: ROW.replace("34200000", "86400000")}, "line 1: time 86400000"),
        ({CALL: ROW.replace("34200000", "-1")}, "line 1: time -1"),
        ({CALL: f"time,bo,bh,bl,bid,bs,ao,ah,al,ask,as\n{ROW}"}, "line 1: time = 'time'"),
        ({CALL.replace("51000000", "1000000000"): ROW}, "strike 100000 fits no OCC symbol"),
        ({CALL.replace("spx", "longname"): ROW}, "root 'longname'"),
        ({CALL.replace("0311", "1399"): ROW}, "YYYYMMDD"),
        ({CALL: ROW, f"again/{CALL}": ROW}, "symbol 'SPX   240419C05100000' again"),
        ({}, "no rows"),
        ({CALL: ""}, "no rows"),
        ({CALL: "\xff\xfe3\x004\x00"}, "columns"),
    ],
)
def test_broken_members_are_named_before_anything_is_sent(tmp_path, members, words):
    """File, member and line, what was found and expected, the remedy; all in one line."""
    path = chain(tmp_path, members)
    with pytest.raises(MarketDataError) as caught:
        open_archive(tmp_path, spill=tmp_path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert words in text
    assert "; expected " in text
    assert "\n" not in text


def test_missing_paths_and_wrong_zips_say_what_to_do(tmp_path):
    """A path that is not there, a folder without data, a file that is no zip, another day."""
    with pytest.raises(MarketDataError, match="no such file"):
        open_archive(tmp_path / "nothing", spill=tmp_path)
    with pytest.raises(MarketDataError, match="holds no"):
        open_archive(tmp_path, spill=tmp_path)
    (tmp_path / "20240101_quote_american.zip").write_text("no zip")
    with pytest.raises(MarketDataError, match="fetch it again"):
        open_archive(tmp_path, spill=tmp_path)
    with pytest.raises(MarketDataError, match="19991231"):
        open_archive(tmp_path, date="19991231", spill=tmp_path)


def test_cut_and_damaged_zips_are_refused(tmp_path):
    """A zip cut anywhere, or with a flipped byte in a member, is an error of its file."""
    good = chain(tmp_path, {CALL: "\n".join([ROW] * 2000)}).read_bytes()
    path = tmp_path / "20240311_quote_american.zip"
    for size in (0, 1, 30, len(good) // 2, len(good) - 1):
        path.write_bytes(good[:size])
        with pytest.raises(MarketDataError, match="cannot be unpacked"):
            open_archive(path, spill=tmp_path)
    path.write_bytes(good[:200] + bytes([good[200] ^ 1]) + good[201:])
    with pytest.raises(MarketDataError, match="CRC"):
        open_archive(path, spill=tmp_path)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
@pytest.mark.parametrize("from_end", [False, True])
def test_a_damaged_byte_is_an_error_of_the_file_or_nothing(tmp_path, method, from_end):
    """One bit anywhere in a zip of any compression: the rows as they were, or the file is named."""
    path = tmp_path / "20240311_quote_american.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr(CALL, "\n".join([ROW] * 300))
    good = path.read_bytes()
    whole = rows_of(open_archive(path, spill=tmp_path)).tobytes()
    rng = np.random.default_rng(method)
    refused = 0
    for place in rng.integers(0, min(len(good), 400), 60):
        at = len(good) - 1 - place if from_end else place
        path.write_bytes(good[:at] + bytes([good[at] ^ 1 << rng.integers(8)]) + good[at + 1 :])
        try:
            assert rows_of(open_archive(path, spill=tmp_path)).tobytes() == whole
        except MarketDataError as error:
            assert str(error).startswith(f"{path}: ")  # noqa: PT017 - as it was, or refused
            refused += 1
    assert refused > 20


@pytest.mark.parametrize(
    ("day", "opens"), [("20240310", "2024-03-10T13:31"), ("20241103", "2024-11-03T14:31")]
)
def test_a_row_has_the_time_of_the_clock_on_days_that_clocks_are_changed(tmp_path, day, opens):
    """Half past nine on the clock: 8.5 or 10.5 hours after midnight where others have 9.5."""
    early = ROW.replace("34200000", "3600000")
    chain(tmp_path, {CALL.replace("20240311", day): f"{early}\n{ROW}\n"})
    rows = rows_of(open_archive(tmp_path, spill=tmp_path))
    midnight_utc = opens[:11] + ("05:00" if day == "20240310" else "04:00")
    first = nanoseconds(midnight_utc) + 3660 * 10**9
    assert rows["ts_event"].tolist() == [first, nanoseconds(opens)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n\n"])
def test_line_ends_and_marks_make_no_difference(tmp_path, end, start):
    """Unix, DOS and old Mac line ends, a byte order mark, empty lines, no end of the last line."""
    chain(tmp_path, {CALL: start + end.join([ROW, ROW, "", ROW])})
    rows = rows_of(open_archive(tmp_path, spill=tmp_path))
    assert rows["bid"].tolist() == [0.02] * 3


@pytest.mark.parametrize("folder", ["data/", ""])
def test_zips_in_zips_and_folders_in_zips_are_read(tmp_path, folder):
    """`.zip.zip` by name or in fact, members in folders, what archivers leave behind."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr(f"{folder}{CALL}", ROW)
        archive.writestr(f"__MACOSX/._{CALL}", b"\0")
        archive.mkdir("empty")
    chain(
        tmp_path,
        {"20240311_quote_american.zip": inner.getvalue()},
        "20240311_quote_american.zip.zip",
    )
    assert rows_of(open_archive(tmp_path, spill=tmp_path)).size == 1


def test_older_files_without_sizes_are_read(tmp_path):
    """Nine columns: no sizes; they are absent."""
    chain(tmp_path, {CALL: "34200000,100,100,100,200,300,300,300,400\n"})
    rows = rows_of(open_archive(tmp_path, spill=tmp_path))
    assert (rows["bid"][0], rows["ask"][0]) == (0.02, 0.04)
    assert np.isnan(rows["bid_size"][0])


def test_hourly_and_daily_bars_end_when_they_are_known(tmp_path):
    """`YYYYMMDD HH:MM` in New York, an hour or a day later; winter time here."""
    member = "spx_quote_american_call_51000000_20240419.csv"
    bar = ROW.partition(",")[2]
    folder = tmp_path / "option" / "usa"
    hour = zipped(
        folder / "hour" / "spx_2024_quote_american.zip", {member: f"20240105 09:00,{bar}"}
    )
    daily = zipped(
        folder / "daily" / "spx_2024_quote_american.zip", {member: f"20240105 00:00,{bar}"}
    )
    assert rows_of(lean.stream([hour]))["ts_event"].tolist() == [nanoseconds("2024-01-05T15:00")]
    assert rows_of(lean.stream([daily]))["ts_event"].tolist() == [nanoseconds("2024-01-06T05:00")]
    wrong = zipped(
        tmp_path / "option" / "hour" / "a.zip", {member: f"20240105 09:00,{bar}\nx,{bar}"}
    )
    with pytest.raises(MarketDataError, match="line 2: time 'x'"):
        rows_of(lean.stream([wrong]))


def test_ticks_carry_the_side_that_did_not_change(tmp_path):
    """A 0 stands for "as before"; before a side was first given it is absent."""
    text = (
        "14400054,0,0,1836300,100,Q,1,0\n"
        "14400241,1800100,300,0,0,P,1,1\n"
        "14400241,0,0,1818000,3000,P,1,0\n"
    )
    path = zipped(
        tmp_path / "equity/usa/tick/ibm/20131007_quote.zip", {"20131007_ibm_Quote_Tick.csv": text}
    )
    rows = rows_of(lean.stream([path]))
    assert np.isnan(rows["bid"][0])
    assert rows["bid"].tolist()[1:] == [180.01, 180.01]
    assert rows["ask"].tolist() == [183.63, 183.63, 181.8]
    assert rows["ask_size"].tolist() == [100, 100, 3000]
    assert rows["bid_size"].tolist()[1:] == [300, 300]
    assert rows["venue"].tolist() == [b"Q", b"P", b"P"]
    assert rows["source_flags"].tolist() == [0, SUSPICIOUS, 0]
    assert rows["ts_event"][0] == nanoseconds("2013-10-07T08:00:00.054")


def test_forex_is_utc_and_not_scaled(tmp_path):
    """Prices as written, milliseconds since midnight UTC; the folder says that it is forex."""
    members = {"20140501_eurusd_tick_quote.csv": "1787,1.38727,1.38729\r\n"}
    path = zipped(tmp_path / "forex/fxcm/tick/eurusd/20140501_quote.zip", members)
    rows = rows_of(lean.stream([path]))
    assert rows["ts_event"][0] == nanoseconds("2014-05-01T00:00:01.787")
    assert (rows["symbol"][0], rows["bid"][0], rows["ask"][0]) == (b"EURUSD", 1.38727, 1.38729)
    alone = zipped(tmp_path / "alone" / "20140501_quote.zip", members)
    with pytest.raises(MarketDataError, match="no folder above it says what it is"):
        rows_of(lean.stream([alone]))
    assert rows_of(lean.stream([alone], "forex")).tobytes() == rows.tobytes()


def test_trades_and_open_interest_are_read(tmp_path):
    """Trade bars fill `last` and `volume`, open interest its own field; quotes stay absent."""
    trade = CALL.replace("quote", "trade")
    interest = CALL.replace("quote", "openinterest")
    path = zipped(tmp_path / "a.zip", {trade: "34200000,1,2,1,20000,7\n"})
    rows = rows_of(lean.stream([path]))
    assert (rows["last"][0], rows["volume"][0]) == (2.0, 7)
    assert np.isnan(rows["bid"][0])
    path = zipped(tmp_path / "b.zip", {interest: "23460000,12\n"})
    assert rows_of(lean.stream([path]))["open_interest"].tolist() == [12]


def test_the_real_chain_is_read_whole(data, tmp_path):
    """All 275,552 rows of 2,192 contracts and the 260 of their underlying, ordered by time."""
    day = open_archive(data / "lean", spill=tmp_path)
    assert len(day) == 275_552 + 260
    rows = rows_of(day)
    assert rows.size == len(day)
    assert (np.diff(rows["ts_event"]) >= 0).all()
    options = rows[rows["symbol"] != b"GOOG"]
    assert options.size == 275_552
    assert np.unique(options["symbol"]).size <= 2192
    assert np.isnan(options["bid"]).mean() == pytest.approx(0.246, abs=0.001)
    assert np.isnan(options["ask"]).mean() == pytest.approx(0.165, abs=0.001)


def test_the_real_ticks_are_read_whole(data):
    """IBM's five days of quotes and trades, EURUSD's thirteen days, the hourly chain: by count."""
    lean_data = data / "lean"

    def count(paths):
        return sum(block.size for block in lean.stream(sorted(paths)).blocks())

    ibm = lean_data / "equity/usa/tick/ibm"
    assert count(ibm.glob("*_quote.zip")) == 575_589
    assert count(ibm.glob("*_trade.zip")) == 126_395
    assert count((lean_data / "forex/fxcm/tick/eurusd").glob("*.zip")) == 1_144_807
    assert count([lean_data / "option/usa/hour/goog_2015_quote_american.zip"]) == 23_360
