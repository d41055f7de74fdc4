"""Which family a file belongs to, and its archive.

`open_archive` is the one way in: it looks at names and first bytes, never at a whole file, and
refuses what it does not know with a list of what it does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from workers.market_data import binance, deribit, lean, tables
from workers.market_data.archive import Rows, StreamedRows, no_beat
from workers.market_data.csv_stream import BOM, refuse_wide
from workers.market_data.errors import MarketDataError
from workers.market_data.files import Location, members

if TYPE_CHECKING:
    from workers.market_data.archive import Archive

FORMATS: Final = (
    "lean-option",
    "lean-equity",
    "lean-forex",
    "lean-crypto",
    "deribit",
    "binance",
    "table",
)
_SUFFIXES: Final = {".zip", ".gz", ".csv", ".parquet", ".jsonl", ".txt"}
_BINANCE: Final = re.compile(rb"\d{16,19} \{")
_EXPECTED: Final = (
    "Lean zips, Deribit snapshots, Binance `<ns> <json>` lines, or a Parquet or CSV table with "
    "columns symbol, timestamp and prices"
)
_REMEDY: Final = "choose another path (replayer.data) or say what it is (replayer.format)"


def open_archive(
    path: Path,
    *,
    date: str = "",
    form: str = "auto",
    spill: Path,
    beat: Callable[[], object] = no_beat,
) -> Archive:
    """Open recorded market data. An option chain is sorted here, which takes long for large files.

    Args:
        path: A file or a folder.
        date: YYYYMMDD, chooses a day of a folder.
        form: One of `FORMATS`, or "auto".
        spill: A folder on disk for temporary files of rows that have to be sorted.
        beat: Called for every block that is read or skipped, now and later.

    Returns:
        The archive.

    Raises:
        MarketDataError: The data is missing, unreadable or of no known family.
    """
    family, files = recognise(path, date=date, form=form)
    if family == "lean-option":
        return lean.option_day(files[0], "", spill, beat)
    name = files[0].name if len(files) == 1 else f"{files[0].name} to {files[-1].name}"
    return StreamedRows(name, partial(_blocks, family, files), beat)


def recognise(path: Path, *, date: str = "", form: str = "auto") -> tuple[str, list[Path]]:
    """Find the family and the files of a path from names and first bytes.

    Args:
        path: A file or a folder.
        date: YYYYMMDD, chooses a day of a folder.
        form: One of `FORMATS`, or "auto".

    Returns:
        (family, files): one of `FORMATS`, and the files in the order of their names.

    Raises:
        MarketDataError: The path is missing, or holds no known family or several.
    """
    if not path.exists():
        raise MarketDataError(
            path,
            found="no such file or folder",
            expected="recorded market data",
            remedy="set replayer.data to a path that exists",
        )
    chains = f"option/*/minute/*/{lean.CHAIN}"
    if path.is_dir() and form in {"auto", "lean-option"} and any(path.rglob(chains)):
        return "lean-option", [lean.find_chain(path, date).chain]
    family, files = _choose(path, date, form)
    if family == "lean-option":
        return family, [max(files, key=lambda file: file.stat().st_size)]
    return family, files


def _blocks(family: str, files: list[Path], skipped: dict[str, int]) -> Iterator[Rows]:
    for file in files:
        if family == "binance":
            yield from binance.read(file, skipped)
        elif family == "deribit":
            yield from deribit.read(file)
        elif family == "table":
            yield from tables.read(file)
        else:
            yield from lean.read(file, family.removeprefix("lean-"))


def _choose(path: Path, date: str, wanted: str) -> tuple[str, list[Path]]:
    """Return the family and the files, in the order of their names; a folder holds one family."""
    if path.is_file():
        return (family_of(path) if wanted == "auto" else wanted), [path]
    found: dict[str, list[Path]] = {}
    for file in sorted(path.rglob("*")):
        if file.suffix.lower() in _SUFFIXES and date in file.name and file.is_file():
            family = family_of(file) if wanted == "auto" else wanted
            found.setdefault(family, []).append(file)
    if len(found) != 1:
        raise MarketDataError(
            path,
            found=f"holds {', '.join(found)}" if found else f"holds no file{_of(date)} to read",
            expected="a folder with data of one family",
            remedy=_REMEDY,
        )
    family, files = found.popitem()
    quotes = [file for file in files if "_quote" in file.name]
    return family, quotes or files


def _of(date: str) -> str:
    return f" of {date}" if date else ""


def family_of(path: Path) -> str:
    """Tell the family of a file from its name and first bytes.

    Args:
        path: A file.

    Returns:
        One of `FORMATS`.

    Raises:
        MarketDataError: The file is unreadable, empty or of no known family.
    """
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return "table"
    for member in islice(members(path), 1):
        with suppress(MarketDataError):
            return f"lean-{lean.security(member.location)}"
        text = member.read(1 << 16)
        refuse_wide(text, member.location)
        if family := _by_text(text):
            return family
        found = f"begins with {_first_line(text)[:60]!r}" if text else "is empty"
        raise member.location.error(
            f"{member.location.name!r} of no known kind, it {found}",
            expected=_EXPECTED,
            remedy=_REMEDY,
        )
    raise Location(path).error("an archive without files", expected=_EXPECTED, remedy=_REMEDY)


def _by_text(text: bytes) -> str:
    """Return the family of a text by its first line; empty when it is unknown."""
    first = _first_line(text)
    if _BINANCE.match(first):
        return "binance"
    names = {name.strip().strip(b'"') for name in first.split(b",")}
    if deribit.SYMBOL.encode() in names:
        return "deribit"
    if b"symbol" in names and names & {name.encode() for name in tables.TIMES}:
        return "table"
    return ""


def _first_line(text: bytes) -> bytes:
    return text.removeprefix(BOM).lstrip().replace(b"\r", b"\n").partition(b"\n")[0]
