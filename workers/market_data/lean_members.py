"""Rows of a Lean member; many small members are parsed together.

A chain has thousands of members of a few kilobytes: a call of Arrow for each costs more than its
parsing. What lies in neighbouring members of the same kind is put together, parsed at once, and
given its symbols by the number of lines. Where that finds anything wrong each member is parsed by
itself, to say which it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from workers.market_data.csv_stream import PIECE_BYTES, tables, unix_lines
from workers.market_data.errors import MarketDataError
from workers.market_data.files import Stream

if TYPE_CHECKING:
    from workers.market_data.archive import Rows
    from workers.market_data.csv_stream import Layout
    from workers.market_data.lean_columns import Series

_TOGETHER = {"quote bars", "trade bars", "open interest"}


def member_rows(member: Stream, series: Series) -> Iterator[Rows]:
    """Read one member.

    Raises:
        MarketDataError: A line is wrong, or the member cannot be read.
    """

    def choose(fields: list[str]) -> Layout:
        if series.kind == "":  # hourly and daily files say by their columns what they are
            series.kind = "quote bars" if len(fields) in {9, 11} else "trade bars"
        return series.layout(fields)

    for line, table in tables(member, choose):
        yield series.rows(line, table)


class SmallMembers:
    """Members that wait to be parsed together, in their order."""

    def __init__(self) -> None:
        """Start without members."""
        self._held: list[tuple[Series, bytes]] = []
        self._kind: tuple[object, ...] = ()
        self._bytes = 0

    def add(self, series: Series, data: bytes) -> Iterator[Rows]:
        """Take a whole member; gives rows of those before it when they are enough."""
        text = unix_lines(data)
        kind = (series.kind, series.midnight_ns, series.bar_s, text.partition(b"\n")[0].count(b","))
        if kind != self._kind or self._bytes + len(text) > PIECE_BYTES:
            yield from self.rows()
            self._kind = kind
        self._held.append((series, text))
        self._bytes += len(text)

    def rows(self) -> Iterator[Rows]:
        """Yield the rows of the members held.

        Raises:
            MarketDataError: A line is wrong.
        """
        held, self._held, self._bytes = self._held, [], 0
        together = _together(held)
        if together is not None:
            yield together
            return
        for series, text in held:
            yield from member_rows(Stream(series.location, io.BytesIO(text)), series)


def _together(held: list[tuple[Series, bytes]]) -> Rows | None:
    """All rows at once; None where each member has to be looked at by itself."""
    if len(held) < 2 or held[0][0].kind not in _TOGETHER or held[0][0].bar_s < 0:
        return None
    texts = [text if text.endswith(b"\n") else text + b"\n" for _, text in held]
    if any(text.startswith((b"\n", b"\xef", b"\xff", b"\xfe")) for text in texts):
        return None
    first = held[0][0]
    whole = b"".join(texts)
    if b"\n\n" in whole or b'"' in whole:
        return None
    try:
        pieces = tables(Stream(first.location, io.BytesIO(whole)), first.layout)
        rows = np.concatenate([first.rows(line, table) for line, table in pieces])
    except MarketDataError:
        return None
    counts = [text.count(b"\n") for text in texts]
    if sum(counts) != rows.size:
        return None
    rows["symbol"] = np.repeat(np.array([series.symbol for series, _ in held]), counts)
    return rows
