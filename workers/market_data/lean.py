"""QuantConnect-Lean files: zips of header-less CSV, one member a contract or a day.

The name of a member says what it holds; the folders above the file say the market where the name
does not. Equity and options: prices times 10,000, times in New York. Forex and crypto: prices as
they are, times UTC. An option chain is merged by time with the quotes of its underlying.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from workers.market_data.archive import Rows, StreamedRows, no_beat, occ_symbol
from workers.market_data.csv_stream import PIECE_BYTES
from workers.market_data.errors import MarketDataError
from workers.market_data.files import Location, members
from workers.market_data.lean_columns import DAILY_S, HOUR_S, Series, moment_ns
from workers.market_data.lean_members import SmallMembers, member_rows
from workers.market_data.sorted_rows import SortedRows

CHAIN: Final = "*_quote_*.zip*"
_BARS: Final = {"tick": 0, "second": 1, "minute": 60, "hour": HOUR_S, "daily": DAILY_S}
#: divisor of prices, time zone
_SECURITIES: Final = {
    "option": (1e4, "America/New_York"),
    "equity": (1e4, "America/New_York"),
    "forex": (1.0, "UTC"),
    "crypto": (1.0, "UTC"),
}
_OPTION = re.compile(
    r"(?:(?P<day>\d{8})_)?(?P<root>[a-z0-9.^-]+?)(?:_(?P<resolution>second|minute|hour|daily|tick))?"
    r"_(?P<kind>quote|trade|openinterest)(?:_(?P<tick>tick))?_(?:american|european)"
    r"_(?P<right>call|put)_(?P<strike>\d+)_(?P<expiry>\d{8})\.csv",
    re.IGNORECASE,
)
_OTHER = re.compile(
    r"(?P<day>\d{8})_(?P<root>[a-z0-9.^-]+?)(?:_(?P<resolution>second|minute|tick))?"
    r"_(?P<kind>quote|trade)(?:_(?P<tick>tick))?\.csv",
    re.IGNORECASE,
)
_UNDATED = re.compile(r"(?P<root>[a-z0-9.^-]+)\.csv", re.IGNORECASE)
_NAMES: Final = (
    "DATE_TICKER_RESOLUTION_quote|trade|openinterest[_STYLE_RIGHT_STRIKE_EXPIRY].csv as Lean writes"
)


@dataclass(frozen=True, slots=True)
class Day:
    """The files of one day of a chain."""

    chain: Path
    underlying: Path | None


def option_day(
    path: Path, day: str, spill: Path, beat: Callable[[], object] = no_beat
) -> SortedRows:
    """Open the chain of one day (or hourly, daily) with its underlying's quotes, merged by time.

    Args:
        path: A zip, or a folder of zips.
        day: YYYYMMDD, chooses a zip of a folder; empty: the largest.
        spill: A folder on disk for the temporary file in which rows are sorted.
        beat: Called for every block that is read.

    Returns:
        The rows by event time.

    Raises:
        MarketDataError: The chain is missing, empty or unreadable.
    """
    files = find_chain(path, day)

    def blocks() -> Iterator[Rows]:
        if files.underlying is not None:  # first: of one time, the underlying leads
            yield from read(files.underlying, "equity")
        for rows in read(files.chain, "option"):
            beat()
            yield rows

    rows = SortedRows(files.chain.name, blocks(), spill, beat=beat)
    if len(rows) == 0:
        raise Location(files.chain).error(
            "no rows in any member", expected="rows", remedy="choose another file"
        )
    return rows


def stream(paths: list[Path], kind: str = "") -> StreamedRows:
    """Files one after the other, each in its own order: ticks and bars of one instrument."""
    names = [path.name for path in paths]
    name = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
    return StreamedRows(name, lambda _: (rows for path in paths for rows in read(path, kind)))


def find_chain(path: Path, day: str) -> Day:
    """Find an option chain and the quotes of its underlying.

    Args:
        path: A zip, or a folder of zips.
        day: YYYYMMDD, chooses a zip of a folder; empty: the largest.

    Returns:
        The files; `underlying` is None where there is no such file.

    Raises:
        MarketDataError: The folder holds no option quotes.
    """
    if path.is_file():
        chains = [path]
    else:
        chains = sorted(path.rglob(f"option/*/minute/*/{CHAIN}")) or sorted(path.rglob(CHAIN))
    chains = [c for c in chains if c.name.startswith(day)] if day else chains
    if not chains:
        raise MarketDataError(
            path,
            found=f"holds no option quotes{f' of {day}' if day else ''}",
            expected=f"{day}{CHAIN}",
            remedy="choose another folder or day (replayer.data, replayer.date)",
        )
    chain = max(chains, key=lambda c: c.stat().st_size)
    if len(chain.parents) <= 4:
        return Day(chain, None)
    # .../option/usa/minute/goog/FILE beside .../equity/usa/minute/goog/FILE
    market, resolution = chain.parents[2], chain.parents[1]
    folder = chain.parents[4] / "equity" / market.name / resolution.name / chain.parent.name
    underlying = folder / f"{chain.name[:8]}_quote.zip"
    return Day(chain, underlying if underlying.is_file() else None)


def read(path: Path, kind: str = "") -> Iterator[Rows]:
    """Read a Lean file, member after member.

    Args:
        path: A zip or CSV file.
        kind: option, equity, forex or crypto, where neither name nor folders say it.

    Yields:
        TICK_DTYPE (n,), in the order of each member.

    Raises:
        MarketDataError: A name, a line or a symbol is wrong, or the file cannot be read.
    """
    seen: dict[bytes, str] = {}
    small = SmallMembers()
    for member in members(path):
        series = describe(member.location, kind)
        if seen.setdefault(series.symbol, member.location.member) != member.location.member:
            raise member.location.error(
                f"symbol {series.symbol.decode()!r} again, after {seen[series.symbol]!r}",
                expected="one member a symbol (strikes in steps of 0.001)",
                remedy="remove one of them",
            )
        data = member.read(PIECE_BYTES)
        more = member.read(PIECE_BYTES) if data else b""
        if more:
            yield from small.rows()
            member.unread(data + more)
            yield from member_rows(member, series)
        elif data.strip():
            yield from small.add(series, data)
    yield from small.rows()


def describe(location: Location, kind: str = "") -> Series:
    """Tell from its name what a member holds.

    Args:
        location: The member.
        kind: option, equity, forex or crypto, where neither name nor folders say it.

    Returns:
        Symbol, columns, price divisor and time zone of its rows.

    Raises:
        MarketDataError: The name is not one that Lean writes.
    """
    match, found = _match(location, kind)
    parts = {key: value.lower() for key, value in match.groupdict().items() if value}
    divisor, zone_name = _SECURITIES[found]
    zone = ZoneInfo(zone_name)
    resolution = parts.get("tick") or parts.get("resolution") or _resolution(location.path)
    try:
        midnight = moment_ns(parts["day"].encode(), zone) if "day" in parts else 0
        symbol = _option_symbol(parts) if found == "option" else parts["root"].upper()
    except ValueError as error:
        raise location.error(
            str(error),
            expected="dates as YYYYMMDD, a root of up to 6 letters, strikes below 100,000",
            remedy="give a file of contracts that have an OCC symbol",
        ) from error
    return Series(
        location,
        symbol.encode(),
        _kind(parts.get("kind", ""), resolution),
        divisor,
        zone,
        midnight,
        _BARS.get(resolution, -1),
    )


def security(location: Location) -> str:
    """Return the kind of security of a member: option, equity, forex or crypto.

    Raises:
        MarketDataError: Neither name nor folders say it.
    """
    return _match(location, "")[1]


def _match(location: Location, kind: str) -> tuple[re.Match[str], str]:
    if match := _OPTION.fullmatch(location.name):
        return match, "option"
    match = _OTHER.fullmatch(location.name) or _UNDATED.fullmatch(location.name)
    if match is None:
        raise location.error(
            f"the name {location.name!r}",
            expected=_NAMES,
            remedy="give a file of Lean's own layout",
        )
    found = kind or _by_folder(location)
    if found == "option":  # a universe, for one: a day's chain, but no quotes
        raise location.error(
            f"the name {location.name!r} says no contract",
            expected=_NAMES,
            remedy="give another file",
        )
    return match, found


def _kind(kind: str, resolution: str) -> str:
    if kind == "openinterest":
        return "open interest"
    if not kind:
        return ""
    return f"{kind} {'ticks' if resolution == 'tick' else 'bars'}"


def _option_symbol(parts: dict[str, str]) -> str:
    expiry = date.fromisoformat(parts["expiry"])
    right = parts["right"][0].upper()
    return occ_symbol(parts["root"], expiry, right, round(int(parts["strike"]) / 10))


def _by_folder(location: Location) -> str:
    """The kind of security, from the nearest folder that is named for one."""
    for folder in reversed(location.path.absolute().parts[:-1]):
        if folder.lower() in _SECURITIES:
            return folder.lower()
    raise location.error(
        "no folder above it says what it is",
        expected=f"a folder named {', '.join(_SECURITIES)}",
        remedy="keep Lean's folders, or set replayer.format",
    )


def _resolution(path: Path) -> str:
    folders = (folder.lower() for folder in reversed(path.parts[:-1]))
    return next((folder for folder in folders if folder in _BARS), "")
