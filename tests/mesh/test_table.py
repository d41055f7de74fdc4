"""Tables: the latest record of each key."""

from __future__ import annotations

import itertools
import os
import random
import select
import signal

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh import MeshFull

QUOTE = np.dtype([("symbol", "S32"), ("x", "<f8", (5,))])
#: a table of its own for every example, also for those that Hypothesis cuts short
NUMBERS = itertools.count()


def quote(symbol, x):
    """One quote."""
    record = np.zeros(1, QUOTE)
    record["symbol"], record["x"] = symbol, x
    return record


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(writes=st.lists(st.tuples(st.integers(0, 9), st.integers(-99, 99)), max_size=60))
def test_table_is_a_dictionary_of_latest_records(mesh, writes):
    """Single writes and batches leave what a dictionary would hold."""
    table = mesh.table(f"t{next(NUMBERS)}", QUOTE, rows=10, create=True)
    half = len(writes) // 2
    for key, x in writes[:half]:
        table.write(f"key-{key}", quote(f"key-{key}", x))
    if writes[half:]:
        batch = np.concatenate([quote(f"key-{key}", x) for key, x in writes[half:]])
        table.write_batch(batch["symbol"], batch)
    expected = {f"key-{key}": float(x) for key, x in writes}
    assert dict(zip(table.keys(), table.snapshot()["x"][:, 0].tolist(), strict=True)) == expected
    assert len(table) == len(expected)
    for key, x in expected.items():
        assert table.read(key)[1]["x"][4] == x


def test_bad_keys_and_full_tables_are_refused(mesh):
    """Unknown key: KeyError; key too long: ValueError; no row left: MeshFull. Nothing is lost."""
    table = mesh.table("t", QUOTE, rows=2, create=True)
    table.write("a" * 32, quote("a", 1))
    table.write(b"b", quote("b", 2))
    with pytest.raises(KeyError):
        table.read("c")
    with pytest.raises(ValueError, match="33 bytes"):
        table.write("c" * 33, quote("c", 3))
    with pytest.raises(MeshFull, match="more rows"):
        table.write("c", quote("c", 3))
    assert table.keys() == ["a" * 32, "b"]
    assert mesh.table("t", QUOTE).read("b")[0] == 1


@pytest.mark.crash
def test_i2_killed_writer_leaves_whole_rows(mesh):
    """SIGKILL at random points: every row is whole and found by its key, the next one goes on."""
    rng = random.Random(3)  # a fixed seed: the points differ by scheduling anyway
    for _ in range(40):
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            table = mesh.table("t", QUOTE, rows=4096, create=True)
            os.write(tell, b"x")
            for n in itertools.count(len(table)):
                table.write(f"k{n % 4096}", quote(f"k{n % 4096}", n))
        os.close(tell)
        assert os.read(ready, 1) == b"x"
        select.select([], [], [], rng.uniform(0, 0.002))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        table = mesh.table("t", QUOTE)
        rows = table.snapshot()
        assert (rows["x"] == rows["x"][:, :1]).all()
        assert [s.decode() for s in rows["symbol"]] == table.keys()
        writer = mesh.table("t", QUOTE, rows=4096, create=True)
        found = writer.keys()
        for key in found:
            assert writer.read(key)[1]["symbol"].decode() == key
        writer.close()
