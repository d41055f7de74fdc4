"""Cells: the latest value, whole, whatever happens to its writer."""

from __future__ import annotations

import os
import random
import select
import signal

import msgspec
import numpy as np
import pytest

from mesh import LeaseHeld, LeaseLost, NotWritten

POINT = np.dtype([("a", "<i8"), ("b", "<f8", (9,)), ("c", "S5")], align=True)


class Risk(msgspec.Struct):
    """A value for the tests."""

    limit: float
    names: list[str]


def test_struct_comes_back_with_its_version(mesh):
    """A Struct is read as it was written; versions count from 1."""
    cell = mesh.cell("risk", Risk, create=True)
    reader = mesh.cell("risk", Risk)
    with pytest.raises(NotWritten):
        reader.read()
    assert cell.write(Risk(1.5, ["x"])) == 1
    assert reader.read() == (1, Risk(1.5, ["x"]))
    assert reader.wait_newer(0, timeout=1.0)
    assert not reader.wait_newer(1, timeout=0.0)


def test_record_is_read_into_the_callers_array(mesh):
    """A numpy record goes in and comes out, new or into an array of the reader."""
    cell = mesh.cell("point", POINT, create=True)
    value = np.zeros(1, POINT)
    value["a"], value["b"], value["c"] = 7, np.arange(9), b"hello"
    cell.write(value)
    out = np.zeros(1, POINT)
    version, same = mesh.cell("point", POINT).read(out=out)
    assert version == 1
    assert same is out
    assert out == value
    assert mesh.cell("point", POINT).read()[1] == value[0]


def test_i4_second_live_writer_is_refused(mesh):
    """While the writer lives, another process gets LeaseHeld; its fork may not publish either."""
    cell = mesh.cell("risk", Risk, create=True)
    cell.write(Risk(1.0, []))
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            mesh.cell("risk", Risk, create=True)
        except LeaseHeld:
            try:
                cell.write(Risk(2.0, []))
            except LeaseLost:
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert cell.read() == (1, Risk(1.0, []))


@pytest.mark.crash
def test_i2_killed_writer_leaves_last_value(mesh):
    """SIGKILL at random points: the last value is whole at once and the next writer goes on."""
    rng = random.Random(1)  # a fixed seed: the points differ by scheduling anyway
    last = 0
    for _ in range(60):
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            cell = mesh.cell("point", POINT, create=True)
            value = np.zeros(1, POINT)
            os.write(tell, b"x")
            for n in range(last + 1, last + 10**9):
                value["a"], value["b"] = n, n
                cell.write(value)
        os.close(tell)
        assert os.read(ready, 1) == b"x"
        select.select([], [], [], rng.uniform(0, 0.003))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        if mesh.cell("point", POINT).version == 0:
            continue
        version, value = mesh.cell("point", POINT).read()
        assert value["a"] == version
        assert (value["b"] == version).all()
        assert version >= last
        last = version
    assert last > 0
