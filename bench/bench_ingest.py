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
from confluent_kafka import Producer
from ingest_peers import (
    PARSED,
    PARTITIONS,
    PEERS,
    PER_PARTITION,
    SCHEMA,
    TOPIC,
    TOTAL,
    percentiles,
    quotes,
    run_peer,
    start_peer,
)

from mesh import Mesh, MeshError
from workers.contract.quote_schema import FRAME_BYTES, QUOTE_READER_SCHEMA, frame
from workers.ingest.decode.decoder import Decoder
from workers.ingest.decode.mapping import tick_mapping
from workers.ingest.decode.plan import OK

ROOT = Path(__file__).parent.parent


def show(bench: str, value: float, unit: str, peer: float, **more: object) -> None:
    """Print one figure."""
    ratio = round(value / peer, 3) if peer else None
    line = {"bench": bench, "value": round(value, 3), "unit": unit, "peer": round(peer, 3)}
    print(json.dumps({**line, "ratio": ratio, **more}), flush=True)


def wait(what: str, condition: Callable[[], Any], watchdog: float = 60.0) -> Any:
    """Return the first true value of `condition()`."""
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
    """Consume, decode, check, publish: ours beside raw consume() and the users' path."""
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


FIGURES = {
    "decode": bench_decode,
    "throughput": bench_throughput,
    "latency": bench_latency,
    "restart": bench_restart,
    "memory": bench_memory,
}


def main() -> None:
    """Print one JSON line a figure."""
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
