"""Plain values: what numpy would give, without numpy."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

from mesh import Corrupt, Heartbeats, NotWritten, SegmentMissing, SpinLock
from mesh._core import _native
from mesh.plain import PlainCell, PlainRecords, PlainRing, PlainTable, PlainTensors
from mesh.ring import ring_shape
from mesh.schema import schema_of
from mesh.segment_file import create
from tests.mesh.dtypes import RECORDS
from workers.contract.dtypes import EXPERIENCE_DTYPE, MARKET_DTYPE, TICK_DTYPE

ROOT = Path(__file__).parent.parent.parent
NUMBERS = itertools.count()
SLOW = settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Risk(msgspec.Struct):
    """A value for the tests."""

    limit: float


def by_numpy(value):
    """Return what numpy decoded as plain values: the oracle."""
    if isinstance(value, np.void) and value.dtype.names:
        return {name: by_numpy(value[name]) for name in value.dtype.names}
    if isinstance(value, np.ndarray):
        return [by_numpy(each) for each in value]
    if value.dtype.kind in "SV":
        return value.item().decode("utf-8", "replace")
    if value.dtype.kind == "f":
        return float(value) if math.isfinite(value) else None
    return str(value) if value.dtype.kind in "cmM" else value.item()


@SLOW
@given(dtype=RECORDS, data=st.data())
def test_any_dtype_reads_as_numpy_reads_it(mesh, dtype, data):
    """Every dtype numpy can describe, nested and padded ones too, gives equal plain values."""
    records = data.draw(nps.arrays(dtype, 3))
    name = f"any-{next(NUMBERS)}"
    mesh.ring(name, dtype, capacity=4, create=True).publish(records)
    ring = mesh.attach_plain(name)
    assert isinstance(ring, PlainRing)
    assert ring.reader(0).read(4) == [by_numpy(record) for record in records]
    mesh.unlink(name)


@pytest.mark.parametrize("dtype", [TICK_DTYPE, MARKET_DTYPE, EXPERIENCE_DTYPE, np.dtype(">f4")])
def test_the_records_of_the_loop(dtype):
    """The shipped dtypes, and plain numbers, decode from any bytes as numpy decodes them."""
    raw = np.random.default_rng(5).bytes(2 * dtype.itemsize)
    records = PlainRecords(schema_of(dtype), dtype.itemsize)
    assert records.names == (dtype.names or ())
    with np.errstate(invalid="ignore"):
        assert records.decode(raw) == [by_numpy(each) for each in np.frombuffer(raw, dtype)]


def test_every_kind_reads_plainly(mesh):
    """Cells, rings, tables, locks and heartbeats; the arrays of tensors are numpy's."""
    mesh.cell("risk", Risk, create=True).write(Risk(2.5))
    mesh.cell("number", np.dtype([("x", "<f8")]), create=True).write(np.ones(1, [("x", "<f8")]))
    mesh.cell("nothing", Risk, create=True)
    mesh.ring("ticks", TICK_DTYPE, capacity=4, create=True).publish(np.zeros(4, TICK_DTYPE))
    mesh.ring("ticks", TICK_DTYPE, capacity=4, create=True).publish(np.zeros(2, TICK_DTYPE))
    quotes = mesh.table("quotes", np.dtype([("bid", "f8")]), rows=4, create=True)
    quotes.write("GOOG", np.ones(1, [("bid", "f8")]))
    arrays = {"w": np.ones((2, 3), np.float32)}
    mesh.tensors("policy/a", like=arrays, create=True).publish(arrays)
    mesh.lock("experience", create=True)
    mesh.heartbeats(create=True).claim("me")
    found = {info.name: mesh.attach_plain(info.name) for info in mesh.segments()}
    assert {name: type(segment) for name, segment in found.items()} == {
        "risk": PlainCell,
        "number": PlainCell,
        "nothing": PlainCell,
        "ticks": PlainRing,
        "quotes": PlainTable,
        "policy/a": PlainTensors,
        "experience": SpinLock,
        "heartbeats": Heartbeats,
    }
    assert found["risk"].read() == (1, {"limit": 2.5})
    assert found["number"].read() == (1, {"x": 1.0})
    with pytest.raises(NotWritten):
        found["nothing"].read()
    ring = found["ticks"]
    assert (ring.oldest, ring.published, ring.capacity) == (2, 6, 4)
    version, read = found["policy/a"].read()
    assert (version, read["w"].tolist()) == (1, arrays["w"].tolist())
    assert found["quotes"].keys() == [b"GOOG"]
    assert found["quotes"].read("GOOG") == (1, {"bid": 1.0})
    with pytest.raises(KeyError):
        found["quotes"].read("AAPL")
    with pytest.raises(SegmentMissing):
        mesh.attach_plain("missing")


def test_a_lapped_plain_reader_knows_what_it_lost(mesh):
    """Records overwritten before they were read are counted; what is read is whole."""
    ring = mesh.ring("numbers", np.dtype("<i8"), capacity=8, create=True)
    ring.publish(np.arange(5))
    found = mesh.attach_plain("numbers")
    reader = found.reader(0)
    assert reader.read(2) == [0, 1]
    ring.publish(np.arange(5, 12))
    ring.publish(np.arange(12, 20))
    assert reader.wait_published(1.0)
    read = reader.read(100)
    assert read == list(range(20 - len(read), 20))
    assert reader.lost == 20 - len(read) - 2
    assert reader.sequence == 20
    assert reader.read(100) == []


def test_what_is_attached_plainly_cannot_be_written(mesh):
    """The core refuses to write records of which it knows the size alone."""
    mesh.ring("numbers", np.dtype("<i8"), capacity=8, create=True)
    found = mesh.attach_plain("numbers")
    with pytest.raises(TypeError, match="open it with its dtype"):
        found._ring.publish(np.arange(3))
    data = found._file.identity.data_offset
    with pytest.raises(ValueError, match="records of -8 bytes"):
        _native.Ring(found._file.mapping, data, 8, 8, 0, 0, -8, False)
    with pytest.raises(ValueError, match="in a stride"):
        _native.Ring(found._file.mapping, data, 8, 8, 0, 0, 1 << 40, False)


@pytest.mark.parametrize(
    "schema",
    [
        '{"lock":1}',
        '{"dtype":"<f8"}',
        '{"dtype":"<q9"}',
        '{"dtype":7}',
        "[]",
        "{",
        '{"dtype":{"fields":[["a"]],"itemsize":16}}',
    ],
)
def test_a_schema_that_describes_no_such_records_is_refused(schema):
    """Text that is no dtype, or one of another size, never decodes anything."""
    with pytest.raises((ValueError, TypeError, KeyError)):
        PlainRecords(schema, 16)


def test_a_head_that_contradicts_itself_is_corrupt(mesh):
    """Records of another size than the schema says are a typed error that names the file."""
    mesh.lock("makes-the-directory", create=True)
    shape = ring_shape(np.dtype("<i8"), 8, 0)._replace(schema=schema_of(np.dtype("<i4")))
    create(mesh.path / "numbers", shape, 0o600)
    with pytest.raises(Corrupt, match="numbers"):
        mesh.attach_plain("numbers")


def test_no_numpy_is_loaded(mesh):
    """A fresh process reads a ring, a table and a cell of records and has no numpy at its end."""
    dtype = np.dtype([("x", "<f8")])
    one = np.ones(1, dtype)
    mesh.ring("ring", dtype, capacity=4, create=True).publish(one)
    mesh.table("table", dtype, rows=4, create=True).write("a", one)
    mesh.cell("cell", dtype, create=True).write(one)
    program = (
        "import sys\nfrom mesh import Mesh\nmesh = Mesh(sys.argv[1])\n"
        "print(mesh.attach_plain('ring').reader(0).read(1), mesh.attach_plain('table').read('a'),"
        " mesh.attach_plain('cell').read(), 'numpy' in sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, str(mesh.path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ended.stdout == "[{'x': 1.0}] (1, {'x': 1.0}) (1, {'x': 1.0}) False\n"
