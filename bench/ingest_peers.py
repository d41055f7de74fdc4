"""Parts of bench_ingest.py that run in processes of their own: producers, and the peers."""

from __future__ import annotations

import io
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import fastavro
import numpy as np
from confluent_kafka import OFFSET_END, Consumer, Producer, TopicPartition

from config.ingest import IngestConfig
from workers.contract.quote_schema import FRAME_BYTES, QUOTE_SCHEMA, frame
from workers.ingest.kafka.consumer import profile_options

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


def quotes(count: int) -> list[bytes]:
    """Return `count` bodies of twelve fields, 500 symbols, seeded."""
    rng = np.random.default_rng(7)
    symbols = [
        f"{'SPY' if i % 2 else 'QQQ':<6}26{1 + i % 12:02d}18C{(100 + i) * 1000:08d}"
        for i in range(500)
    ]
    ts = 1_760_000_000_000_000_000
    bodies = []
    for _ in range(count):
        ts += int(rng.integers(1000, 400_000))
        bid = round(float(rng.uniform(5, 50)), 2)
        buffer = io.BytesIO()
        fastavro.schemaless_writer(
            buffer,
            PARSED,
            {
                "symbol": symbols[int(rng.integers(500))],
                "timestamp": ts,
                "bid": bid,
                "ask": bid + 0.25,
                "last": bid + 0.1,
                "volume": int(rng.integers(50_000)),
                "open_interest": int(rng.integers(200_000)),
                "implied_volatility": float(rng.uniform(0.05, 1.5)),
                "delta": float(rng.uniform(-1, 1)),
                "gamma": float(rng.uniform(0, 0.2)),
                "vega": float(rng.uniform(0, 1)),
                "theta": float(rng.uniform(-1, 0)),
            },
        )
        bodies.append(buffer.getvalue())
    return bodies


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
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


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


def produce_forever(servers: str, schema_id: str, rate: str) -> tuple[int, float]:
    """Send until killed."""
    while True:
        produce(servers, schema_id, rate)


PEERS_APART = {
    "latency": peer_latency,
    "poll": peer_poll,
    "poll-unwaited": partial(peer_poll, latency_ms=0),
    "produce": produce,
    "forever": produce_forever,
    "group": peer_group,
}


def main() -> None:
    """Run one part and print its result as JSON."""
    part: Callable[..., Any] = {**PEERS, **PEERS_APART}[sys.argv[1]]
    print(json.dumps(part(*sys.argv[2:])), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
