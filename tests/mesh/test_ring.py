"""Rings: neither gap nor repeat, exact losses, and a state committed with the records."""

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

from mesh.header import CONTROL_OFFSET

#: a ring of its own for every example, also for those that Hypothesis cuts short
NUMBERS = itertools.count()
RECORD = np.dtype([("n", "<i8"), ("x", "<f8", (3,))])


def records(first, count):
    """Records numbered from `first`."""
    array = np.zeros(count, RECORD)
    array["n"] = np.arange(first, first + count)
    array["x"] = array["n"][:, None]
    return array


def test_readers_have_their_own_cursor(mesh):
    """Two readers read the same stream at their own pace, from their own start."""
    ring = mesh.ring("r", RECORD, capacity=8, create=True)
    assert ring.publish(records(0, 5)) == 4
    oldest = mesh.ring("r", RECORD).reader("oldest")
    latest = mesh.ring("r", RECORD).reader("latest")
    assert oldest.read(max_records=2)["n"].tolist() == [0, 1]
    assert latest.read().size == 0
    ring.publish(records(5, 1))
    assert latest.wait_published(1.0)
    assert latest.read()["n"].tolist() == [5]
    assert oldest.read()["n"].tolist() == [2, 3, 4, 5]


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=st.lists(st.integers(0, 7), max_size=30), data=st.data())
def test_i5_no_loss_no_repeat(mesh, batches, data):
    """A reader gets consecutive sequences, and `lost` counts exactly what it missed."""
    name = f"r{next(NUMBERS)}"
    ring = mesh.ring(name, RECORD, capacity=7, create=True)
    reader = mesh.ring(name, RECORD).reader("oldest")
    published = seen = 0
    for count in batches:
        ring.publish(records(published, count))
        published += count
        if data.draw(st.booleans()):
            got = reader.read()["n"].tolist()
            seen += len(got)
            assert got == list(range(published - len(got), published))
            assert reader.sequence == published
            assert reader.lost + seen == published
    mesh.unlink(name)


def test_state_may_be_committed_without_records(mesh):
    """An empty publish with a state commits the state alone."""
    ring = mesh.ring("r", RECORD, capacity=8, state_bytes=16, create=True)
    assert ring.state() is None
    ring.publish(records(0, 0), state=b"one")
    assert mesh.ring("r", RECORD).state() == b"one"
    ring.publish(records(0, 2), state=b"two")
    assert mesh.ring("r", RECORD).state() == b"two"
    with pytest.raises(ValueError, match="made for 16"):
        ring.publish(records(0, 1), state=b"x" * 17)


@pytest.mark.crash
def test_i5_state_and_records_agree_after_kill(mesh):
    """After SIGKILL at random points the state names exactly the records that are published."""
    rng = random.Random(2)  # a fixed seed: the points differ by scheduling anyway
    total = 0
    for _ in range(60):
        ready, tell = os.pipe()
        pid = os.fork()
        if pid == 0:
            ring = mesh.ring("r", RECORD, capacity=1 << 12, state_bytes=8, create=True)
            n = int.from_bytes(ring.state() or b"", "little")
            os.write(tell, b"x")
            while True:
                count = n % 5 + 1
                ring.publish(records(n, count), state=(n + count).to_bytes(8, "little"))
                n += count
        os.close(tell)
        assert os.read(ready, 1) == b"x"
        select.select([], [], [], rng.uniform(0, 0.003))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        ring = mesh.ring("r", RECORD)
        total = ring.published
        assert int.from_bytes(ring.state() or b"", "little") == total
        got = ring.reader("oldest").read(max_records=1 << 12)["n"]
        assert got.tolist() == list(range(total - got.size, total))
    assert total > 0


@pytest.mark.parametrize("start", [2**32 - 5, 2**40, 2**62 + 3])
def test_i5_sequences_and_slots_wrap_where_they_should(mesh, start):
    """Far-off sequences (the 32-bit futex word wraps on the way) go on without gap or repeat."""
    mesh.ring("r", RECORD, capacity=7, state_bytes=8, create=True).close()
    path = mesh.path / "r"
    data = bytearray(path.read_bytes())
    for at in (CONTROL_OFFSET, CONTROL_OFFSET + 16):  # published, intent
        data[at : at + 8] = start.to_bytes(8, "little")
    path.write_bytes(data)
    ring = mesh.ring("r", RECORD, capacity=7, state_bytes=8, create=True)
    reader = mesh.ring("r", RECORD).reader("latest")
    for batch in range(5):
        first = start + 2 * batch
        assert ring.publish(records(first, 2), state=b"%d" % batch) == first + 1
        assert reader.wait_published(1.0)
        assert reader.read().tobytes() == records(first, 2).tobytes()
    assert (reader.sequence, reader.lost, ring.state()) == (start + 10, 0, b"4")
    assert ring.oldest == start + 3
    ring.publish(records(start + 10, 7))
    ring.publish(records(start + 17, 3))
    assert reader.read().tobytes() == records(start + 13, 7).tobytes()
    assert reader.lost == 3


def test_readers_of_another_start_are_refused(mesh):
    """A start that is neither a word nor a sequence is a ValueError that names both."""
    ring = mesh.ring("r", RECORD, capacity=8, create=True)
    for start in (-1, "newest"):
        with pytest.raises(ValueError, match="'latest', 'oldest' or >= 0"):
            ring.reader(start)


def test_fields_of_chosen_records_are_gathered(mesh):
    """Any shape of sequences, over the wrap; False once one of them was overwritten."""
    dtype = np.dtype([("a", "<i4"), ("frame", "<f4", (5,))], align=True)
    ring = mesh.ring("gathered", dtype, capacity=8, create=True)
    records = np.zeros(12, dtype)
    records["frame"] = np.arange(60).reshape(12, 5)
    for record in records:
        ring.publish(record.reshape(1))
    out = np.empty((2, 2, 5), "<f4")
    wanted = np.array([[4, 11], [7, 8]])
    assert ring.gather(wanted, "frame", out)
    assert (out == records["frame"][wanted]).all()
    assert ring.gather(wanted[:, :0], "frame", out[:, :0])
    assert not ring.gather(np.array([3]), "frame", out[0, :1])
    assert not ring.gather(np.array([-1]), "frame", out[0, :1])
    for sequences, field, target, error in (
        (wanted, "frame", out[0], ValueError),
        (wanted, "nothing", out, KeyError),
        (wanted, "frame", out[..., :3], TypeError),
    ):
        with pytest.raises(error):
            ring.gather(sequences, field, target)
