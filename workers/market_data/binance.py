"""Binance stream messages with their receive time, one a line: `<ns> <json>`, as hftbacktest keeps.

`bookTicker` becomes a quote; `trade` and `aggTrade` a row with another `last` and the quote as it
was. Updates of the book's depth and whatever else a stream carries are not quotes: they are counted
in `skipped`. Order is that of receipt; the exchange's clock (`ts_event`) may step back. Quantities
of trades are fractions of a coin and are not written to `volume`, which counts whole units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from workers.contract.dtypes import SYMBOL_BYTES
from workers.market_data.archive import BLOCK_ROWS, Rows, blank
from workers.market_data.csv_stream import BOM
from workers.market_data.files import Location, Stream, members

if TYPE_CHECKING:
    from workers.market_data.errors import MarketDataError

NAN: Final = float("nan")
_FIELDS: Final = (
    "symbol",
    "ts_event",
    "ts_recv",
    "bid",
    "ask",
    "bid_size",
    "ask_size",
    "last",
    "sequence",
)
READ_BYTES: Final = 1 << 18
LINE_BYTES: Final = 1 << 24
_FORM: Final = '`<receive time in ns> {"stream": ..., "data": {...}}`'


#: what a row can hold: a number of an update, and a time in ms that is one in ns too
_Number = Annotated[int, msgspec.Meta(ge=-1, le=(1 << 63) - 1)]
_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) // 10**6)]


class _Quote(msgspec.Struct, tag_field="e", tag="bookTicker"):
    s: str
    b: str
    B: str
    a: str
    A: str
    u: _Number = -1
    E: _Milliseconds = 0
    T: _Milliseconds = 0


class _Trade(msgspec.Struct, tag_field="e", tag="trade"):
    s: str
    p: str
    t: _Number = -1
    E: _Milliseconds = 0
    T: _Milliseconds = 0


class _Trades(msgspec.Struct, tag_field="e", tag="aggTrade"):
    s: str
    p: str
    a: _Number = -1
    E: _Milliseconds = 0
    T: _Milliseconds = 0


class _Depth(msgspec.Struct, tag_field="e", tag="depthUpdate"):
    pass


class _Spot(msgspec.Struct):  # the spot market's bookTicker says neither kind nor time
    s: str
    b: str
    B: str
    a: str
    A: str
    u: _Number = -1


class _Other(msgspec.Struct):
    e: str = ""
    lastUpdateId: int = -1  # noqa: N815 - as Binance spells it


_Event = _Quote | _Trade | _Trades | _Depth


_TAGS: Final = {"bookTicker", "trade", "aggTrade", "depthUpdate"}


@dataclass
class _Book:
    """What was last said of an instrument: a trade row carries the quote, a quote the trade."""

    bid: float = NAN
    ask: float = NAN
    bid_size: float = NAN
    ask_size: float = NAN
    last: float = NAN


class _Wrapped(msgspec.Struct):
    data: msgspec.Raw


_UNWRAP = msgspec.json.Decoder(_Wrapped)
_EVENT = msgspec.json.Decoder(_Event)
_SPOT = msgspec.json.Decoder(_Spot)
_OTHER = msgspec.json.Decoder(_Other)


def read(path: Path, skipped: dict[str, int] | None = None) -> Iterator[Rows]:
    """Read the quotes and trades of a file.

    Args:
        path: Plain, gzip or zip.
        skipped: Counts the other messages by kind.

    Yields:
        TICK_DTYPE (n,), in the order of receipt.

    Raises:
        MarketDataError: A line is malformed, or the file cannot be read.
    """
    counts = {} if skipped is None else skipped
    for member in members(path):
        yield from _blocks(member, counts)


def _blocks(member: Stream, skipped: dict[str, int]) -> Iterator[Rows]:
    books: dict[str, _Book] = {}
    values: list[tuple[object, ...]] = []
    for number, line in _lines(member):
        found = _row(line, member.location, number, books)
        if isinstance(found, str):
            skipped[found] = skipped.get(found, 0) + 1
            continue
        values.append(found)
        if len(values) == BLOCK_ROWS:
            yield _rows(values)
            values = []
    if values:
        yield _rows(values)


def _rows(values: list[tuple[object, ...]]) -> Rows:
    rows = blank(len(values))
    rows["venue"] = b"BINANCE"
    for name, column in zip(_FIELDS, zip(*values, strict=True), strict=True):
        rows[name] = column
    return rows


def _lines(member: Stream) -> Iterator[tuple[int, bytes]]:
    """Number and text of every line that is not empty."""
    held, number = b"", 0
    while data := member.read(READ_BYTES):
        *whole, held = (held + data).split(b"\n")
        for line in whole:
            number += 1
            if text := line.strip():
                yield number, text
        if len(held) > LINE_BYTES:
            raise member.location.error(
                f"a line longer than {LINE_BYTES} bytes", expected=_FORM, line=number + 1
            )
    if text := held.strip():
        yield number + 1, text


def _row(
    line: bytes, location: Location, number: int, books: dict[str, _Book]
) -> tuple[object, ...] | str:
    """Return the values of _FIELDS of a line, or the kind of a message that is no quote."""
    received, _, text = line.removeprefix(BOM).partition(b" ")
    if not received.isdigit() or len(received) != 19 or int(received) >= 1 << 63:
        raise _wrong(location, number, f"begins with {received[:24]!r}")
    try:
        event = _decode(_UNWRAP.decode(text).data if b'"data"' in text[:200] else text)
        if isinstance(event, str):
            return event
        return _values(event, int(received), books.setdefault(event.s, _Book()))
    except (msgspec.MsgspecError, ValueError) as error:
        raise _wrong(location, number, f"{error} in {text[:60]!r}") from error


def _decode(data: bytes | msgspec.Raw) -> _Quote | _Trade | _Trades | _Spot | str:
    """Return the event, or the kind of one that is no quote. Raises msgspec's errors."""
    try:
        event = _EVENT.decode(data)
    except msgspec.ValidationError:
        other = _OTHER.decode(data)
        if other.e in _TAGS:
            raise
        if other.e:
            return other.e
        return "depthSnapshot" if other.lastUpdateId >= 0 else _SPOT.decode(data)
    return "depthUpdate" if isinstance(event, _Depth) else event


def _values(
    event: _Quote | _Trade | _Trades | _Spot, received: int, book: _Book
) -> tuple[object, ...]:
    symbol = event.s.encode()
    if not 0 < len(symbol) <= SYMBOL_BYTES:
        raise ValueError(f"symbol {event.s!r}")
    moment = 0 if isinstance(event, _Spot) else (event.T or event.E)
    if isinstance(event, _Quote | _Spot):
        book.bid, book.bid_size = float(event.b) or NAN, float(event.B)
        book.ask, book.ask_size = float(event.a) or NAN, float(event.A)
        sequence = event.u
    else:
        book.last = float(event.p)
        sequence = event.t if isinstance(event, _Trade) else event.a
    sides = (book.bid, book.ask, book.bid_size, book.ask_size, book.last)
    return (symbol, moment * 10**6 or received, received, *sides, sequence)


def _wrong(location: Location, number: int, found: str) -> MarketDataError:
    return location.error(found, expected=_FORM, remedy="remove the line", line=number)
