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
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import fastavro
import numpy as np
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from config.ingest import IngestConfig
from mesh import Mesh, MeshError
from workers.contract.quote_schema import FRAME_BYTES, QUOTE_READER_SCHEMA, QUOTE_SCHEMA, frame
from workers.ingest.decode.decoder import Decoder
from workers.ingest.decode.mapping import tick_mapping
from workers.ingest.decode.plan import OK
from workers.ingest.kafka.consumer import profile_options

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
    symbols = [
        f"{'SPY' if i % 2 else 'QQQ':<6}26{1 + i % 12:02d}18C{(100 + i) * 1000:08d}"
        for i in range(500)
    ]
    ts = 1_760_000_000_000_000_000
    bodies = []
    for _ in range(count):
        ts += int(dice.integers(1000, 400_000))
        bid = round(float(dice.uniform(5, 50)), 2)
        buffer = io.BytesIO()
        fastavro.schemaless_writer(
            buffer,
            PARSED,
            {
                "symbol": symbols[int(dice.integers(500))],
                "timestamp": ts,
                "bid": bid,
                "ask": bid + 0.25,
                "last": bid + 0.1,
                "volume": int(dice.integers(50_000)),
                "open_interest": int(dice.integers(200_000)),
                "implied_volatility": float(dice.uniform(0.05, 1.5)),
                "delta": float(dice.uniform(-1, 1)),
                "gamma": float(dice.uniform(0, 0.2)),
                "vega": float(dice.uniform(0, 1)),
                "theta": float(dice.uniform(-1, 0)),
            },
        )
        bodies.append(buffer.getvalue())
    return bodies


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
            cwd=ROOT,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=(directory / f"{kind}.log").open("ab"),
        )

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
        {
            "bootstrap.servers": address["bootstrap_servers"],
            "linger.ms": 50,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 2_000_000,
        }
    )
    for partition in range(PARTITIONS):
        for message in messages:
            producer.produce(TOPIC, message, partition=partition)
        producer.flush(60)


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
        [
            sys.executable,
            __file__,
            "--peer",
            name,
            address["bootstrap_servers"],
            address["registry_url"],
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    rate, cpu = json.loads(out.stdout)
    return rate, cpu


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
    show(
        "ingest.decode",
        median(ours),
        "messages/s",
        median(theirs),
        peer_is="fastavro",
        bytes=round(size),
    )


def run_ours(
    directory: Path, mesh: Path, address: dict[str, Any], *settings: str
) -> tuple[float, float]:
    """Ingest over everything: messages/s and CPU us a message."""
    for name in ("ticks", "quotes", "gates", "status"):
        path = mesh / name
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    servers, url = address["bootstrap_servers"], address["registry_url"]
    worker = Worker(
        "ingest",
        directory,
        mesh,
        f"kafka.bootstrap_servers={servers}",
        f"kafka.registry_url={url}",
        f"kafka.commit_group=bench-{time.time_ns()}",  # every round begins at the beginning
        "ingest.profile=throughput",
        *settings,
    )
    wait("ring", lambda: Mesh(mesh).attach("ticks").published > 0)
    cpu_then, ring = worker.cpu_s(), Mesh(mesh).attach("ticks")
    count_then, stamps = ring.published, ring.view()["ts_ingest"][: ring.published].copy()
    wait("everything", lambda: ring.published >= TOTAL)
    cpu = (worker.cpu_s() - cpu_then) / (TOTAL - count_then) * 1e6
    first, began = int((stamps == stamps[0]).sum()), int(stamps[0])
    ended = int(ring.view()["ts_ingest"][(TOTAL - 1) % ring.capacity])
    worker.stop()
    return (TOTAL - first) / ((ended - began) / 1e9), cpu


def bench_throughput(rounds: int = 3) -> None:
    """Consume, decode, judge, publish: ours beside raw consume() and the users' path."""
    topics = json.dumps({TOPIC: PARTITIONS, "quotes.dead": 1})
    with embedded_broker(topics) as (mesh, directory, address):
        schema_id = register(address)
        fill(address, [frame(schema_id, body) for body in quotes(PER_PARTITION)])
        rates: dict[str, list[float]] = {name: [] for name in ("ours", *PEERS)}
        cpus: dict[str, list[float]] = {name: [] for name in rates}
        for _ in range(rounds):
            rate, cpu = run_ours(directory, mesh, address)
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
    for name in ("raw", "deserializer"):
        cpu = median(cpus["ours"])
        show("ingest.cpu", cpu, "us/message", median(cpus[name]), peer_is=name)


SECONDS = 4.0


def body_now() -> bytes:
    """A body whose timestamp is the wall clock's, ns."""
    buffer = io.BytesIO()
    record = dict.fromkeys((f["name"] for f in SCHEMA["fields"]), 1.0)
    record |= {"symbol": "SPY", "timestamp": time.time_ns(), "volume": 1, "open_interest": 1}
    fastavro.schemaless_writer(buffer, PARSED, record)
    return buffer.getvalue()


def produce(servers: str, schema_id: str, rate: str) -> tuple[int, float]:
    """Send messages stamped with their time, `rate` a second, to three partitions."""
    linger_ms = 0 if int(rate) < 5000 else 2  # the broker answers a fetch with one request's worth
    producer = Producer(
        {"bootstrap.servers": servers, "linger.ms": linger_ms, "socket.nagle.disable": True}
    )
    sent = 0
    producer.list_topics(timeout=10)
    start = time.monotonic()
    while (elapsed := time.monotonic() - start) < SECONDS:
        while sent < elapsed * int(rate):
            producer.produce(TOPIC, frame(int(schema_id), body_now()), partition=sent % 3)
            sent += 1
        producer.poll(0)
        select.select([], [], [], 0.00025)
    producer.flush(10)
    return sent, SECONDS


def peer_latency(servers: str, registry: str) -> tuple[float, float]:
    """The users' path: consume(100, 1.0) with default options, AvroDeserializer a message."""
    from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: PLC0415 - an extra
    from confluent_kafka.schema_registry.avro import AvroDeserializer  # noqa: PLC0415 - an extra

    read = AvroDeserializer(SchemaRegistryClient({"url": registry}))
    source = Consumer({"bootstrap.servers": servers, "group.id": "latency"})
    source.assign([TopicPartition(TOPIC, partition, OFFSET_END) for partition in range(3)])
    source.poll(1.0)
    taken: list[float] = []
    quiet = time.monotonic() + SECONDS + 6.0
    while time.monotonic() < quiet:
        for message in source.consume(100, 1.0):
            value = read(message.value(), None)
            taken.append((time.time_ns() - value["timestamp"]) / 1e6)
            quiet = time.monotonic() + 1.5
    return percentiles(taken)


def peer_poll(servers: str, _: str, latency_ms: int = 1) -> tuple[float, float]:
    """The limit: a bare poll() tuned as ours is; nothing is decoded until all has come."""
    config = IngestConfig(latency_ms=latency_ms)
    source = Consumer({"bootstrap.servers": servers, "group.id": "poll", **profile_options(config)})
    source.assign([TopicPartition(TOPIC, partition, OFFSET_END) for partition in range(3)])
    source.poll(1.0)
    found: list[tuple[int, bytes]] = []
    quiet = time.monotonic() + SECONDS + 6.0
    while time.monotonic() < quiet:
        first = source.poll(0.05)
        if first is not None:
            now, messages = time.time_ns(), [first, *source.consume(8191, 0.0)]
            found += [(now, message.value()[FRAME_BYTES:]) for message in messages]
            quiet = time.monotonic() + 1.0
    taken = []
    for came, body in found:
        sent: Any = fastavro.schemaless_reader(io.BytesIO(body), PARSED, None)
        taken.append((came - sent["timestamp"]) / 1e6)
    return percentiles(taken)


def percentiles(values: list[float]) -> tuple[float, float]:
    """Median and 99th."""
    found = sorted(values)
    return found[len(found) // 2], found[int(len(found) * 0.99)]


def start_peer(*arguments: str) -> subprocess.Popen[str]:
    """Start a part of the bench in a process of its own."""
    command = [sys.executable, __file__, "--peer", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


#: (who, its process) by rate and what a fetch may wait (ms); the limit is a bare poll() tuned alike
LIMIT, UNWAITED = ("poll() alone", "poll"), ("poll() alone", "poll-unwaited")
LATENCY_PEERS = {
    ("1000", 1): (("defaults", "latency"), LIMIT),
    ("1000", 0): (UNWAITED,),
    ("10000", 1): (LIMIT,),
}


def peers_latency(peer: str, rate: str) -> list[float]:
    """A peer alone at `rate` messages a second: p50, p99 in ms."""
    with embedded_broker(json.dumps({TOPIC: 3, "quotes.dead": 1})) as (_, _, address):
        schema_id, servers = str(register(address)), address["bootstrap_servers"]
        reader = start_peer(peer, servers, address["registry_url"])
        select.select([], [], [], 3.0)
        start_peer("produce", servers, schema_id, rate).communicate(timeout=60)
        return [float(x) for x in json.loads(reader.communicate(timeout=60)[0])]


def our_latency(rate: str, latency_ms: int) -> tuple[list[float], list[float], str]:
    """Milliseconds to a row that a sleeping reader has in hand, and to it being decoded."""
    with embedded_broker(json.dumps({TOPIC: 3, "quotes.dead": 1})) as (mesh, directory, address):
        schema_id, servers = str(register(address)), address["bootstrap_servers"]
        worker = Worker("ingest", directory, mesh, f"ingest.latency_ms={latency_ms}")
        ring = wait("ring", lambda: Mesh(mesh).attach("ticks"))
        wait("ingest", lambda: Mesh(mesh).attach("status/ingest").read()[1]["state"] == "running")
        reader, taken, decoded = ring.reader("latest"), [], []
        source = start_peer("produce", servers, schema_id, rate)
        while True:
            if reader.wait_published(0.5):
                rows = reader.read(max_records=4096)
                taken += ((time.time_ns() - rows["ts_event"]) / 1e6).tolist()
                decoded += ((rows["ts_ingest"] - rows["ts_event"]) / 1e6).tolist()
            elif source.poll() is not None:
                break
        sent = json.loads(source.communicate(timeout=30)[0])[0]
        worker.stop()
    return taken, decoded, f"{len(taken)} of {sent}"


def bench_latency() -> None:
    """From produce() to a row in a reader's hand, peers one by one, each with a new broker.

    The embedded one answers the later the more requests' worth of messages a partition holds.
    """
    for (rate, latency_ms), names in LATENCY_PEERS.items():
        taken, decoded, received = our_latency(rate, latency_ms)
        for who, peer in names:
            theirs = peers_latency(peer, rate)
            for number, name in enumerate(("p50", "p99")):
                value, at = percentiles(taken)[number], round(percentiles(decoded)[number], 3)
                show(
                    f"ingest.latency.{rate}.{name}",
                    value,
                    "ms",
                    theirs[number],
                    peer_is=who,
                    decoded=at,
                    received=received,
                    fetch_wait_ms=latency_ms,
                )


def peer_group(servers: str, _: str) -> tuple[float, float]:
    """A consumer of a group with a short session: from its start to a message of each partition."""
    start = time.monotonic()
    source = Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": "restart",
            "session.timeout.ms": 6000,
            "auto.offset.reset": "latest",
        }
    )
    source.subscribe([TOPIC])
    seen: set[int | None] = set()
    while len(seen) < 3:
        seen |= {m.partition() for m in source.consume(100, 0.1) if m.error() is None}
    elapsed = time.monotonic() - start
    print(json.dumps([elapsed, 0.0]), flush=True)
    select.select([], [], [], 120.0)
    return elapsed, 0.0


def bench_restart(kills: int = 10) -> None:
    """From kill -9 of ingest to a fresh row of every partition, under the daemon."""
    with embedded_broker(json.dumps({TOPIC: 3, "quotes.dead": 1})) as (mesh, directory, address):
        schema_id, servers = str(register(address)), address["bootstrap_servers"]
        profile = directory / "meshd.toml"
        profile.write_text(
            f'run_directory = "{directory}"\n[mesh]\npath = "{mesh}"\n'
            f'[kafka]\nbootstrap_servers = "{servers}"\n'
            f'registry_url = "{address["registry_url"]}"\n'
            "[ingest]\nlatency_ms = 1\n"
            '[workers.ingest]\nworker = "workers.ingest.worker:IngestWorker"\n'
            'nursery = "plain"\n'
            "restart = { base_delay_s = 0.01, max_delay_s = 0.01, intensity = 1000 }\n"
        )
        daemon = subprocess.Popen(
            [sys.executable, "-m", "supervisor", "--profile", str(profile)],
            cwd=ROOT,
            stderr=(directory / "meshd.log").open("ab"),
            start_new_session=True,
        )
        source = start_peer("forever", servers, schema_id, "1000")
        try:
            ring = wait("rows", lambda: (r := Mesh(mesh).attach("ticks")).published > 100 and r)
            ours = [milliseconds_to_fresh(mesh, ring) for _ in range(kills)]
            theirs = [seconds_of_group(servers) for _ in range(2)][1] * 1000
        finally:
            for process in (source, daemon):
                process.terminate()
                process.wait(30)
    show(
        "ingest.restart",
        median(ours),
        "ms",
        theirs,
        peer_is="consumer group, session 6 s",
        worst=round(max(ours), 1),
    )


def milliseconds_to_fresh(mesh: Path, ring: Any) -> float:
    """Kill ingest; time until every partition has a row that was ingested afterwards."""
    select.select([], [], [], 0.3)
    pid = next(row.pid for row in Mesh(mesh).heartbeats().rows() if row.worker == "ingest")
    reader = ring.reader("latest")
    killed = time.time_ns()
    os.kill(pid, signal.SIGKILL)
    fresh: dict[int, int] = {}
    while len(fresh) < 3:
        reader.wait_published(5.0)
        rows = reader.read(max_records=4096)
        for row in rows[rows["ts_ingest"] > killed]:
            fresh.setdefault(int(row["partition"]), int(row["ts_ingest"]))
    return (max(fresh.values()) - killed) / 1e6


def seconds_of_group(servers: str) -> float:
    """Time of a member that follows one that was killed."""
    peer = start_peer("group", servers, "-")
    if peer.stdout is None:
        raise RuntimeError("no pipe")
    elapsed = float(json.loads(peer.stdout.readline())[0])
    peer.kill()
    peer.wait()
    return elapsed


def produce_forever(servers: str, schema_id: str, rate: str) -> tuple[int, float]:
    """Send until killed."""
    while True:
        produce(servers, schema_id, rate)


def bench_memory(rounds: int = 9) -> None:
    """Resident memory after 400,000 messages and after an hour's worth at 1,000 a second."""
    topics = json.dumps({TOPIC: PARTITIONS, "quotes.dead": 1})
    with embedded_broker(topics) as (mesh, directory, address):
        messages = [frame(register(address), body) for body in quotes(PER_PARTITION)]
        servers, url = address["bootstrap_servers"], address["registry_url"]
        worker = Worker(
            "ingest",
            directory,
            mesh,
            f"kafka.bootstrap_servers={servers}",
            f"kafka.registry_url={url}",
        )
        ring = wait("ring", lambda: Mesh(mesh).attach("ticks"))
        sizes = []
        for number in range(rounds):
            fill(address, messages)
            wait("all", lambda n=number: ring.published >= (n + 1) * TOTAL)
            sizes.append(worker.resident_mb())
        worker.stop()
    show(
        "ingest.resident",
        sizes[-1],
        "MiB (anonymous)",
        sizes[0],
        peer_is="itself after 400,000 messages",
        messages=rounds * TOTAL,
    )


PEERS_APART = {
    "latency": peer_latency,
    "poll": peer_poll,
    "poll-unwaited": partial(peer_poll, latency_ms=0),
    "produce": produce,
    "forever": produce_forever,
    "group": peer_group,
}
FIGURES = {
    "decode": bench_decode,
    "throughput": bench_throughput,
    "latency": bench_latency,
    "restart": bench_restart,
    "memory": bench_memory,
}


def main() -> None:
    """Print one JSON line a figure."""
    if sys.argv[1:2] == ["--peer"]:
        peer: Callable[..., Any] = {**PEERS, **PEERS_APART}[sys.argv[2]]
        print(json.dumps(peer(*sys.argv[3:])), flush=True)
        os._exit(0)
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
