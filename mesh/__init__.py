"""Typed shared memory whose last value survives a writer killed at any instruction."""

from mesh.cell import Cell
from mesh.directory import Mesh
from mesh.errors import (
    AccessDenied,
    Corrupt,
    InvalidName,
    LayoutMismatch,
    LeaseHeld,
    LeaseLost,
    MeshError,
    MeshFull,
    NotWritten,
    Overtaken,
    SchemaMismatch,
    SegmentExists,
    SegmentMissing,
)
from mesh.process_identity import ProcessIdentity
from mesh.ring import Ring, RingReader
from mesh.segment import SegmentInfo, SegmentStatistics
from mesh.table import Table
from mesh.tensors import Tensors, TensorsView

__all__ = [
    "AccessDenied",
    "Cell",
    "Corrupt",
    "InvalidName",
    "LayoutMismatch",
    "LeaseHeld",
    "LeaseLost",
    "Mesh",
    "MeshError",
    "MeshFull",
    "NotWritten",
    "Overtaken",
    "ProcessIdentity",
    "Ring",
    "RingReader",
    "SchemaMismatch",
    "SegmentExists",
    "SegmentInfo",
    "SegmentMissing",
    "SegmentStatistics",
    "Table",
    "Tensors",
    "TensorsView",
]
