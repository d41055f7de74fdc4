"""Segments: statistics and their end."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import threading
import time

import msgspec
import numpy as np
import pytest

from mesh import LeaseLost
from tests.processes import child


class Value(msgspec.Struct):
    """A value that is no record."""

    x: int


def test_statistics_count_what_happened(mesh):
    """Publishes, laps and losses are counted where everybody can read them."""
    ring = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    reader = mesh.ring("r", np.dtype("<f8")).reader("oldest")
    for _ in range(3):
        ring.publish(np.zeros(3))
    reader.read()
    found = ring.statistics()
    assert (found.published, found.laps, found.lost) == (9, 1, 5)


def test_closed_segment_refuses(mesh):
    """After close() a call is a typed error, never a crash."""
    ring = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    ring.close()
    with pytest.raises(LeaseLost, match="closed"):
        ring.publish(np.zeros(1))
    again = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    assert again.publish(np.zeros(1)) == 0


def test_publish_without_waiters_makes_no_system_call(mesh):
    """Writes and reads go on in a process that may make no system call but read and write."""
    ring = mesh.ring("r", np.dtype("<f8"), capacity=64, create=True)
    cell = mesh.cell("c", np.dtype("<f8"), create=True)
    reader = ring.reader()
    one, out = np.ones(1), np.zeros(8)

    def body(tell):
        ring_, cell_ = (open_again(mesh, name) for name in ("r", "c"))
        libc = ctypes.CDLL(None)
        assert libc.prctl(22, 1, 0, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_STRICT
        for _ in range(1000):
            ring_.publish(one)
            cell_.write(one)
            reader.read(out=out)
            cell_.read(out=one)
        tell("alive")

    ring.close()
    cell.close()
    reader = mesh.ring("r", np.dtype("<f8")).reader()
    with child(body) as process:
        assert process.started() == "alive"
    assert mesh.attach("r").published == 1000


def open_again(mesh, name):
    """Be the writer of what this test made."""
    if name == "r":
        return mesh.ring(name, np.dtype("<f8"), capacity=64, create=True)
    return mesh.cell(name, np.dtype("<f8"), create=True)


def test_sleeping_costs_no_processor_time(mesh):
    """A wait of a third of a second uses next to none of it, and is woken by a publish."""
    ring = mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    before = time.thread_time()
    assert not ring.reader().wait_published(0.3)
    assert time.thread_time() - before < 0.1

    def body(tell):
        reader = mesh.ring("r", np.dtype("<f8")).reader()
        tell()
        assert reader.wait_published(60.0)

    with child(body) as process:
        process.started()
        ring.publish(np.ones(1))
        assert process.wait() == 0


@pytest.mark.parametrize("spin", [0.0, 60.0])
def test_waiting_and_reading_are_one_call(mesh, spin):
    """Asleep or looking, a reader is given the very value that ended its wait, in every kind."""
    record = np.dtype("<f8")
    ring = mesh.ring("r", record, capacity=4, create=True)
    cell = mesh.cell("c", record, create=True)
    value = mesh.cell("s", Value, create=True)

    def body(tell):
        out, reader = np.zeros(2), mesh.ring("r", record).reader("oldest")
        tell()
        assert reader.read(timeout=60.0, spin=spin).tolist() == [1.0]
        assert mesh.cell("c", record).read_newer(0, 60.0, spin=spin) == (1, 2.0)
        version, same = mesh.cell("c", record).read_newer(0, 60.0, out[:1], spin=spin)
        assert (version, same.tolist()) == (1, [2.0])
        assert mesh.cell("s", Value).read_newer(0, 60.0, spin=spin) == (1, Value(3))
        tell()
        assert reader.read(out=out, timeout=60.0, spin=spin) == 1
        assert out[0] == 4.0

    with child(body) as process:
        process.started()
        ring.publish(np.full(1, 1.0))
        cell.write(np.full(1, 2.0))
        value.write(Value(3))
        process.started()
        ring.publish(np.full(1, 4.0))
        assert process.wait() == 0
    assert cell.read_newer(1, 0.01, spin=spin) is None
    assert value.read_newer(1, 0.0, spin=spin) is None
    reader = ring.reader()
    assert len(reader.read(timeout=0.01, spin=spin)) == 0
    assert reader.read(out=np.zeros(1), timeout=0.01) == 0
    for wrong in ({"timeout": -1.0}, {"timeout": float("nan")}, {"timeout": 1.0, "spin": -1.0}):
        with pytest.raises(ValueError, match=r"must be >= 0 seconds, got (-1.0|nan)"):
            reader.read(**wrong)
    with pytest.raises(TypeError, match="a version and a timeout"):
        cell.read_newer(1)


@pytest.mark.parametrize("spin", [0.0, 60.0])
def test_signal_ends_a_wait(mesh, spin):
    """What a signal's handler raises comes out of the wait; a segment that it closes is closed."""
    mesh.ring("r", np.dtype("<f8"), capacity=4, create=True)
    closed, interrupted = (mesh.ring("r", np.dtype("<f8")) for _ in range(2))

    def give_up(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGUSR1, lambda *_: closed.close())
    try:
        for handler, reading, error in (
            (signal.getsignal(signal.SIGUSR1), closed, LeaseLost),
            (give_up, interrupted, KeyboardInterrupt),
        ):
            signal.signal(signal.SIGUSR1, handler)
            reader = reading.reader()
            threading.Timer(0.02, os.kill, (os.getpid(), signal.SIGUSR1)).start()
            with pytest.raises(error):
                reader.read(timeout=60.0, spin=spin)
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_hundred_segments_cost_their_payload_and_little_more(mesh):
    """At most 1 % and 8 KiB each above slots, records, rows with their heads and index."""
    record = np.dtype([("x", "<f8", (8,))])
    cost = payload = 0
    for n in range(25):
        size = 1 << (n % 14 + 3)
        ring = mesh.ring(f"ring-{n}", record, capacity=size, create=True)
        cell = mesh.cell(f"cell-{n}", np.dtype([("x", "u1", (64 * (n + 1),))]), create=True)
        table = mesh.table(f"table-{n}", record, rows=size // 8 or 1, create=True)
        tensors = mesh.tensors(f"tensors-{n}", like={"w": np.zeros(size)}, create=True)
        sizes = {
            ring: size * record.itemsize,
            cell: 2 * 64 * (n + 1),
            table: (size // 8 or 1) * (64 + 2 * (32 + 64)) + 4 * table._file.identity.aux_size,
            tensors: 3 * 8 * size,
        }
        for segment, needed in sizes.items():
            used = segment._file.path.stat().st_blocks * 512
            assert used == segment.statistics().size_bytes
            cost, payload = cost + used, payload + needed
    assert len(list(mesh.segments())) == 100
    assert cost <= payload * 1.01 + 100 * 8192


def test_threads_of_one_process_publish_in_turn(mesh):
    """Large publishes let go of the GIL; two threads at once never mix their values."""
    like = {"w": np.zeros(40_000), "b": np.zeros(40_000)}
    tensors = mesh.tensors("t", like=like, create=True)
    ring = mesh.ring("r", np.dtype("<f8"), capacity=1 << 15, create=True)
    reader = mesh.tensors("t", like=like)
    stop = threading.Event()

    def publish(value):
        while not stop.is_set():
            tensors.publish({name: np.full_like(array, value) for name, array in like.items()})
            ring.publish(np.full(20_000, value))

    threads = [threading.Thread(target=publish, args=(float(n),)) for n in (1, 2, 3)]
    for thread in threads:
        thread.start()
    try:
        assert reader.wait_newer(0, 60.0)
        for _ in range(60):
            _, arrays = reader.read()
            assert (arrays["w"] == arrays["w"][0]).all()
            assert (arrays["b"] == arrays["w"][0]).all()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    last = ring.reader(ring.published - 20_000).read(max_records=20_000)
    assert (last == last[0]).all()


def test_i6_reader_that_writes_dies_and_harms_nobody(mesh):
    """A reader's mapping is read-only to the processor: a stray store kills the reader, and what
    the segment holds stays; a reader killed in the middle of a read leaves nothing behind."""
    cell = mesh.cell("c", np.dtype("<f8"), create=True)
    cell.write(np.full(1, 7.0))
    whole = (mesh.path / "c").read_bytes()

    def stray(tell):
        reader = mesh.cell("c", np.dtype("<f8"))
        memory = np.frombuffer(memoryview(reader._file.mapping), np.uint8)
        assert not memory.flags.writeable
        faulthandler.disable()  # its end is what we are after
        tell()
        ctypes.memset(memory.ctypes.data + 2048, 0xFF, 8)

    def reading(tell):
        reader = mesh.cell("c", np.dtype("<f8"))
        tell()
        while True:
            reader.read()

    with child(stray) as process:
        process.started()
        assert process.wait() == -signal.SIGSEGV
    with child(reading) as process:
        process.started()
        process.kill()
    assert (mesh.path / "c").read_bytes() == whole
    assert cell.write(np.full(1, 8.0)) == 2
    assert mesh.cell("c", np.dtype("<f8")).read() == (2, 8.0)


def test_i7_process_started_again_finds_its_state(mesh):
    """Killed without a word, started again: records, state, rows and arrays are where they were."""
    like = {"w": np.zeros(5)}

    def live(tell):
        ring = mesh.ring("r", np.dtype("<f8"), capacity=8, state_bytes=8, create=True)
        table = mesh.table("t", np.dtype("<f8"), rows=4, create=True)
        tensors = mesh.tensors("w", like=like, create=True)
        n = int(ring.state() or b"0")
        assert (ring.published, tensors.version, len(table)) == (n, n, min(n, 1))
        ring.publish(np.full(1, n, "<f8"), state=b"%d" % (n + 1))
        table.write("k", np.full(1, n, "<f8"))
        tensors.publish({"w": np.full(5, float(n))})
        tell(str(n))
        signal.pause()

    for n in range(5):
        with child(live) as process:
            assert process.started() == str(n)
            process.kill()
    assert mesh.attach("r").reader("oldest").read().tolist() == [0, 1, 2, 3, 4]
    assert mesh.attach("t").read("k") == (5, 4.0)
    assert mesh.tensors("w").read()[1]["w"].tolist() == [4.0] * 5
