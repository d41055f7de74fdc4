"""Attach: a segment describes itself."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from mesh import Cell, Heartbeats, Ring, SegmentMissing, SpinLock, Table, Tensors
from workers.contract.dtypes import TICK_DTYPE


class Risk(msgspec.Struct):
    """A value for the tests."""

    limit: float


def test_every_kind_is_read_without_its_code(mesh):
    """Cells come as dicts or records, streams and tables with their dtype, arrays by name."""
    mesh.cell("risk", Risk, create=True).write(Risk(2.5))
    mesh.cell("number", np.dtype([("x", "<f8")]), create=True).write(np.ones(1, [("x", "<f8")]))
    mesh.ring("ticks", TICK_DTYPE, capacity=4, create=True).publish(np.zeros(2, TICK_DTYPE))
    mesh.table("quotes", TICK_DTYPE, rows=4, create=True).write("GOOG", np.zeros(1, TICK_DTYPE))
    arrays = {"w": np.ones((2, 3), np.float32), "n": np.array(4)}
    mesh.tensors("policy/a", like=arrays, create=True).publish(arrays)
    mesh.lock("experience", create=True)
    mesh.heartbeats(create=True).claim("me")
    found = {info.name: mesh.attach(info.name) for info in mesh.segments()}
    assert {name: type(segment) for name, segment in found.items()} == {
        "risk": Cell,
        "number": Cell,
        "ticks": Ring,
        "quotes": Table,
        "policy/a": Tensors,
        "experience": SpinLock,
        "heartbeats": Heartbeats,
    }
    assert found["risk"].read() == (1, {"limit": 2.5})
    assert found["number"].read()[1]["x"] == 1.0
    assert found["ticks"].reader("oldest").read().dtype == TICK_DTYPE
    assert found["quotes"].keys() == ["GOOG"]
    assert found["policy/a"].read()[1]["w"].shape == (2, 3)
    assert found["heartbeats"].rows()[0].worker == "me"
    with pytest.raises(SegmentMissing, match="start the worker"):
        mesh.attach("nothing")
