"""What ingest lives in, under a test's control: brokers, a registry with moods, a real daemon."""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from tests.daemons import Daemon, until
from tests.flow import reconciles, status
from workers.broker.cluster import MockCluster
from workers.contract.quote_schema import QUOTE_SCHEMA_TEXT
from workers.replayer.encoder import Encoder
from workers.replayer.synthetic import SyntheticMarket

PAGE = Path(__file__).parents[3] / "docs" / "ingest.md"
TABLE_HEAD = "| injected | observed |"
PARTITIONS = 3
INGEST = """
[workers.ingest]
worker = "workers.ingest.worker:IngestWorker"
restart = { base_delay_s = 0.01, max_delay_s = 0.02, intensity = 1000 }
"""
ROWS = SyntheticMarket(1, "2026-01-05T14:30:00+00:00").read(0, 3000)
GOOD = Encoder(1).encode(ROWS)


class Registry(ThreadingHTTPServer):
    """A registry that knows schema 1 and can be made to misbehave."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Exchange)
        self.mood = "ok"
        self.schemas = {1: QUOTE_SCHEMA_TEXT}
        self.asked = []
        self.released = threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Exchange(BaseHTTPRequestHandler):
    def log_message(self, *_):
        """Stay silent."""

    def do_GET(self):
        """Answer in the mood of the server."""
        server = self.server
        schema_id = int(self.path.rpartition("/")[2])
        server.asked.append(schema_id)
        mood = server.mood
        if mood == "slow":
            server.released.wait(20.0)
            return
        if mood == "drip":
            self.send_response(200)
            self.end_headers()
            while not server.released.wait(0.1):
                self.wfile.write(b" ")
            return
        known = server.schemas.get(schema_id)
        answers = {
            "ok": (200, json.dumps({"schema": known})) if known else (404, '{"error_code": 40403}'),
            "garbage": (200, "<html>it works</html>"),
            "empty": (200, "{}"),
            "huge": (200, json.dumps({"schema": "x" * (5 << 20)})),
        }
        code, text = answers.get(mood) or (int(mood), "no")
        self.send_response(code)
        if code == 429:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


class World:
    """Brokers with `quotes` and `quotes.dead`, a registry, and ingest under the daemon."""

    def __init__(self, directory, extra="", workers=INGEST, front=None):
        self.registry = Registry()
        self.cluster = MockCluster()
        self.cluster.create_topic("quotes", PARTITIONS)
        self.cluster.create_topic("quotes.dead", 1)
        self.front = front(self.cluster) if front is not None else None
        self.servers = (self.front or self.cluster).bootstrap_servers
        self.options = self.front.options if self.front is not None else {}
        self.producer = Producer(
            {"bootstrap.servers": self.servers, "linger.ms": 1, **self.options}
        )
        kafka = f"""
        [kafka]
        bootstrap_servers = "{self.servers}"
        registry_url = "{self.registry.url}"
        options = {{ {", ".join(f'"{k}" = "{v}"' for k, v in self.options.items())} }}
        """
        self.daemon = Daemon(directory, workers, kafka + extra)
        self.mesh = self.daemon.mesh
        self.sent = 0

    def status(self):
        """IngestStatus as others see it."""
        return status(self, "ingest")

    def send(self, values, partition=None, topic="quotes"):
        """Publish values, by turns to the partitions or to one, and wait for their delivery."""
        for number, value in enumerate(values):
            at = number % PARTITIONS if partition is None else partition
            while True:
                try:
                    self.producer.produce(topic, value, key=b"k%d" % number, partition=at)
                    break
                except BufferError:
                    self.producer.poll(0.05)
        assert self.producer.flush(60) == 0
        self.sent += len(values)

    def consumed(self, count):
        """Wait until ingest has accounted for `count` messages in all; gives its status."""

        def enough():
            now = self.status()
            return now if now["consumed"] >= count else None

        try:
            found = until(f"{count} messages", enough)
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.status()}") from error
        assert reconciles(found)
        return found

    def offsets(self):
        """Offsets of each partition in the ring, in the order of the ring."""
        ring = self.mesh.attach("ticks")
        rows = ring.reader("oldest").read(max_records=ring.capacity)
        return {p: rows["offset"][rows["partition"] == p].tolist() for p in range(PARTITIONS)}

    def letters(self, count):
        """Wait for `count` dead letters and give them, in the order of the topic."""
        consumer = Consumer(
            {
                "bootstrap.servers": self.servers,
                "group.id": "letters",
                "fetch.wait.max.ms": 10,
                **self.options,
            }
        )
        consumer.assign([TopicPartition("quotes.dead", 0, 0)])
        got = []
        until(
            f"{count} letters", lambda: got.extend(consumer.consume(500, 0.1)) or len(got) >= count
        )
        got.extend(consumer.consume(500, 0.2))
        consumer.close()
        return got

    def unhurt(self):
        """The worker that started is the one that runs: nothing looked like a crash or a hang."""
        row = self.daemon.worker("ingest")
        assert row["state"] == "running"
        assert row["restarts"] == 0, self.daemon.log.read_text()


@contextmanager
def world(directory, extra="", *, start=True, workers=INGEST, front=None):
    """A world that leaves nothing behind."""
    one = World(directory, extra, workers, front)
    try:
        if start:
            one.daemon.start()
            one.daemon.running("ingest")
        yield one
    finally:
        one.daemon.clean()
        one.registry.released.set()
        one.registry.shutdown()
        one.registry.server_close()
        one.producer.purge()
        one.cluster.close()


def observe(injected, observed):
    """The page of ingest says what this test saw; `INGEST_PAGE=write` brings it up to date."""
    line = f"| {injected} | {observed} |"
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    if line in lines:
        return
    if os.environ.get("INGEST_PAGE") != "write":
        pytest.fail(f"docs/ingest.md lacks {line!r}: INGEST_PAGE=write make test-broker")
    start = f"| {injected} |"
    at = next((i for i, text in enumerate(lines) if text.startswith(start)), None)
    if at is None:
        at = lines.index(TABLE_HEAD)
        while lines[at].startswith("|"):
            at += 1
        lines.insert(at, line)
    else:
        lines[at] = line
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
