"""Lean option minutes: every row once, in order of time; what is broken is named."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from workers.replayer.lean_options import LeanDay
from workers.replayer.source import SourceError

LEAN = Path(__file__).parents[3].parent / "shared" / "data" / "lean"
MEMBER = "20240311_spx_minute_quote_american_{}_{}_20240419.csv"


def chain(folder, members):
    """A Lean tree with one chain."""
    path = folder / "option" / "usa" / "minute" / "spx" / "20240311_quote_american.zip"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return path


def test_rows_are_merged_with_their_sides_and_times(tmp_path):
    """Two contracts: ordered by the end of the minute, absent sides NaN, New York summer time."""
    chain(
        tmp_path,
        {
            MEMBER.format("call", "51000000"): "34260000,,,,,0,21500,21500,5000,5100,19\n",
            MEMBER.format("put", "51000000"): "34200000,100,100,100,200,3,,,,,0\n",
            MEMBER.format("put", "52005000"): "",
        },
    )
    day = LeanDay(tmp_path)
    rows = day.read(0, 10)
    assert len(day) == rows.size == 2
    assert rows["symbol"].tolist() == [b"SPX   240419P05100000", b"SPX   240419C05100000"]
    first = np.datetime64("2024-03-11T13:31:00", "ns").astype("i8")  # 9:30 EDT + the bar
    assert rows["ts_event"].tolist() == [first, first + 60 * 10**9]
    assert rows["bid"][0] == pytest.approx(0.02)
    assert np.isnan(rows["ask"][0])
    assert np.isnan(rows["bid"][1])
    assert rows["ask"][1] == pytest.approx(0.51)
    assert day.read(2, 10).size == 0


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"readme.txt": "x"}, "not of the form"),
        ({MEMBER.format("call", "1"): "a,b\n"}, "expected"),
        ({MEMBER.format("call", "1"): ",1,1,1,1,1,1,1,1,1,1\n"}, "without a time"),
        ({}, "no rows"),
        ({MEMBER.format("call", "1"): ""}, "no rows"),
    ],
)
def test_broken_files_are_named_before_anything_is_sent(tmp_path, members, words):
    """A zip with other members, other columns, no time or no rows is a SourceError."""
    path = chain(tmp_path, members)
    with pytest.raises(SourceError, match=words) as caught:
        LeanDay(tmp_path)
    assert str(path) in str(caught.value)


def test_missing_paths_and_wrong_zips_say_what_to_do(tmp_path):
    """A path that is not there, a folder without chains, a file that is no zip, another day."""
    with pytest.raises(SourceError, match="no such file"):
        LeanDay(tmp_path / "nothing")
    with pytest.raises(SourceError, match="holds no option minute zip"):
        LeanDay(tmp_path)
    (tmp_path / "20240101_quote_american.zip").write_text("no zip")
    with pytest.raises(SourceError, match="fetch it again"):
        LeanDay(tmp_path)
    with pytest.raises(SourceError, match="19991231"):
        LeanDay(tmp_path, "19991231")


@pytest.mark.skipif(not LEAN.exists(), reason="the recorded market data is not beside the project")
def test_the_real_chain_is_read_whole():
    """All 275,552 rows of 2,192 contracts and the 260 of their underlying, ordered by time."""
    day = LeanDay(LEAN)
    assert len(day) == 275_552 + 260
    rows = np.concatenate([day.read(at, 50_000).copy() for at in range(0, len(day), 50_000)])
    assert rows.size == len(day)
    assert (np.diff(rows["ts_event"]) >= 0).all()
    options = rows[rows["symbol"] != b"GOOG"]
    assert options.size == 275_552
    assert np.unique(options["symbol"]).size <= 2192
    assert np.isnan(options["bid"]).mean() == pytest.approx(0.246, abs=0.001)
    assert np.isnan(options["ask"]).mean() == pytest.approx(0.165, abs=0.001)
