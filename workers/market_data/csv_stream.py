"""CSV of any length as a stream of Arrow tables, with the line and field of what is wrong.

Pieces of a quarter of a megabyte are cut at their last line end and parsed by Arrow. Line ends may
be LF, CR LF or CR; a byte order mark is passed over, and empty lines are too. Only when Arrow
refuses a piece are its lines looked at one by one, to say which it was.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
from pyarrow import csv as arrow_csv

if TYPE_CHECKING:
    from workers.market_data.files import Location, Stream

PIECE_BYTES = 1 << 18
LINE_BYTES = 1 << 24
BOM = b"\xef\xbb\xbf"
_WIDE_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Layout:
    """The columns of a file: every name in order, and the types of those wanted."""

    names: tuple[str, ...]
    types: dict[str, pa.DataType]
    header: bool = False
    expected: str = field(default="")

    def describe(self) -> str:
        """Say the columns as an error does."""
        return self.expected or f"{len(self.names)} columns: {', '.join(self.names)}"


#: from the fields of the first line to the layout of the file; raises MarketDataError
Choose = Callable[[list[str]], Layout]


def tables(stream: Stream, choose: Choose) -> Iterator[tuple[int, pa.Table]]:
    """Read a CSV piece by piece.

    Args:
        stream: The bytes.
        choose: From the fields of the first line to the layout.

    Yields:
        (number of its first line, table) for every piece; nothing for an empty file.
    """
    layout: Layout | None = None
    line = 1
    for piece in _pieces(stream):
        body = piece
        if layout is None:
            body = piece.lstrip(b"\n")
            line += len(piece) - len(body)
            if not body:
                continue
            first, _, rest = body.partition(b"\n")
            layout = choose(_fields(first))
            if layout.header:
                line += 1
                body = rest
        if body.strip():
            yield line, _table(stream, body, layout, line)
        line += body.count(b"\n")


def _pieces(stream: Stream) -> Iterator[bytes]:
    """The bytes in pieces that end with a line, their line ends LF."""
    data = stream.read(PIECE_BYTES)
    refuse_wide(data, stream.location)
    held = data.removeprefix(BOM)
    while data:
        data = stream.read(PIECE_BYTES)
        cut = max(held.rfind(b"\n"), held.rfind(b"\r", 0, len(held) - 1)) + 1
        if data and cut:
            yield unix_lines(held[:cut])
            held = held[cut:]
        elif len(held) > LINE_BYTES:
            raise stream.location.error(
                f"a line longer than {LINE_BYTES} bytes", expected="lines of text"
            )
        held += data
    if held:
        yield unix_lines(held + b"\n")


def refuse_wide(text: bytes, location: Location) -> None:
    """Refuse a text in UTF-16.

    Raises:
        MarketDataError: The text begins with a byte order mark of UTF-16.
    """
    if text.startswith(_WIDE_BOMS):
        raise location.error(
            "UTF-16 text", expected="UTF-8 or ASCII", remedy="convert it with iconv"
        )


def unix_lines(piece: bytes) -> bytes:
    """Make every line end LF."""
    if b"\r" not in piece:
        return piece
    return piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _fields(line: bytes) -> list[str]:
    return next(csv.reader([line.decode("utf-8", "replace")]), [])


def _table(stream: Stream, piece: bytes, layout: Layout, line: int) -> pa.Table:
    try:
        return arrow_csv.read_csv(
            pa.BufferReader(piece),
            read_options=arrow_csv.ReadOptions(
                column_names=list(layout.names), use_threads=False, block_size=len(piece) + 1
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=layout.types, include_columns=list(layout.types), null_values=[""]
            ),
        )
    except pa.ArrowInvalid as error:
        number, found = _fault(piece, layout)
        raise stream.location.error(
            found or str(error).splitlines()[0],
            expected=layout.describe(),
            line=line + number if found else 0,
        ) from error


def _fault(piece: bytes, layout: Layout) -> tuple[int, str]:
    """Find the first line that does not fit; (0, "") where only Arrow sees something."""
    for number, text in enumerate(piece.split(b"\n")):
        if not text.strip():
            continue
        fields = _fields(text)
        if len(fields) != len(layout.names):
            return number, f"{len(fields)} columns ({text[:60].decode('utf-8', 'replace')!r})"
        for name, value in zip(layout.names, fields, strict=True):
            kind = layout.types.get(name)
            numeric = kind is not None and pa.types.is_floating(kind)
            if numeric and value and not _is_number(value):
                return number, f"{name} = {value[:40]!r}, not a number"
    return 0, ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text.isascii() and "_" not in text  # which Python takes, and Arrow does not
