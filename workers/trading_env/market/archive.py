"""Market states as Parquet: our own archive format, read by any tool that knows Parquet.

One row a state, the columns of MARKET_DTYPE by name; what a slot has lies in a fixed-size list of
ten (greeks: of fifty). Absent sides are NaN as in the records. The dtype's text is in the file's
metadata, so that a file of another layout is refused and not misread. A file appears whole or not
at all: it is written beside its name and moved there at the end.
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from workers.contract.dtypes import MARKET_DTYPE
from workers.trading_env.errors import BadMarketData, NoMarketData

if TYPE_CHECKING:
    from mesh.arrays import Array

_LAYOUT = b"tradingmesh.market"
_TEXT = str(MARKET_DTYPE.descr).encode()


class ArchiveWriter:
    """Appends market states to a new archive; use as a context manager."""

    def __init__(self, path: Path) -> None:
        """Start an archive that appears at `path` when it is closed.

        Raises:
            FileExistsError: There is a file at `path`; archives are not replaced.
        """
        if path.exists():
            raise FileExistsError(f"{path} exists; archives are not written over, choose another")
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        self._writer = parquet.ParquetWriter(
            self._part, _schema(), compression="zstd", write_page_checksum=True
        )
        #: states written
        self.count = 0

    def append(self, states: Array) -> None:
        """Write states behind those written before.

        Args:
            states: Market states, MARKET_DTYPE (T,).

        Raises:
            BadMarketData: Another dtype or shape.
        """
        if states.dtype != MARKET_DTYPE or states.ndim != 1:
            raise BadMarketData(f"states must be MARKET_DTYPE (T,), got {states.shape}")
        if states.size:
            self._writer.write_table(_table(states))
            self.count += states.size

    def close(self) -> None:
        """Let the archive appear under its name; one without a state does not."""
        self._writer.close()
        if self.count:
            self._part.rename(self._path)
        else:
            self._part.unlink()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep what was written before an error too: states are whole."""
        self.close()


def write_states(path: Path, states: Array) -> None:
    """Write an archive of these states at once."""
    with ArchiveWriter(path) as writer:
        writer.append(states)


def holds_states(path: Path) -> bool:
    """Whether `path` is an archive of market states, of whatever version."""
    try:
        return _LAYOUT in (parquet.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def read_states(path: Path) -> Array:
    """Read all states of an archive.

    Args:
        path: A file that `ArchiveWriter` wrote.

    Returns:
        Market states, MARKET_DTYPE (T,).

    Raises:
        NoMarketData: There is no such file.
        BadMarketData: The file is not readable Parquet, has another layout, or has nulls.
    """
    try:
        table = parquet.read_table(path, page_checksum_verification=True)
    except FileNotFoundError as error:
        remedy = "write one with `python -m workers.trading_env.record`"
        raise NoMarketData(f"{path}: no such archive; {remedy}") from error
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise BadMarketData(f"{path}: no readable Parquet ({reason}); record it again") from error
    layout = (table.schema.metadata or {}).get(_LAYOUT)
    if layout != _TEXT or not table.schema.equals(_schema()):
        raise BadMarketData(
            f"{path}: its columns are not those of this version's market states (found "
            f"{table.schema.names[:4]}..., layout {'another' if layout else 'not given'}); record "
            "it again"
        )
    states = np.zeros(table.num_rows, MARKET_DTYPE)
    for name in MARKET_DTYPE.names or ():
        column = table.column(name).combine_chunks()
        if column.null_count:
            raise BadMarketData(f"{path}: column {name!r} has nulls; absent prices must be NaN")
        field = MARKET_DTYPE[name]
        if field.shape:
            values = column.flatten()
            flat = _plain(values, field.base)
            states[name] = flat.reshape(table.num_rows, *field.shape)
        else:
            states[name] = _plain(column, field)
    return states


def _plain(values: Any, dtype: np.dtype[Any]) -> Array:
    plain: Array = values.to_numpy(zero_copy_only=False)
    return plain.astype(dtype)


def _schema() -> Any:
    fields = []
    for name in MARKET_DTYPE.names or ():
        field = MARKET_DTYPE[name]
        kind = pa.binary() if field.base.kind == "S" else pa.from_numpy_dtype(field.base)
        size = int(np.prod(field.shape))
        fields.append(pa.field(name, pa.list_(kind, size) if field.shape else kind))
    return pa.schema(fields, metadata={_LAYOUT: _TEXT})


def _table(states: Array) -> Any:
    columns = []
    schema = _schema()
    for field in schema:
        values = np.ascontiguousarray(states[field.name])
        if pa.types.is_fixed_size_list(field.type):
            flat = (
                pa.array(values.reshape(-1).tolist(), field.type.value_type)
                if (values.dtype.kind == "S")
                else pa.array(values.reshape(-1))
            )
            columns.append(pa.FixedSizeListArray.from_arrays(flat, type=field.type))
        else:
            columns.append(pa.array(values))
    return pa.Table.from_arrays(columns, schema=schema)
