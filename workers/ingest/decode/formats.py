"""Messages that are not Avro: JSON objects, and fixed records of bytes. The same rows come out.

Both have no frame and no registry: what a message is, is configured. JSON goes through msgspec into
a Struct made from the mapping (types are held to, nothing is kept of other fields); fixed records
are one numpy dtype, and a batch of them is converted column by column. What a value becomes is
`Column.cell`'s rule in all three formats.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from config import ConfigProblems, Problem
from workers.contract.quote_schema import QUOTE_READER_SCHEMA
from workers.ingest.decode import plan
from workers.ingest.decode.decoder import SCHEMA_ERRORS, BatchDecoder, Decoder
from workers.ingest.decode.mapping import TIMES, Column, RowMapping, Rows, tick_mapping
from workers.ingest.decode.registry import SchemaRegistry
from workers.ingest.errors import ErrorClass, MessageRejected

if TYPE_CHECKING:
    from config.ingest import IngestConfig

_TYPES: Final[dict[str, Any]] = {"S": str | None, "f": float | None}
_TIME: Final = int | float | datetime | None
_WHOLE: Final = int | float | None
_INT64_MAX: Final = (1 << 63) - 1
_LETTERS: Final = {"f8": "d", "i8": "q", "i4": "i", "u4": "I", "u8": "Q"}  # of the struct module


def decoder_for(config: IngestConfig, registry: SchemaRegistry, *, capacity: int) -> BatchDecoder:
    """Return the configured decoder, for `capacity` messages a batch. Raises as `check_format`."""
    mapping = tick_mapping(config.fields, config.time_units)
    if config.format == "json":
        return JsonDecoder(mapping, capacity=capacity)
    if config.format == "raw":
        return RawDecoder(mapping, config.raw_fields, capacity=capacity)
    return Decoder(registry, mapping, _reader_schema(config.reader_schema), capacity=capacity)


def check_format(config: IngestConfig) -> None:
    """Raise ConfigProblems for a format that cannot be read: trying again does not help."""
    try:
        decoder_for(config, SchemaRegistry("", Path(), 0.0), capacity=1)
    except (OSError, *SCHEMA_ERRORS) as error:
        reason = f"{type(error).__name__}: {error}"
        remedy = "give the path of an Avro schema in JSON"
        problem = Problem("ingest.reader_schema", config.reader_schema, reason, remedy)
        raise ConfigProblems([problem]) from error


def _reader_schema(chosen: str) -> Any:
    """Return the Avro schema through which messages are read; None: each writer's own."""
    if chosen == "writer":
        return None
    if chosen == "shipped":
        return QUOTE_READER_SCHEMA
    return msgspec.json.decode(Path(chosen).read_bytes())


class JsonDecoder(BatchDecoder):
    """One JSON object a message; a number may be sent as text, a time as RFC 3339."""

    def __init__(self, mapping: RowMapping, *, capacity: int) -> None:
        """Allocate room for `capacity` messages a batch."""
        super().__init__(mapping, capacity=capacity)
        struct, self._paths = _struct(mapping.tree, "Message")
        self._decoder = msgspec.json.Decoder(struct, strict=False)
        dtype = mapping.dtype
        names = dtype.names or ()
        self._row = Struct(
            "<" + "".join(_LETTERS.get(dtype[n].str[1:]) or f"{dtype[n].itemsize}s" for n in names)
        )
        blank = self._row.unpack(mapping.template)
        self._blank = [x.rstrip(b"\0") if isinstance(x, bytes) else x for x in blank]
        self._at = [names.index(column.name) for column in mapping.columns]
        self._required = [
            (c, at) for c, at in zip(mapping.columns, self._at, strict=True) if c.required
        ]

    def decode(self) -> tuple[Rows, Rows]:
        """Decode what is loaded; see `BatchDecoder.decode`."""
        rows, status = self._views()
        made: list[bytes] = []
        for index in range(status.size):
            try:
                made.append(self._packed(self.value(index)))
            except MessageRejected as error:
                status[index] = plan.STATUS_OF[error.rejection.kind]
        fit = np.flatnonzero(status == plan.OK)
        rows[fit] = np.frombuffer(b"".join(made), rows.dtype)
        for index in fit.tolist():
            self._batch.stamp(index)
        return rows, status

    def _packed(self, value: bytes | None) -> bytes:
        """Return the bytes of a row, by one call for all columns: numpy takes one for each."""
        cells = self._blank.copy()
        fields = self._values(self._record(value))
        for column, at, given in zip(self._mapping.columns, self._at, fields, strict=True):
            if given is not None:
                cells[at] = column.cell(given)
        for column, at in self._required:
            column.check(cells[at])
        return self._row.pack(*cells)

    def _decode_one(self, index: int) -> Rows:
        return self._mapping.filled(self._values(self._record(self.value(index))))

    def _record(self, value: bytes | None) -> Any:
        if not value:
            raise MessageRejected(ErrorClass.FRAME, "no value, expected a JSON object")
        try:
            return self._decoder.decode(value)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MessageRejected(ErrorClass.BODY, str(error)) from error

    def _values(self, record: Any) -> Iterator[Any]:
        for path in self._paths:
            node = record
            for name in path:
                node = None if node is None else getattr(node, name)
            yield node


def _struct(tree: Mapping[str, Any], name: str) -> tuple[Any, list[tuple[str, ...]]]:
    """Return the type of an object, and the attributes that lead to each column's value."""
    fields: list[tuple[str, Any, None]] = []
    names: dict[str, str] = {}
    paths: list[tuple[str, ...]] = []
    for number, (key, node) in enumerate(tree.items()):
        attribute = f"f{number}"  # a name in the message need not be an identifier
        names[attribute] = key
        if isinstance(node, Column):
            kind = _TIME if node.name in TIMES else _TYPES.get(node.kind, _WHOLE)
            fields.append((attribute, kind, None))
            paths.append((attribute,))
        else:
            inner, deeper = _struct(node, f"{name}_{number}")
            fields.append((attribute, inner | None, None))
            paths += [(attribute, *path) for path in deeper]
    return msgspec.defstruct(name, fields, rename=names, frozen=True), paths


class RawDecoder(BatchDecoder):
    """One record of a fixed dtype a message, without a header."""

    def __init__(self, mapping: RowMapping, fields: Mapping[str, str], *, capacity: int) -> None:
        """Take the packed record of `fields` (numpy types by name), in this order.

        Raises:
            ConfigProblems: fields cannot fill their columns, or required ones are absent.
        """
        super().__init__(mapping, capacity=capacity)
        self.dtype = np.dtype(list(fields.items()))
        self._columns = [c for c in mapping.columns if _name(c) in fields]
        if problems := [*_problems(mapping, self.dtype, fields)]:
            raise ConfigProblems(problems)

    def decode(self) -> tuple[Rows, Rows]:
        """Decode what is loaded; see `BatchDecoder.decode`."""
        rows, status = self._views()
        values = [self.value(index) or b"" for index in range(status.size)]
        whole = np.fromiter(map(len, values), np.int64, len(values)) == self.dtype.itemsize
        status[~whole] = plan.FRAME
        fit = np.flatnonzero(whole)
        records = np.frombuffer(b"".join([values[i] for i in fit.tolist()]), self.dtype)
        made = np.frombuffer(self._mapping.template * fit.size, self._mapping.dtype).copy()
        bad = np.zeros(fit.size, bool)
        for column in self._columns:
            cells, wrong = _cells(column, records[_name(column)])
            made[column.name] = cells
            bad |= wrong
        rows[fit] = made
        status[fit[bad]] = plan.VALUE
        for index in np.flatnonzero(status == plan.OK).tolist():
            self._batch.stamp(index)
        return rows, status

    def _decode_one(self, index: int) -> Rows:
        value = self.value(index) or b""
        if len(value) != self.dtype.itemsize:
            text = f"{len(value)} bytes, a record of ingest.raw_fields has {self.dtype.itemsize}"
            raise MessageRejected(ErrorClass.FRAME, text)
        record = np.frombuffer(value, self.dtype)[0]
        given = {_name(column) for column in self._columns}
        names = map(_name, self._mapping.columns)
        return self._mapping.filled(record[n].item() if n in given else None for n in names)


def _name(column: Column) -> str:
    return ".".join(column.path)


def _problems(
    mapping: RowMapping, dtype: np.dtype[Any], fields: Mapping[str, str]
) -> Iterator[Problem]:
    for column in mapping.columns:
        name = _name(column)
        if column.required and name not in fields:
            reason = f"{name!r} is absent, {column.name} needs it"
            yield Problem(
                "ingest.raw_fields", "", reason, "add it, or map another in ingest.fields"
            )
        elif name in fields and (dtype[name].kind == "S") != (column.kind == "S"):
            kinds = "text" if column.kind == "S" else "a number"
            reason = f"{column.name} is {kinds}"
            yield Problem(f"ingest.raw_fields.{name}", fields[name], reason, "correct the type")


def _cells(column: Column, values: Rows) -> tuple[Rows, Rows]:
    """Return the cell for each value, and where a value has no cell: Column.cell for many."""
    if column.kind == "S":
        cells, wrong = _texts(column, values)
        return cells, wrong | (column.required & (cells == b""))
    if column.kind == "f":
        return values.astype(np.float64), np.zeros(values.size, bool)
    scale = max(column.unit_ns, 1)
    if values.dtype.kind == "f":
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = values.astype(np.float64) * scale
            wrong = ~(np.abs(scaled) < 2.0**63)
            if scale == 1:
                wrong |= scaled != np.trunc(scaled)
        whole = np.where(wrong, 0.0, np.rint(scaled)).astype(np.int64)
    else:
        wrong = (values > _INT64_MAX // scale) | (values < -(_INT64_MAX // scale))
        whole = np.where(wrong, 0, values).astype(np.int64) * scale
    bits = column.size * 8 - (column.kind == "i")
    if bits < 63:
        wrong |= whole >= 1 << bits
    wrong |= whole < (0 if column.kind == "u" else -(1 << min(bits, 63)))
    return whole, wrong | (column.required & (whole <= 0))


def _texts(column: Column, values: Rows) -> tuple[Rows, Rows]:
    """Bytes without the zeros behind them; a zero before another byte is wrong."""
    width = values.dtype.itemsize
    raw = np.ascontiguousarray(values).view(np.uint8).reshape(values.size, width)
    length = np.where(raw.any(axis=1), width - (raw[:, ::-1] != 0).argmax(axis=1), 0)
    wrong = (raw == 0).sum(axis=1) > width - length
    if not column.cut:
        wrong |= length > column.size
    return values.astype(f"S{column.size}"), wrong
