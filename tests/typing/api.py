"""Uses of the public API with the types they should have; read by mypy, never run."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_type

import msgspec
import numpy as np

from mesh import (
    Cell,
    Heartbeat,
    Mesh,
    Owner,
    ProcessIdentity,
    RingReader,
    SegmentInfo,
    SegmentStatistics,
    Tensors,
    TensorsView,
)

if TYPE_CHECKING:
    from mesh.arrays import Array


class Risk(msgspec.Struct):
    """A user's Struct."""

    limit: float


DTYPE = np.dtype([("price", "<f8")])


def uses(mesh: Mesh, records: Array) -> None:
    """What a user's program may write."""
    cell = mesh.cell("risk", Risk, create=True)
    assert_type(cell, Cell[Risk])
    assert_type(cell.write(Risk(1.0)), int)
    assert_type(cell.read(), tuple[int, Risk])
    assert_type(cell.wait_newer(1, timeout=0.1), bool)
    assert_type(cell.read_newer(1, 0.1), tuple[int, Risk] | None)
    ring = mesh.ring("ticks", DTYPE, capacity=16, create=True)
    assert_type(ring.publish(records), int)
    reader = ring.reader("oldest")
    assert_type(reader, RingReader)
    assert_type(reader.lost, int)
    assert_type(reader.wait_published(0.1), bool)
    table = mesh.table("quotes", DTYPE, rows=4)
    assert_type(table.statistics(), SegmentStatistics)
    policy = mesh.tensors("policy/a", like={"w": records})
    assert_type(policy.publish({"w": records}), int)
    assert_type(mesh.tensors("policy/a"), Tensors)
    with policy.borrow() as view:
        assert_type(view, TensorsView)
    with mesh.lock("experience", create=True) as lock:
        assert_type(lock.owner(), Owner | None)
    beats = mesh.heartbeats().claim("mine")
    assert_type(beats, Heartbeat)
    beats.beat(progress=1, expect=2.0)
    for info in mesh.segments():
        assert_type(info, SegmentInfo)
        assert_type(info.owner, ProcessIdentity | None)
