"""SIGKILL at random, hundreds of times, under load: every offset in the ring once, in order."""

from __future__ import annotations

import os
import random
import select
import signal
import threading

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.daemons import until
from tests.workers.ingest.world import GOOD, PARTITIONS, observe, world

pytestmark = [pytest.mark.broker, pytest.mark.crash]
POISON_EVERY = 50
PIECE = 150
AHEAD = 20_000


class Source(threading.Thread):
    """Publishes as much as the broker can keep, one message in fifty poison, until stopped."""

    def __init__(self, one):
        super().__init__(daemon=True)
        self.one, self.done = one, threading.Event()
        self.start()

    def run(self):
        """Send piece after piece."""
        pieces = [GOOD[n : n + PIECE] for n in range(0, 3000, PIECE)]
        pieces = [[*piece[:-3], b"bad", b"bad", b"bad"] for piece in pieces]
        number = 0
        while not self.done.is_set():
            if self.one.sent - self.one.status()["consumed"] < AHEAD:  # the broker keeps 5 MiB
                self.one.send(pieces[number % len(pieces)])
                number += 1
            self.done.wait(0.002)


class Reader:
    """Reads the ring as it grows; offsets of a partition only grow, without a gap if not lapped."""

    def __init__(self, one):
        self.reader = until("ring", lambda: one.mesh.attach("ticks")).reader("oldest")
        self.seen = dict.fromkeys(range(PARTITIONS), -1)
        self.rows = 0

    def follow(self):
        """Read what is new."""
        while (rows := self.reader.read(max_records=50_000)).size:
            self.rows += rows.size
            for partition in range(PARTITIONS):
                for offset in rows["offset"][rows["partition"] == partition].tolist():
                    assert offset > self.seen[partition], "again, or out of order"
                    if self.reader.lost == 0:
                        between = range(self.seen[partition] + 1, offset)
                        assert all(n % 50 == 49 for n in between), f"left out {between}"
                    self.seen[partition] = offset


class Letters:
    """Follows the dead-letter topic; a message that comes again must say that it may."""

    def __init__(self, one):
        self.consumer = Consumer({"bootstrap.servers": one.servers, "group.id": "letters"})
        self.consumer.assign([TopicPartition("quotes.dead", 0, 0)])
        self.origins, self.again, self.marked = set(), 0, 0

    def follow(self, wait_s=0.0):
        """Read what is new; tells whether there was something."""
        found = self.consumer.consume(5000, wait_s)
        for letter in found:
            headers = dict(letter.headers())
            origin = tuple(headers[f"__connect.errors.{x}"] for x in ("partition", "offset"))
            self.marked += "mesh.redelivery" in headers
            if origin in self.origins:
                self.again += 1
                assert headers.get("mesh.redelivery") == b"possible", origin
            self.origins.add(origin)
        return bool(found)


def kill_again_and_again(directory, kills, capacity):
    """Kill ingest at random moments under load; gives what was counted at the end."""
    rng = random.Random(11)  # a fixed seed: the points differ by scheduling anyway
    extra = f"[ingest]\nring_capacity = {capacity}\nbatch = 256\n"
    with world(directory, extra) as one:
        pid = one.daemon.running("ingest")
        reader = Reader(one)
        until("status", lambda: one.status() is not None)
        letters = Letters(one)
        source = Source(one)
        until("messages", lambda: one.status()["consumed"] > 300)
        for _ in range(kills):
            select.select([], [], [], rng.uniform(0.0, 0.12))
            os.kill(pid, signal.SIGKILL)
            reader.follow()
            letters.follow()
            pid = one.daemon.running("ingest", other_than=pid)
        source.done.set()
        source.join()
        status = one.consumed(one.sent)
        reader.follow()
        assert status["consumed"] == one.sent
        assert status["dead_lettered"] == one.sent // POISON_EVERY
        assert status["positions"] == {
            f"quotes/{p}": one.sent // PARTITIONS for p in range(PARTITIONS)
        }
        until("letters", lambda: not letters.follow(0.5))
        assert len(letters.origins) == status["dead_lettered"]
        letters.consumer.close()
        assert reader.rows + reader.reader.lost == status["published"]
        assert status["published"] + status["dead_lettered"] == one.sent
        return one.sent, reader.rows, reader.reader.lost, letters.again


def test_i5_every_offset_once_over_kills(tmp_path):
    """Fifteen kills under load, one message in fifty poison."""
    kill_again_and_again(tmp_path, 15, 1 << 17)


@pytest.mark.stress
@pytest.mark.timeout(900)
@pytest.mark.parametrize("capacity", [1 << 17, 1024])
def test_i5_every_offset_once_over_hundreds_of_kills(tmp_path, capacity):
    """Two hundred kills; the ring is large, or so small that it is lapped again and again."""
    kill_again_and_again(tmp_path, 200, capacity)
    ring = "large" if capacity > 1024 else "lapped again and again"
    observe(
        f"`kill -9` of ingest 200 times at random under load, 3 partitions, the ring {ring}",
        "each offset in the ring once and in order; every poison dead-lettered",
    )
