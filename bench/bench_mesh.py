"""The mesh from Python beside its limit in C and beside its peers, in one run.

    make bench-mesh                     all figures
    bench/bench_mesh.py FIGURE ...      some of: cell struct latency stream tensors kills

One JSON line a figure: `ratio` is value / peer; `peer` says which one. 64-byte records unless said.
"""

from __future__ import annotations

import gc
import json
import mmap
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import timeit
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import msgspec
import numpy as np
from mesh_peers import FORK, LATEST, QUEUES, SIZE, MpQueue, Peer, ShmLock, UltraDict

from mesh import Mesh

ROOT = Path(__file__).parent.parent
RECORD = np.dtype([("t", "<u8"), ("x", "<f8", (7,))])
CALLS = 200_000
SAMPLES = 4000
TOTAL = 1 << 20
CAPACITY = 1 << 16
BATCH = 256


class Risk(msgspec.Struct):
    """Six fields."""

    limit: float
    used: float
    trades: int
    symbol: str
    halted: bool
    updated_ns: int


def figure(bench: str, value: float, unit: str, peer: str, other: float | None) -> None:
    """Print one line."""
    line: dict[str, Any] = {"bench": bench, "value": round(value, 3), "unit": unit}
    if other is not None:
        line |= {"peer": peer, "peer_value": round(other, 3), "ratio": round(value / other, 3)}
    print(json.dumps(line), flush=True)


def nanoseconds(statement: str, names: dict[str, Any], calls: int = CALLS) -> float:
    """Median over seven runs of the processor time of one call, ns: neighbours do not count."""
    timer = timeit.Timer(statement, globals=names, timer=time.process_time)
    return median(timer.repeat(7, calls)) / calls * 1e9


def limits(directory: str, *figures: str) -> dict[str, float]:
    """Compile the C program and give its figures; none where there is no compiler."""
    program = Path(directory) / "limits"
    if program.exists():
        return measured(program, *figures)
    flags = ["-O3", "-std=c11", *(["-mcx16"] if os.uname().machine == "x86_64" else [])]
    source = ROOT / "bench/mesh_limits.c"
    try:
        subprocess.run(["cc", *flags, f"-I{ROOT}/mesh/_core", source, "-o", program], check=True)
    except FileNotFoundError:
        print("limits: skipped, apt-get install gcc", file=sys.stderr)
        return {}
    return measured(program, *figures)


def measured(program: Path, *figures: str) -> dict[str, float]:
    """Run the C program for each figure."""
    found = {}
    for name in figures:
        text = subprocess.run([program, name], check=True, capture_output=True, text=True).stdout
        found |= {key: float(value) for key, value in (line.split() for line in text.splitlines())}
    return found


def present(*peers: type[Peer]) -> list[type[Peer]]:
    """Those that are installed; a line for each that is not."""
    for peer in peers:
        if (missing := peer.missing()) is not None:
            print(missing, file=sys.stderr)
    return [peer for peer in peers if peer.missing() is None]


def bench_cell(mesh: Mesh, directory: str) -> None:
    """Write and read the latest record, same process, ns."""
    limit = limits(directory, "cell")
    cell = mesh.cell("cell", RECORD, create=True)
    names: dict[str, Any] = {"cell": cell, "a": np.zeros(1, RECORD), "b": np.ones(1, RECORD)}
    ours = {
        "write": nanoseconds("cell.write(a)", names),
        "read": nanoseconds("cell.read(b)", names),
    }
    for what, value in ours.items():
        figure(f"cell.{what}", value, "ns", "C", limit.get(f"cell.{what}"))
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
    alone = nanoseconds("e.encode(v)", names), nanoseconds("d.decode(b)", names)
    figure("struct.write", nanoseconds("cell.write(v)", names), "ns", "encode alone", alone[0])
    figure("struct.read", nanoseconds("cell.read()", names), "ns", "decode alone", alone[1])


def in_child(body: Callable[[], None], processor: int) -> Any:
    """Run `body` in a forked process on a processor of its own."""

    def run() -> None:
        gc.disable()
        pin(processor)
        body()

    process = FORK.Process(target=run, daemon=True)
    process.start()
    return process


def pin(processor: int) -> None:
    """Stay on one processor, where there are two."""
    if (os.cpu_count() or 1) > processor:
        os.sched_setaffinity(0, {processor})


def delays_of(write: Callable[[int], None], read: Callable[[], int], gap_s: float) -> list[float]:
    """One-way delays in microseconds; `read` gives the stamp of a value it has not given before."""
    results, tell = FORK.Pipe(duplex=False)

    def reader() -> None:
        found = []
        for _ in range(SAMPLES):
            stamp = read()
            found.append((time.monotonic_ns() - stamp) / 1e3)
        tell.send(found)

    process = in_child(reader, 1)
    while not results.poll():
        until = time.perf_counter() + gap_s
        while time.perf_counter() < until:
            pass
        write(time.monotonic_ns())
    found: list[float] = results.recv()
    process.join()
    return found


def mesh_delays(mesh: Mesh, name: str, gap_s: float, *, sleeping: bool) -> list[float]:
    """One-way delays through a cell."""
    cell = mesh.cell(name, RECORD, create=True)
    out, record = np.zeros(1, RECORD), np.zeros(1, RECORD)
    stamps, written = out["t"], record["t"]
    state = {"last": 0}
    reader = mesh.cell(name, RECORD)
    read_record, wait = reader.read, reader.wait_newer
    record["t"] = time.monotonic_ns()

    def write(stamp: int) -> None:
        written[0] = stamp
        cell.write(record)

    def read() -> int:
        last = state["last"]
        if sleeping or last == 0:
            while not wait(last, 1.0):
                pass
        version, _ = read_record(out)
        while version == last:
            version, _ = read_record(out)
        state["last"] = version
        return int(stamps[0])

    return delays_of(write, read, gap_s)


def peer_delays(kind: type[Peer], gap_s: float) -> list[float]:
    """One-way delays through a peer: the latest value is polled, a queue sleeps."""
    peer = kind()
    state = {"opened": False, "last": b""}

    def write(stamp: int) -> None:
        peer.write(stamp.to_bytes(8, "little") + bytes(SIZE - 8))

    def read() -> int:
        if not state["opened"]:
            peer.open_reader()
            state["opened"] = True
        value = peer.read()
        while value is None or value[:8] == bytes(8) or (not kind.queue and value == state["last"]):
            value = peer.read()
        state["last"] = value
        return int.from_bytes(value[:8], "little")

    peer.open_writer()
    try:
        return delays_of(write, read, gap_s)
    finally:
        peer.close()


def percentiles(delays: list[float]) -> tuple[float, float]:
    """p50 and p99, the first tenth left out as warm-up."""
    cuts = quantiles(delays[len(delays) // 10 :], n=100)
    return cuts[49], cuts[98]


def bench_latency(mesh: Mesh, directory: str) -> None:
    """One-way latency from a writer to a reader on another processor, microseconds."""
    limit = limits(directory, "latency")
    pin(0)
    ours = {
        "polling": percentiles(mesh_delays(mesh, "polling", 5e-6, sleeping=False)),
        "sleeping": percentiles(mesh_delays(mesh, "sleeping", 200e-6, sleeping=True)),
    }
    for how, values in ours.items():
        for at, value in zip(("p50", "p99"), values, strict=True):
            name = f"latency.{how}.{at}"
            figure(name, value, "us", "C", limit.get(name))
    figure("latency.polling.p50", ours["polling"][0], "us", "ShmLock",
           percentiles(peer_delays(ShmLock, 5e-6))[0])  # fmt: skip
    for kind in present(*QUEUES):
        other = percentiles(peer_delays(kind, 200e-6))[0]
        figure("latency.sleeping.p50", ours["sleeping"][0], "us", kind.__name__, other)


def mesh_rate(mesh: Mesh, name: str, batch: int, total: int) -> float:
    """Million records a second through a ring, lossless: the writer waits for the reader."""
    ring = mesh.ring(name, RECORD, capacity=CAPACITY, create=True)
    records = np.zeros(batch, RECORD)
    ready, tell = FORK.Pipe(duplex=False)
    cursor = np.frombuffer(mmap.mmap(-1, 4096), np.uint64)

    def reader() -> None:
        out = np.zeros(4096, RECORD)
        reading = mesh.ring(name, RECORD).reader("oldest")
        read, got = reading.read, 0
        tell.send("ready")
        while got < total:
            got += read(out=out)
            cursor[0] = got
        tell.send(reading.lost)

    process = in_child(reader, 1)
    ready.recv()
    publish = ring.publish
    turns = range(max(1024 // batch, 1))
    start = time.perf_counter()
    for first in range(0, total, batch * len(turns)):
        while first - int(cursor[0]) > CAPACITY - 2048:
            pass
        for _ in turns:
            publish(records)
    lost = ready.recv()
    seconds = time.perf_counter() - start
    process.join()
    ring.close()
    mesh.unlink(name)
    assert lost == 0
    return total / seconds / 1e6


def peer_rate(kind: type[Peer], batch: int, total: int) -> float:
    """Million records a second through a queue, `batch` records a message."""
    peer = kind()
    ready, tell = FORK.Pipe(duplex=False)

    def reader() -> None:
        peer.open_reader()
        tell.send("ready")
        for _ in range(total // batch):
            peer.read()
        tell.send("done")

    peer.open_writer()
    process = in_child(reader, 1)
    ready.recv()
    value = bytes(SIZE * batch)
    start = time.perf_counter()
    for _ in range(total // batch):
        peer.write(value)
    ready.recv()
    seconds = time.perf_counter() - start
    process.join()
    peer.close()
    return total / seconds / 1e6


def bench_stream(mesh: Mesh, directory: str) -> None:
    """Records from a writer to a reader, one a call and in batches, million a second."""
    pin(0)
    for batch, name in ((1, "stream.1"), (BATCH, f"stream.{BATCH}")):
        ours, c = [], []
        for _ in range(5):  # in turn, so that both have the same neighbours
            ours.append(mesh_rate(mesh, f"ring-{batch}", batch, 1 << (21 if batch == 1 else 24)))
            c.append(limits(directory, "stream").get(name))
        limit = median(c) if None not in c else None
        figure(name, median(ours), "M/s", "C", limit)
        for kind in present(*QUEUES):
            total = 100_000 if batch == 1 else TOTAL
            other = peer_rate(kind, batch, total // batch * batch)
            figure(name, median(ours), "M/s", kind.__name__, other)


def bench_tensors(mesh: Mesh, directory: str) -> None:
    """10 MB of arrays: publish, read into arrays, borrow; beside one memcpy of as much."""
    limit = limits(directory, "tensors").get("tensors.memcpy")
    like = {f"w{n}": np.full(250_000, n, "<f4") for n in range(10)}
    tensors = mesh.tensors("tensors", like=like, create=True)
    out = {name: np.zeros_like(array) for name, array in like.items()}

    def borrowed() -> None:
        with tensors.borrow() as view:
            assert view["w3"][0] == 3

    for _ in range(4):
        tensors.publish(like)
    tensors.read(out)
    names: dict[str, Any] = {"t": tensors, "like": like, "out": out, "borrowed": borrowed}
    for what, statement in (("publish", "t.publish(like)"), ("read", "t.read(out)")):
        figure(f"tensors.{what}", nanoseconds(statement, names, 20) / 1e6, "ms", "memcpy", limit)
    figure("tensors.borrow", nanoseconds("borrowed()", names, 5000) / 1e3, "us", "", None)
    buffer = np.zeros(10_000_000, "u1")
    flat = np.ones(10_000_000, "u1")
    lock = FORK.Lock()

    def locked() -> None:
        with lock:
            buffer[:] = flat

    other = nanoseconds("locked()", {"locked": locked}, 20) / 1e6
    figure("tensors.publish", nanoseconds("t.publish(like)", names, 20) / 1e6, "ms",
           "copy under mp.Lock, no checksum", other)  # fmt: skip


def killed(write: Callable[[int], None], read: Callable[[], bool], trials: int) -> int:
    """SIGKILL a publishing process `trials` times; how often a reader then hung or saw nonsense."""
    wrong = 0
    for trial in range(trials):
        started, tell = FORK.Pipe(duplex=False)

        def writer(tell: Any = tell, trial: int = trial) -> None:
            write(trial)
            tell.send("x")
            for n in range(1 << 60):
                write(n)

        victim = in_child(writer, 0)
        started.recv()
        time.sleep(0.002 + 0.0001 * (trial % 17))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join()

        def check() -> None:
            os._exit(0 if read() else 1)

        reader = FORK.Process(target=check, daemon=True)
        reader.start()
        reader.join(2.0)
        wrong += reader.exitcode != 0
        if reader.exitcode is None:
            reader.kill()
        reader.join()
    return wrong


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


def usable(peer: Peer) -> bool:
    """Whether a reader gets whole values and a new writer gets through."""
    if isinstance(peer, MpQueue):
        peer.write(b"new" * 8)
        while (value := peer.read()) != b"new" * 8:
            if value is None or value[:8] != value[-8:]:
                return False
        return True
    value = peer.read()
    peer.write(bytes(SIZE))
    return value is not None and value[:8] == value[-8:]


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
