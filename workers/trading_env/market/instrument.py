"""What a symbol says: root, expiry, strike, right. OCC (OSI) and Deribit notations.

OCC: root padded to six characters, YYMMDD, C or P, strike times 1,000 in eight digits
(`GOOG  151224C00750000`; The Options Clearing Corporation, Options Symbology Initiative, 2010),
expiring at 16:00 in New York. Deribit: `BTC-27MAR26-100000-C`, expiring at 08:00 UTC; quotes of
BTC and ETH options are in coin.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
from functools import lru_cache
from zoneinfo import ZoneInfo

from workers.trading_env.errors import UnknownSymbol

_OCC = re.compile(r"^([A-Z0-9.^]{1,6})\s*(\d{6})([CP])(\d{8})$")
_DERIBIT = re.compile(r"^([A-Z0-9]+(?:_[A-Z]+)?)-(\d{1,2})([A-Z]{3})(\d{2})-(\d+(?:d\d+)?)-([CP])$")
_MONTHS = ["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"]
_NEW_YORK = "America/New_York"
_INVERSE = {"BTC", "ETH"}


@dataclasses.dataclass(frozen=True)
class Instrument:
    """One option contract."""

    symbol: str
    root: str
    expiry: int  # ns since the epoch
    strike: float
    right: int  # +1 call, -1 put
    coin_quoted: bool = False  # prices are in the underlying


@lru_cache(maxsize=1 << 16)
def parse(symbol: str) -> Instrument:
    """Read the symbol of an option.

    Args:
        symbol: In OCC or Deribit notation.

    Returns:
        The contract; its expiry is in ns since the epoch.

    Raises:
        UnknownSymbol: Another notation, an impossible date, or a strike of 0.
    """
    try:
        option = _occ(symbol) or _deribit(symbol)
    except ValueError as error:
        raise UnknownSymbol(f"{symbol!r} has an impossible date: {error}") from error
    if option is None or option.strike <= 0:
        raise UnknownSymbol(
            f"{symbol!r} is neither OCC (`GOOG  151224C00750000`) nor Deribit "
            "(`BTC-27MAR26-100000-C`)"
        )
    return option


def root_of(symbol: str) -> str:
    """The root of a symbol that may be an option's or the underlying's own."""
    try:
        return parse(symbol).root
    except UnknownSymbol:
        return symbol.strip()


def _occ(symbol: str) -> Instrument | None:
    match = _OCC.match(symbol.strip())
    if match is None:
        return None
    root, day, right, strike = match.groups()
    date = dt.datetime.strptime(day, "%y%m%d").replace(hour=16, tzinfo=ZoneInfo(_NEW_YORK))
    sign = 1 if right == "C" else -1
    return Instrument(symbol, root, _nanoseconds(date), int(strike) / 1000, sign)


def _deribit(symbol: str) -> Instrument | None:
    match = _DERIBIT.match(symbol.strip())
    if match is None or match[3] not in _MONTHS:
        return None
    root, day, month, year, strike, right = match.groups()
    date = dt.datetime(2000 + int(year), _MONTHS.index(month) + 1, int(day), 8, tzinfo=dt.UTC)
    sign = 1 if right == "C" else -1
    level = float(strike.replace("d", "."))
    return Instrument(symbol, root, _nanoseconds(date), level, sign, root in _INVERSE)


def _nanoseconds(moment: dt.datetime) -> int:
    return int(moment.timestamp()) * 10**9
