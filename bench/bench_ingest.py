"""Ingest beside its peers: the same messages from the same broker in the same run.

    make bench-ingest          all figures
    bench/bench_ingest.py FIGURE ...     some of: decode throughput latency restart memory

The broker is the embedded one in a process of its own. Every consumer is a process of its own and
reads all partitions; the clock runs from its first batch to its last. Peers need the `bench`
extra (confluent-kafka's Avro deserializer, which the dev extra has too).
"""

from __future__ import annotations

import io
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import fastavro
import numpy as np
from confluent_kafka import Consumer, Producer, TopicPartition

from mesh import Mesh, MeshError
from workers.ingest.decode import Decoder
from workers.ingest.mapping import tick_mapping
from workers.ingest.plan import OK
from workers.market_schema import FRAME_BYTES, QUOTE_READER_SCHEMA, QUOTE_SCHEMA, frame

ROOT = Path(__file__).parent.parent

PARTITIONS = 20
PER_PARTITION = 20_000  # below the embedded broker's 5 MiB a partition
TOTAL = PARTITIONS * PER_PARTITION
TOPIC = "quotes"
SCHEMA = {**QUOTE_SCHEMA, "name": "OptionTick", "fields": QUOTE_SCHEMA["fields"][:12]}
PARSED = fastavro.parse_schema(SCHEMA)
FETCH = {
    "group.id": "bench",
    "enable.auto.commit": False,
    "auto.offset.reset": "earliest",
    "fetch.wait.max.ms": 5,
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 262_144,
}


def show(bench: str, value: float, unit: str, peer: float, **more: object) -> None:
    """Print one figure."""
    ratio = round(value / peer, 3) if peer else None
    line = {"bench": bench, "value": round(value, 3), "unit": unit, "peer": round(peer, 3)}
    print(json.dumps({**line, "ratio": ratio, **more}), flush=True)


def quotes(count: int) -> list[bytes]:
    """Give `count` bodies of twelve fields, 500 symbols, seeded."""
    dice = np.random.default_rng(7)
    symbols = [f"{'SPY' if i % 2 else 'QQQ':<6}26{1 + i % 12:02d}18C{(100 + i) * 1000:08d}"
               for i in range(500)]  # fmt: skip
    ts = 1_760_000_000_000_000_000
    bodies = []
    for _ in range(count):
        ts += int(dice.integers(1000, 400_000))
        bid = round(float(dice.uniform(5, 50)), 2)
        buffer = io.BytesIO()
        fastavro.schemaless_writer(buffer, PARSED, {
            "symbol": symbols[int(dice.integers(500))], "timestamp": ts, "bid": bid,
            "ask": bid + 0.25, "last": bid + 0.1, "volume": int(dice.integers(50_000)),
            "open_interest": int(dice.integers(200_000)),
            "implied_volatility": float(dice.uniform(0.05, 1.5)),
            "delta": float(dice.uniform(-1, 1)), "gamma": float(dice.uniform(0, 0.2)),
            "vega": float(dice.uniform(0, 1)), "theta": float(dice.uniform(-1, 0)),
        })  # fmt: skip
        bodies.append(buffer.getvalue())
    return bodies


# --- processes ------------------------------------------------------------------------------


def wait(what: str, condition: Callable[[], Any], watchdog: float = 60.0) -> Any:
    """Give the first true value of `condition()`."""
    deadline = time.monotonic() + watchdog
    while time.monotonic() < deadline:
        try:
            if value := condition():
                return value
        except (MeshError, KeyError, FileNotFoundError):
            pass
        select.select([], [], [], 0.002)
    raise RuntimeError(f"never: {what}")


class Worker:
    """A worker of ours, started alone on a mesh of its own."""

    def __init__(self, kind: str, directory: Path, mesh: Path, *settings: str) -> None:
        pairs = [f"mesh.path={mesh}", f"run_directory={directory}", *settings]
        profile = directory / f"{kind}.toml"
        directory.mkdir(parents=True, exist_ok=True)
        profile.write_text(
            f'[workers.{kind}]\nworker = "workers.{kind}.worker:{kind.capitalize()}Worker"\n'
        )
        sets = [part for pair in pairs for part in ("--set", pair)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", f"workers.{kind}", "--profile", str(profile), *sets],
            cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=(directory / f"{kind}.log").open("ab"),
        )  # fmt: skip

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it."""
        self.process.send_signal(number)
        self.process.wait(30)

    def cpu_s(self) -> float:
        """User and system time so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_mb(self) -> float:
        """Private and shared pages that are mapped in, without the mesh (RssAnon), MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.partition("RssAnon:")[2].split()[0]) / 1024


@contextmanager
def embedded_broker(topics: str) -> Iterator[tuple[Path, Path, dict[str, Any]]]:
    """A mesh with a broker; gives its path, a run directory and the broker's address."""
    mesh = Path(tempfile.mkdtemp(prefix="bench-ingest-", dir="/dev/shm"))
    mesh.rmdir()
    directory = Path(tempfile.mkdtemp(prefix="bench-ingest-"))
    broker = Worker("broker", directory, mesh, f"broker.topics={topics}")
    try:
        yield mesh, directory, wait("broker", lambda: Mesh(mesh).attach("broker").read()[1])
    finally:
        broker.stop(signal.SIGKILL)
        shutil.rmtree(mesh, ignore_errors=True)
        shutil.rmtree(directory, ignore_errors=True)


def register(address: dict[str, Any]) -> int:
    """Register the schema of the bench."""
    request = urllib.request.Request(
        f"{address['registry_url']}/subjects/{TOPIC}-value/versions",
        json.dumps({"schema": json.dumps(SCHEMA)}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        return int(json.load(answer)["id"])


def fill(address: dict[str, Any], messages: list[bytes]) -> None:
    """Fill every partition with the same messages."""
    producer = Producer(
        {"bootstrap.servers": address["bootstrap_servers"], "linger.ms": 50,
         "batch.size": 1_000_000, "queue.buffering.max.messages": 2_000_000}
    )  # fmt: skip
    for partition in range(PARTITIONS):
        for message in messages:
            producer.produce(TOPIC, message, partition=partition)
        producer.flush(60)


# --- peers, each in a process of its own ------------------------------------------------------


def consumer(servers: str) -> Consumer:
    """A consumer of all partitions from their beginning."""
    made = Consumer({"bootstrap.servers": servers, **FETCH})
    made.assign([TopicPartition(TOPIC, partition, 0) for partition in range(PARTITIONS)])
    return made


def drain(servers: str, batch: int, use: Callable[[list[Any]], object]) -> tuple[float, float]:
    """Consume everything; messages/s from the first batch to the last, and CPU us a message."""
    source = consumer(servers)
    taken, first, started, cpu = 0, 0, 0.0, 0.0
    while taken < TOTAL:
        messages = source.consume(batch, 1.0)
        if not messages:
            continue
        if started == 0.0:
            first, started, cpu = len(messages), time.perf_counter(), time.process_time()
        use(messages)
        taken += len(messages)
    elapsed, used = time.perf_counter() - started, time.process_time() - cpu
    return (taken - first) / elapsed, used / (taken - first) * 1e6


def peer_raw(servers: str, _: str) -> tuple[float, float]:
    """`consume()` alone."""
    return drain(servers, 2000, len)


def peer_fastavro(servers: str, _: str) -> tuple[float, float]:
    """`consume()` and fastavro a message."""
    read = fastavro.schemaless_reader

    def use(messages: list[Any]) -> None:
        for message in messages:
            read(io.BytesIO(message.value()[FRAME_BYTES:]), PARSED, None)

    return drain(servers, 2000, use)


def peer_deserializer(servers: str, registry: str) -> tuple[float, float]:
    """`consume()` and Confluent's AvroDeserializer a message."""
    from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415 - an extra
    from confluent_kafka.schema_registry.avro import AvroDeserializer  # noqa: PLC0415 - an extra
    from confluent_kafka.serialization import MessageField, SerializationContext  # noqa: PLC0415 - an extra

    deserialize = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    context = SerializationContext(TOPIC, MessageField.VALUE)

    def use(messages: list[Any]) -> None:
        for message in messages:
            deserialize(message.value(), context)

    return drain(servers, 2000, use)


PEERS = {"raw": peer_raw, "fastavro": peer_fastavro, "deserializer": peer_deserializer}


def run_peer(name: str, address: dict[str, Any]) -> tuple[float, float]:
    """Run a peer in a process of its own."""
    out = subprocess.run(
        [sys.executable, __file__, "--peer", name, address["bootstrap_servers"],
         address["registry_url"]],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    rate, cpu = json.loads(out.stdout)
    return rate, cpu


# --- figures ----------------------------------------------------------------------------------


class Shelf:
    """One schema."""

    def schema(self, _: int) -> str:
        """As SchemaRegistry.schema."""
        return json.dumps(SCHEMA)


def bench_decode() -> None:
    """Decode alone, one core: ours, fastavro."""
    messages = [frame(1, body) for body in quotes(4000)]
    decoder = Decoder(Shelf(), tick_mapping(), QUOTE_READER_SCHEMA, capacity=4000)  # type: ignore[arg-type] # as the registry
    ours, theirs = [], []
    for _ in range(7):
        start = time.perf_counter()
        for _ in range(10):
            _, status = decoder.decode_values(messages)
        ours.append(10 * len(messages) / (time.perf_counter() - start))
        start = time.perf_counter()
        for message in messages:
            fastavro.schemaless_reader(io.BytesIO(message[FRAME_BYTES:]), PARSED, None)
        theirs.append(len(messages) / (time.perf_counter() - start))
    if (status != OK).any():
        raise RuntimeError("not every message was decoded")
    size = sum(map(len, messages)) / len(messages)
    show("ingest.decode", median(ours), "messages/s", median(theirs), peer_is="fastavro",
         bytes=round(size))  # fmt: skip


def run_ours(
    directory: Path, mesh: Path, address: dict[str, Any], *settings: str
) -> tuple[float, float, float]:
    """Ingest over everything: messages/s, CPU us a message, resident MiB."""
    for name in ("ticks", "quotes", "gates", "status"):
        path = mesh / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    servers, url = address["bootstrap_servers"], address["registry_url"]
    worker = Worker(
        "ingest", directory, mesh,
        f"kafka.bootstrap_servers={servers}", f"kafka.registry_url={url}",
        f"ingest.ring_capacity={1 << 19}", "ingest.profile=throughput", *settings,
    )  # fmt: skip
    wait("ring", lambda: Mesh(mesh).attach("ticks").published > 0)
    cpu_then, ring = worker.cpu_s(), Mesh(mesh).attach("ticks")
    count_then = ring.published
    wait("everything", lambda: ring.published >= TOTAL)
    cpu = (worker.cpu_s() - cpu_then) / (TOTAL - count_then) * 1e6
    stamps = ring.view()["ts_ingest"][:TOTAL]
    first = int((stamps == stamps[0]).sum())
    memory = worker.resident_mb()
    worker.stop()
    return (TOTAL - first) / ((int(stamps[-1]) - int(stamps[0])) / 1e9), cpu, memory


def bench_throughput(rounds: int = 3) -> None:
    """Consume, decode, judge, publish: ours beside raw consume() and the users' path."""
    topics = json.dumps({TOPIC: PARTITIONS, "quotes.dead": 1})
    with embedded_broker(topics) as (mesh, directory, address):
        schema_id = register(address)
        fill(address, [frame(schema_id, body) for body in quotes(PER_PARTITION)])
        rates: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
        cpus: dict[str, list[float]] = {name: [] for name in rates}
        for _ in range(rounds):
            rate, cpu, memory = run_ours(directory, mesh, address)
            rates["ours"].append(rate)
            cpus["ours"].append(cpu)
            for name in PEERS:
                rate, cpu = run_peer(name, address)
                rates[name].append(rate)
                cpus[name].append(cpu)
    ours = median(rates["ours"])
    for name in PEERS:
        peer = median(rates[name])
        show("ingest.throughput", ours, "messages/s", peer, peer_is=name)
    show("ingest.cpu", median(cpus["ours"]), "us/message", median(cpus["deserializer"]),
         peer_is="deserializer")  # fmt: skip
    show("ingest.resident", memory, "MiB (anonymous)", 0.0)


FIGURES = {"decode": bench_decode, "throughput": bench_throughput}


def main() -> None:
    """Print one JSON line a figure."""
    if sys.argv[1:2] == ["--peer"]:
        print(json.dumps(PEERS[sys.argv[2]](*sys.argv[3:5])), flush=True)
        os._exit(0)
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
