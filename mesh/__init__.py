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
    LockTimeout,
    MeshError,
    MeshFull,
    NotWritten,
    Overtaken,
    SchemaMismatch,
    SegmentExists,
    SegmentMissing,
)
from mesh.heartbeats import Heartbeat, HeartbeatRow, Heartbeats, Phase
from mesh.process_identity import ProcessIdentity
from mesh.ring import Ring, RingReader
from mesh.segment import SegmentInfo, SegmentStatistics
from mesh.spinlock import Owner, SpinLock
from mesh.table import Table
from mesh.tensors import Tensors, TensorsView

__all__ = [
    "AccessDenied",
    "Cell",
    "Corrupt",
    "Heartbeat",
    "HeartbeatRow",
    "Heartbeats",
    "InvalidName",
    "LayoutMismatch",
    "LeaseHeld",
    "LeaseLost",
    "LockTimeout",
    "Mesh",
    "MeshError",
    "MeshFull",
    "NotWritten",
    "Overtaken",
    "Owner",
    "Phase",
    "ProcessIdentity",
    "Ring",
    "RingReader",
    "SchemaMismatch",
    "SegmentExists",
    "SegmentInfo",
    "SegmentMissing",
    "SegmentStatistics",
    "SpinLock",
    "Table",
    "Tensors",
    "TensorsView",
]
