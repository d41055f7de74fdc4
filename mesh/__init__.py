"""Typed shared memory whose last value survives a writer killed at any instruction.

Names are imported when they are first used: `meshctl --help` and its kind need no numpy.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
else:
    from importlib import import_module

    _NAMES = {
        "mesh.cell": "Cell",
        "mesh.directory": "Mesh",
        "mesh.errors": "AccessDenied Corrupt InvalidName LayoutMismatch LeaseHeld LeaseLost "
        "LockTimeout MeshError MeshFull NotWritten Overtaken SchemaMismatch SegmentExists "
        "SegmentMissing",
        "mesh.heartbeats": "Heartbeat HeartbeatRow Heartbeats Phase",
        "mesh.process_identity": "ProcessIdentity",
        "mesh.ring": "Ring RingReader",
        "mesh.segment": "SegmentInfo SegmentStatistics",
        "mesh.spinlock": "Owner SpinLock",
        "mesh.table": "Table",
        "mesh.tensors": "Tensors TensorsView",
    }
    _HOMES = {name: module for module, names in _NAMES.items() for name in names.split()}

    def __getattr__(name: str) -> object:
        """Import a public name at its first use (PEP 562)."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return [*globals(), *_HOMES]


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
