"""QuantConnect-Lean option minute zips, with the quotes of their underlying.

One zip is one day of one chain: a header-less CSV for each contract, bid and ask bars by the
minute, prices times 10,000, milliseconds since midnight in New York, an empty field for a side
that is absent. A bar is known when it ends: the time of a row is the end of its minute. Every row
of every file becomes one row here; they are merged by time through a temporary file, so that
memory stays flat however large the day.
"""

from __future__ import annotations

import io
import re
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import IO, Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
from pyarrow import csv

from workers.records import TICK_DTYPE
from workers.replayer.source import Rows, SourceError, blank, occ_symbol

NEW_YORK = ZoneInfo("America/New_York")
MINUTE_NS = 60 * 10**9
SCALE = 1e-4
COLUMNS = ("ms", "bo", "bh", "bl", "bid", "bid_size", "ao", "ah", "al", "ask", "ask_size")
OPTION = re.compile(
    r"(?P<day>\d{8})_(?P<root>[a-z0-9.]+)_minute_quote_(american|european)_"
    r"(?P<right>call|put)_(?P<strike>\d+)_(?P<expiry>\d{8})\.csv"
)
EQUITY = re.compile(r"(?P<day>\d{8})_(?P<root>[a-z0-9.]+)_minute_quote\.csv")
CHAIN = "*_quote_american.zip"


@dataclass(frozen=True, slots=True)
class Day:
    """The files of one day."""

    chain: Path
    underlying: Path | None


class LeanDay:
    """One day of a chain, its rows merged by time."""

    def __init__(self, path: Path, day: str = "") -> None:
        """Find and read the files. Raises SourceError before anything could be published."""
        files = find(path, day)
        self.name = files.chain.name
        self._rows = 0
        with tempfile.TemporaryFile() as file:
            times = [self._append(file, *member) for member in _members(files.chain, OPTION)]
            if files.underlying is not None:
                members = _members(files.underlying, EQUITY)
                times += [self._append(file, *member) for member in members]
            if self._rows == 0:
                raise SourceError(f"{files.chain}: no rows in any member; choose another file")
            file.flush()
            # the mapping outlives the file object and its (already removed) name
            self._data = np.memmap(file, TICK_DTYPE, mode="r", shape=(self._rows,))
        self._order = np.argsort(np.concatenate(times), kind="stable")

    def __len__(self) -> int:
        """Rows of the day."""
        return self._rows

    def read(self, position: int, count: int) -> Rows:
        """Give rows `position` to `position + count`, fewer at the end."""
        rows: Rows = np.asarray(self._data[self._order[position : position + count]])
        rows["sequence"] = position + np.arange(rows.size)
        return rows

    def _append(
        self, file: IO[bytes], symbol: str, midnight_ns: int, table: pa.Table
    ) -> np.ndarray[Any, Any]:
        rows = blank(table.num_rows)
        rows["symbol"] = symbol.encode()
        rows["ts_event"] = midnight_ns + table["ms"].to_numpy().astype(np.int64) * 10**6 + MINUTE_NS
        for name in ("bid", "ask"):
            rows[name] = table[name].to_numpy() * SCALE
            rows[f"{name}_size"] = table[f"{name}_size"].to_numpy()
        rows["venue"] = b"LEAN"
        rows.tofile(file)
        self._rows += rows.size
        times: np.ndarray[Any, Any] = rows["ts_event"].copy()
        return times


def find(path: Path, day: str) -> Day:
    """Find the chain below `path` (of `day`, else the largest) and its underlying's quotes."""
    if not path.exists():
        raise SourceError(f"{path}: no such file or folder; set replayer.data to Lean data")
    chains = [path] if path.is_file() else sorted(path.rglob(f"option/*/minute/*/{CHAIN}"))
    chains = chains or sorted(path.rglob(CHAIN))
    chains = [c for c in chains if c.name.startswith(day)] if day else chains
    if not chains:
        wanted = f"{day}{CHAIN}" if day else CHAIN
        raise SourceError(f"{path}: holds no option minute zip ({wanted}); choose another folder")
    chain = max(chains, key=lambda c: c.stat().st_size)
    market = chain.parents[2]  # .../option/usa/minute/goog/FILE
    underlying = (
        chain.parents[4] / "equity" / market.name / "minute" / chain.parent.name
        if len(chain.parents) > 4
        else Path()
    ) / f"{chain.name[:8]}_quote.zip"
    return Day(chain, underlying if underlying.is_file() else None)


def _members(path: Path, pattern: re.Pattern[str]) -> Iterator[tuple[str, int, pa.Table]]:
    """Symbol, midnight (ns) and table of every member; an unreadable one names itself."""
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise SourceError(f"{path}: no zip ({error}); fetch it again") from error
    with archive:
        for name in archive.namelist():
            match = pattern.fullmatch(name)
            if match is None:
                raise SourceError(
                    f"{path}: member {name!r} is not of the form {pattern.pattern}; "
                    "give a zip of minute quotes"
                )
            yield _symbol(match), _midnight_ns(match["day"]), _table(archive, path, name)


def _symbol(match: re.Match[str]) -> str:
    if "strike" not in match.groupdict():
        return match["root"].upper()
    expiry = date.fromisoformat(match["expiry"])
    right = match["right"][0].upper()
    return occ_symbol(match["root"], expiry, right, round(int(match["strike"]) / 10))


def _midnight_ns(day: str) -> int:
    """Midnight in New York as ns since the epoch, daylight saving included."""
    moment = datetime.combine(date.fromisoformat(day), datetime.min.time(), NEW_YORK)
    return round(moment.timestamp()) * 10**9


def _table(archive: zipfile.ZipFile, path: Path, name: str) -> pa.Table:
    data = archive.read(name)
    if not data.strip():
        return pa.table({column: pa.array([], pa.float64()) for column in COLUMNS})
    try:
        table = csv.read_csv(
            io.BytesIO(data),
            read_options=csv.ReadOptions(column_names=list(COLUMNS), use_threads=False),
            convert_options=csv.ConvertOptions(
                column_types=dict.fromkeys(COLUMNS, pa.float64()), null_values=[""]
            ),
        )
    except pa.ArrowInvalid as error:
        line = str(error).splitlines()[0]
        raise SourceError(f"{path}: member {name!r}: {line}; expected {COLUMNS}") from error
    if table["ms"].null_count:
        raise SourceError(f"{path}: member {name!r}: a row without a time; fetch it again")
    return table
