"""Open a segment by what its head says, without the code that wrote it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from mesh.cell import Cell
from mesh.errors import Corrupt
from mesh.header import KINDS, MSGPACK
from mesh.heartbeats import Heartbeats
from mesh.ring import Ring
from mesh.schema import dtype_of
from mesh.spinlock import SpinLock
from mesh.table import Table
from mesh.tensors import Tensors

if TYPE_CHECKING:
    from mesh.segment_file import SegmentFile

Attached = Cell[Any] | Ring | Table | Tensors | SpinLock | Heartbeats


def tensors_of(file: SegmentFile) -> Tensors:
    """Return the tensors of an open file, by the arrays its head describes.

    Raises:
        Corrupt: The head does not describe arrays.
    """
    try:
        arrays = json.loads(file.schema)["arrays"]
        return Tensors(
            file, {n: np.empty(a["shape"], np.dtype(a["dtype"])) for n, a in arrays.items()}
        )
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{file.path}: its head describes no tensors: {error}") from error


def attached(file: SegmentFile) -> Attached:
    """Return the segment of an open file; cells of Structs are read as dicts.

    Raises:
        Corrupt: The kind or the schema in its head cannot be read.
    """
    kind = KINDS.get(file.identity.kind)
    try:
        if kind == "cell" and file.identity.encoding == MSGPACK:
            return Cell(file, dict)
        if kind == "tensors":
            return tensors_of(file)
        if kind == "lock":
            return SpinLock(file, owner_name="", timeout=0.0)
        if kind == "heartbeats":
            return Heartbeats(file)
        dtype = dtype_of(file.schema)
        if kind == "cell":
            return Cell(file, dtype)
        return Table(file, dtype) if kind == "table" else Ring(file, dtype)
    except (ValueError, TypeError, KeyError) as error:
        raise Corrupt(f"{file.path}: its head describes no {kind}: {error}") from error
