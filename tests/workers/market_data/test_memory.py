"""Memory stays flat however large a file is: eight times the rows, the same peak."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from tests.processes import child
from workers.market_data.families import open_archive

ROWS = 50_000
TIMES = 8
ALLOWED_MIB = 12.0  # allocators round up; a file held whole would be hundreds
NS = 1723161255088169167


def lean_ticks(path, rows):
    """One member of quote ticks."""
    text = "".join(
        f"{i * 86_000_000 // rows},{1_000_000 + i % 100},3,{1_000_200},4,Q,1,0\n"
        for i in range(rows)
    )
    archive_path = path / "equity" / "usa" / "tick" / "a" / "20240102_quote.zip"
    archive_path.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("20240102_a_Quote_Tick.csv", text)
    return archive_path


def lean_options(path, rows):
    """Many members that have to be merged by time."""
    archive_path = path / "20240102_quote_american.zip"
    minutes = "".join(f"{34_200_000 + i * 60_000},1,1,1,1,1,2,2,2,2,1\n" for i in range(400))
    with zipfile.ZipFile(archive_path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(rows // 400):
            name = f"20240102_a_minute_quote_american_call_{(number + 1) * 10000}_20240315.csv"
            archive.writestr(name, minutes)
    return archive_path


def binance(path, rows):
    """Lines of one stream."""
    line = (
        f'{NS} {{"stream":"s","data":{{"e":"bookTicker","u":7,"s":"BTCUSDT","b":"61800.20",'
        '"B":"2.5","a":"61800.30","A":"0.1","T":1723161256313,"E":1723161256314}}\n'
    )
    with gzip.open(path / "a.gz", "wt", compresslevel=1) as file:
        for _ in range(rows // 1000):
            file.write(line * 1000)
    return path / "a.gz"


def deribit(path, rows):
    """A history of snapshots."""
    line = "2026-01-01T09:18:35.173006+00:00,BTC-3JAN26-88000-C,0.0085,0.009\n"
    with gzip.open(path / "a.csv.gz", "wt", compresslevel=1) as file:
        file.write("timestamp,instrument_name,bid_price,ask_price\n")
        for _ in range(rows // 1000):
            file.write(line * 1000)
    return path / "a.csv.gz"


def table(path, rows):
    """Parquet in a single row group, as large as the file."""
    numbers = np.random.default_rng(1).random(rows)
    columns = {"symbol": ["A"] * rows, "timestamp": np.arange(rows), "bid": numbers, "ask": numbers}
    parquet.write_table(pa.table(columns), path / "a.parquet", row_group_size=rows)
    return path / "a.parquet"


def peak(path, rows):
    """MiB of resident memory that reading a path takes a process, at its peak."""

    def resident(what):
        return int(Path("/proc/self/status").read_text().partition(what)[2].split()[0]) / 1024

    def body(tell):
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
        before = resident("VmRSS:")
        archive = open_archive(path, spill=path.parent / "spill")
        count = sum(block.size for block in archive.blocks())
        tell(f"{count} {resident('VmHWM:') - before}")

    with child(body) as process:
        count, mib = process.started().split()
        assert process.wait() == 0
    assert int(count) == rows
    return float(mib)


@pytest.mark.parametrize("make", [lean_ticks, lean_options, binance, deribit, table])
def test_memory_does_not_grow_with_the_file(tmp_path, make):
    """Reading eight times the rows takes as much at its peak, give or take some rounding."""
    small, large = tmp_path / "small", tmp_path / "large"
    small.mkdir()
    large.mkdir()
    few = peak(make(small, ROWS), ROWS)
    many = peak(make(large, ROWS * TIMES), ROWS * TIMES)
    assert many < few + ALLOWED_MIB
