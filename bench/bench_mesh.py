"""The mesh from Python beside its limit in C and beside its peers, in one run.

    make bench-mesh                     all figures
    bench/bench_mesh.py FIGURE ...      some of: cell struct latency stream tensors kills

One JSON line a figure: `ratio` is value / peer; `peer` says which one. 64-byte records unless said.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import shutil
import sys
import tempfile
import time
import timeit
from statistics import median
from typing import Any

import msgspec
import numpy as np
from mesh_kills import killed, usable
from mesh_peers import (
    FORK,
    LATEST,
    POLLED,
    QUEUES,
    SIZE,
    SLEEPING,
    MpQueue,
    Peer,
    ShmLock,
    UltraDict,
)
from mesh_turns import CURSOR, DONE, Taken, Turn, Way, address, limits, pointer, take_turns

from mesh import Mesh

RECORD = np.dtype([("t", "<u8"), ("x", "<f8", (7,))])
CALLS = 200_000
CAPACITY = 1 << 16
BATCH = 256
ROOM = 4096


class Risk(msgspec.Struct):
    """Six fields."""

    limit: float
    used: float
    trades: int
    symbol: str
    halted: bool
    updated_ns: int


def figure(
    bench: str, value: float, unit: str, peer: str, other: float | None, ratio: float | None = None
) -> None:
    """Print one line; `ratio` is the median of those taken in turns, else value / other."""
    line: dict[str, Any] = {"bench": bench, "value": round(value, 3), "unit": unit}
    if other is not None:
        ratio = value / other if ratio is None else ratio
        line |= {"peer": peer, "peer_value": round(other, 3), "ratio": round(ratio, 3)}
    print(json.dumps(line), flush=True)


def timed(names: dict[str, Any], calls: int, *statements: str) -> list[list[float]]:
    """Processor time of one call of each statement, ns, measured in turns: neighbours do not count.

    A statement with `calls` in it makes that many calls itself.
    """
    names = {**names, "calls": calls}
    timers = [timeit.Timer(text, globals=names, timer=time.process_time) for text in statements]
    turns = [1 if "calls" in text else calls for text in statements]
    taken: list[list[float]] = [[] for _ in statements]
    for _ in range(9):
        for found, timer, turn in zip(taken, timers, turns, strict=True):
            found.append(timer.timeit(turn) / calls * 1e9)
    return taken


def nanoseconds(statement: str, names: dict[str, Any], calls: int = CALLS) -> float:
    """Median of the processor time of one call, ns."""
    return median(timed(names, calls, statement)[0])


def ratio_of(ours: list[float], others: list[float]) -> float:
    """Median over the turns."""
    return median(mine / other for mine, other in zip(ours, others, strict=True))


def present(*peers: type[Peer]) -> list[type[Peer]]:
    """Those that are installed; a line for each that is not."""
    for peer in peers:
        if (missing := peer.missing()) is not None:
            print(missing, file=sys.stderr)
    return [peer for peer in peers if peer.missing() is None]


def bench_cell(mesh: Mesh, directory: str) -> None:
    """Write and read the latest record, same process, ns."""
    cell = mesh.cell("cell", RECORD, create=True)
    names: dict[str, Any] = {"cell": cell, "a": np.zeros(1, RECORD), "b": np.ones(1, RECORD)}
    ours: dict[str, float] = {}
    c = limits(directory)
    for what, statement in (("write", "cell.write(a)"), ("read", "cell.read(b)")):
        beside = [] if c is None else [f"c.limit_{what}(segment, calls)"]
        found = timed(names | {"c": c, "segment": address(cell)}, CALLS, statement, *beside)
        ours[what] = median(found[0])
        if c is not None:
            ratio = ratio_of(*found)
            figure(f"cell.{what}", ours[what], "ns", "C", median(found[1]), ratio)
    for kind in present(*LATEST):
        peer = kind()
        peer.open_writer()
        value = bytes(SIZE)
        peer.write(value)
        written = nanoseconds("p.write(v)", {"p": peer, "v": value}, 20_000)
        if kind is not ShmLock and kind.__name__ != "Lmdb":
            peer.open_reader()
        read = nanoseconds("p.read()", {"p": peer}, 20_000)
        peer.close()
        figure("cell.write", ours["write"], "ns", kind.__name__, written)
        figure("cell.read", ours["read"], "ns", kind.__name__, read)


def bench_struct(mesh: Mesh, _directory: str) -> None:
    """A msgspec Struct of six fields: write and read, beside its encoding and decoding alone."""
    cell = mesh.cell("struct", Risk, create=True)
    value = Risk(1e6, 2.5e5, 17, "GOOG 240119C00150000", False, 1_700_000_000_000_000_000)
    cell.write(value)
    encoder, decoder = msgspec.msgpack.Encoder(), msgspec.msgpack.Decoder(Risk)
    names = {"cell": cell, "v": value, "e": encoder, "d": decoder, "b": encoder.encode(value)}
    for what, ours, alone in (
        ("write", "cell.write(v)", "e.encode(v)"),
        ("read", "cell.read()", "d.decode(b)"),
    ):
        found = timed(names, CALLS, ours, alone)
        figure(
            f"struct.{what}",
            median(found[0]),
            "ns",
            f"{alone[2:8]} alone",
            median(found[1]),
            ratio_of(*found),
        )


class ByCell(Way):
    """Latest value through a cell, with a stamp in it."""

    name = "ours"

    def __init__(self, mesh: Mesh, gap_ns: int, *, sleeping: bool) -> None:
        """A value each `gap_ns`; the reader sleeps in between, or polls."""
        self._mesh, self._gap_ns, self._sleeping = mesh, gap_ns, sleeping
        self._segment = f"latency-{self.name}"

    def open_writer(self) -> None:
        """Create."""
        self._writer = self._mesh.cell(self._segment, RECORD, create=True)
        self._writer.write(np.zeros(1, RECORD))

    def open_reader(self) -> None:
        """Attach."""
        self._reader = self._mesh.cell(self._segment, RECORD)

    def write(self, turn: Turn) -> None:
        """Stamp and publish."""
        record, clock, publish = np.zeros(1, RECORD), time.monotonic_ns, self._writer.write
        stamp = memoryview(record.view("<u8"))
        while not turn.over():
            until = clock() + self._gap_ns
            while clock() < until:
                pass
            stamp[0] = clock()
            publish(record)

    def read(self, turn: Turn) -> None:
        """Wait and read in one call; the clock is read as soon as the value is there."""
        out, clock, read_newer = np.zeros(1, RECORD), time.monotonic_ns, self._reader.read_newer
        stamp, spin = memoryview(out.view("<u8")), 0.0 if self._sleeping else 1.0
        version, found = self._reader.version, []
        for _ in range(len(turn.delays)):
            version, _ = read_newer(version, 10.0, out, spin)
            found.append(clock() - stamp[0])
        turn.delays[:] = found

    def close(self) -> None:
        """Release the lease and remove the segment."""
        self._writer.close()
        self._mesh.unlink(self._segment)


class ByCellInC(ByCell):
    """The same core without Python."""

    name = "C"

    def __init__(self, mesh: Mesh, gap_ns: int, *, sleeping: bool, c: Any) -> None:
        """Call `c`."""
        super().__init__(mesh, gap_ns, sleeping=sleeping)
        self._c = c

    def write(self, turn: Turn) -> None:
        """Stamp and publish."""
        gap_ns = ctypes.c_int64(self._gap_ns)
        self._c.limit_send(address(self._writer), gap_ns, turn.word(DONE), turn.number)

    def read(self, turn: Turn) -> None:
        """Poll, or sleep on the futex."""
        samples = ctypes.c_uint64(len(turn.delays))
        self._c.limit_receive(
            address(self._reader), int(self._sleeping), samples, pointer(turn.delays)
        )


class PeerWay(Way):
    """Through a peer."""

    def __init__(self, kind: type[Peer], records: int = 1) -> None:
        """Values of `records` records."""
        self._peer = kind()
        self._peer.size = SIZE * records
        self.name = kind.__name__

    def open_writer(self) -> None:
        """Open."""
        self._peer.open_writer()

    def open_reader(self) -> None:
        """Open."""
        self._peer.open_reader()

    def close(self) -> None:
        """Take away what it made."""
        self._peer.close()


class ByPeer(PeerWay):
    """Stamped values."""

    def __init__(self, kind: type[Peer], gap_ns: int) -> None:
        """A value each `gap_ns`."""
        super().__init__(kind)
        self._gap_ns = gap_ns

    def write(self, turn: Turn) -> None:
        """Stamp and publish."""
        clock, write, rest = time.monotonic_ns, self._peer.write, bytes(SIZE - 8)
        while not turn.over():
            until = clock() + self._gap_ns
            while clock() < until:
                pass
            write(clock().to_bytes(8, "little") + rest)

    def read(self, turn: Turn) -> None:
        """Read until there is a value that was written in this turn and not seen before."""
        clock, read, found = time.monotonic_ns, self._peer.read, []
        last = clock()
        while len(found) < len(turn.delays):
            value = read()
            now = clock()
            if value is not None and (stamp := int.from_bytes(value[:8], "little")) > last:
                last = stamp
                found.append(now - stamp)
        turn.delays[:] = found


def latencies(how: str, taken: list[Taken]) -> None:
    """Print p50 and p99 beside those of the others."""
    ours, *others = taken
    for at, part in (("p50", 0.5), ("p99", 0.99)):
        values = [[d[int(len(d) * part)] for d in way.delays] for way in (ours, *others)]
        for other, found in zip(others, values[1:], strict=True):
            figure(
                f"latency.{how}.{at}",
                median(values[0]),
                "us",
                other.name,
                median(found),
                ratio_of(values[0], found),
            )


def interpreter_share(mesh: Mesh) -> float:
    """Microseconds between the two looks at the clock when nothing is on its way: Python alone."""
    cell = mesh.cell("here", RECORD, create=True)
    record, out, clock, found = np.zeros(1, RECORD), np.zeros(1, RECORD), time.monotonic_ns, []
    stamp, came = memoryview(record.view("<u8")), memoryview(out.view("<u8"))
    publish, read_newer, version = cell.write, cell.read_newer, 0
    for _ in range(5000):
        stamp[0] = clock()
        publish(record)
        version, _ = read_newer(version, 10.0, out, 1.0)
        found.append(clock() - came[0])
    return median(found) / 1e3


def bench_latency(mesh: Mesh, directory: str) -> None:
    """One-way latency from a writer to a reader on another processor, microseconds."""
    c = limits(directory)
    figure("latency.interpreter", interpreter_share(mesh), "us", "", None)
    for how, gap_ns, samples, peers in (
        ("polling", 5_000, 1000, POLLED),
        ("sleeping", 200_000, 500, SLEEPING),
    ):
        sleeping = how == "sleeping"
        ways: list[Way] = [ByCell(mesh, gap_ns, sleeping=sleeping)]
        if c is not None:
            ways.append(ByCellInC(mesh, gap_ns, sleeping=sleeping, c=c))
        latencies(how, take_turns(ways, 15, samples))
        ways = [ways[0], *(ByPeer(kind, gap_ns) for kind in present(*peers))]
        latencies(how, take_turns(ways, 5, samples))


class ByRing(Way):
    """Records through a ring, lossless: the writer waits for the reader."""

    name = "ours"

    def __init__(self, mesh: Mesh, batch: int, total: int) -> None:
        """`total` records a turn, `batch` a call."""
        self._mesh, self._batch, self._total = mesh, batch, total
        self._segment = f"stream-{self.name}"

    def open_writer(self) -> None:
        """Create."""
        self._writer = self._mesh.ring(self._segment, RECORD, capacity=CAPACITY, create=True)
        self._records = np.zeros(self._batch, RECORD)

    def open_reader(self) -> None:
        """Attach."""
        self._ring = self._mesh.ring(self._segment, RECORD)
        self._reader = self._ring.reader("oldest")
        self._out = np.zeros(ROOM, RECORD)

    def begin(self, turn: Turn) -> None:
        """Say where the reader is."""
        turn.words[CURSOR] = self._writer.published

    def write(self, turn: Turn) -> None:
        """Publish; look every 1024 records where the reader is."""
        publish, records, words = self._writer.publish, self._records, turn.words
        first = self._writer.published
        turns = range(max(1024 // self._batch, 1))
        for at in range(first, first + self._total, self._batch * len(turns)):
            while at - words[CURSOR] > CAPACITY - 2048:
                pass
            for _ in turns:
                publish(records)

    def read(self, turn: Turn) -> None:
        """Copy all of them out."""
        read, out, words = self._reader.read, self._out, turn.words
        sequence = self._reader.sequence
        end = sequence + self._total
        while sequence < end:
            sequence += read(ROOM, out)
            words[CURSOR] = sequence
        if self._reader.lost:
            raise RuntimeError(f"{self._reader.lost} records were lost")

    def close(self) -> None:
        """Release the lease and remove the segment."""
        self._writer.close()
        self._mesh.unlink(self._segment)


class ByRingInC(ByRing):
    """The same core without Python: same capacity, same calls, copied into a buffer as well."""

    name = "C"

    def __init__(self, mesh: Mesh, batch: int, total: int, c: Any) -> None:
        """Call `c`."""
        super().__init__(mesh, batch, total)
        self._c = c

    def write(self, turn: Turn) -> None:
        """Publish; look every 1024 records where the reader is."""
        self._c.limit_publish(
            address(self._writer),
            pointer(self._records),
            ctypes.c_uint64(self._batch),
            ctypes.c_uint64(self._total),
            turn.word(CURSOR),
        )

    def read(self, turn: Turn) -> None:
        """Copy all of them out."""
        lost = self._c.limit_follow(
            address(self._ring),
            pointer(self._out),
            ctypes.c_uint64(ROOM),
            ctypes.c_uint64(self._total),
            turn.word(CURSOR),
        )
        if lost:
            raise RuntimeError(f"{lost} records were lost")


class StreamByPeer(PeerWay):
    """Messages of `batch` records through a queue."""

    def __init__(self, kind: type[Peer], batch: int, messages: int) -> None:
        """`messages` a turn."""
        super().__init__(kind, batch)
        self._messages, self._value = messages, bytes(SIZE * batch)

    def write(self, _turn: Turn) -> None:
        """Write all of them."""
        write, value = self._peer.write, self._value
        for _ in range(self._messages):
            write(value)

    def read(self, _turn: Turn) -> None:
        """Read all of them."""
        read, left = self._peer.read, self._messages
        while left:
            left -= read() is not None


def rates(name: str, taken: list[Taken], totals: list[int]) -> None:
    """Print million records a second beside those of the others."""
    values = [
        [total / seconds / 1e6 for seconds in way.seconds]
        for way, total in zip(taken, totals, strict=True)
    ]
    for other, found in zip(taken[1:], values[1:], strict=True):
        figure(
            name, median(values[0]), "M/s", other.name, median(found), ratio_of(values[0], found)
        )


def bench_stream(mesh: Mesh, directory: str) -> None:
    """Records from a writer to a reader, one a call and in batches, million a second."""
    c = limits(directory)
    for batch, total, peer_total in ((1, 1 << 19, 1 << 13), (BATCH, 1 << 22, 1 << 18)):
        name = f"stream.{batch}"
        ways: list[Way] = [ByRing(mesh, batch, total)]
        if c is not None:
            ways.append(ByRingInC(mesh, batch, total, c))
        rates(name, take_turns(ways, 15), [total] * len(ways))
        peers = present(*QUEUES)
        ways = [ways[0], *(StreamByPeer(kind, batch, peer_total // batch) for kind in peers)]
        rates(name, take_turns(ways, 5), [total] + [peer_total] * len(peers))


def bench_tensors(mesh: Mesh, directory: str) -> None:
    """10 MB of arrays: publish, read into arrays, borrow; beside one memcpy of as much."""
    like = {f"w{n}": np.full(250_000, n, "<f4") for n in range(10)}
    tensors = mesh.tensors("tensors", like=like, create=True)
    out = {name: np.zeros_like(array) for name, array in like.items()}
    size = sum(array.nbytes for array in like.values())
    places, flat = mmap.mmap(-1, 3 * size), np.ones(size, "u1")
    np.frombuffer(places, "u1")[:] = 1

    def borrowed() -> None:
        with tensors.borrow() as view:
            assert view["w3"][0] == 3

    def locked() -> None:
        with lock:
            buffer[:] = flat

    for _ in range(4):
        tensors.publish(like)
    tensors.read(out)
    lock, buffer = FORK.Lock(), np.zeros(size, "u1")
    names: dict[str, Any] = {
        "t": tensors,
        "like": like,
        "out": out,
        "c": limits(directory),
        "locked": locked,
        "to": pointer(np.frombuffer(places, "u1")),
        "flat": pointer(flat),
        "size": ctypes.c_uint64(size),
    }
    names |= {"private": buffer, "shared": np.frombuffer(places, "u1")[:size]}
    for what, statement, alone in (
        ("publish", "t.publish(like)", "c.limit_copy(to, flat, size, calls)"),
        ("read", "t.read(out)", "private[:] = shared"),
    ):
        bare = [] if names["c"] is None else [alone]
        found = timed(names, 10, statement, *bare, "locked()")
        ours, others = found[0], [*(("memcpy",) if bare else ()), "copy under mp.Lock, no checksum"]
        for peer, other in zip(others, found[1:], strict=True):
            figure(
                f"tensors.{what}",
                median(ours) / 1e6,
                "ms",
                peer,
                median(other) / 1e6,
                ratio_of(ours, other),
            )
    seconds = nanoseconds("borrowed()", {"borrowed": borrowed}, 5000)
    figure("tensors.borrow", seconds / 1e3, "us", "", None)


def bench_kills(mesh: Mesh, _directory: str) -> None:
    """Publishing writers killed: then a reader must read, and a new writer write, within 2 s."""
    trials = 40

    def ours_write(n: int) -> None:
        cell = opened.get("cell")
        if cell is None:
            cell = opened["cell"] = mesh.cell("killed", RECORD, create=True)
        cell.write(np.full(1, n, "<u8").repeat(8).view(RECORD))

    def ours_read() -> bool:
        value = np.zeros(1, RECORD)
        mesh.cell("killed", RECORD).read(out=value)
        words = value.view("<u8")
        writer = mesh.cell("killed", RECORD, create=True)
        return bool((words == words[0]).all()) and writer.write(value) > 0

    opened: dict[str, Any] = {}
    ours = killed(ours_write, ours_read, trials)
    figure("kills.wrong", ours, f"of {trials}", "", None)
    for kind in present(ShmLock, MpQueue, UltraDict):
        wrong = 0
        for _ in range(trials):
            peer = kind()
            if kind is UltraDict:
                peer.open_writer()
            wrong += killed(
                lambda n, peer=peer: peer.write(n.to_bytes(8, "little") * 8),
                lambda peer=peer: usable(peer),
                1,
            )
            peer.close()
        line = {"bench": "kills.wrong", "value": wrong, "unit": f"of {trials}"}
        print(json.dumps({**line, "peer": kind.__name__}), flush=True)


BENCHES = {
    "cell": bench_cell,
    "struct": bench_struct,
    "latency": bench_latency,
    "stream": bench_stream,
    "tensors": bench_tensors,
    "kills": bench_kills,
}


def main() -> None:
    """Run the figures that were named, or all, each in a process of its own."""
    for name in sys.argv[1:] or BENCHES:
        directory = tempfile.mkdtemp(prefix="mesh-bench-", dir="/dev/shm")
        try:
            process = FORK.Process(target=BENCHES[name], args=(Mesh(directory), directory))
            process.start()
            process.join()
        finally:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
