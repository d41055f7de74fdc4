"""Where ingest stands: slow readers, bursts, lost history, rewinds, groups of hosts."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.daemons import ROOT, Daemon, daemon, until
from tests.flow import status
from tests.workers.ingest.test_worker import THREE, assert_exactly_once
from tests.workers.ingest.world import GOOD, INGEST, PARTITIONS, ROWS, observe, world
from workers.contract.names import cursor_segment
from workers.contract.statuses import ReaderCursor

pytestmark = [pytest.mark.broker, pytest.mark.crash]
SMALL = '[ingest]\nring_capacity = 1024\nbatch = 128\nfollowers = ["slow", "dead"]\n'


class Follower:
    """A reader of the ring that publishes how far it got."""

    def __init__(self, one):
        self.cell = one.mesh.cell(cursor_segment("slow"), ReaderCursor, create=True)
        self.reader = until("ring", lambda: one.mesh.attach("ticks")).reader("oldest")
        self.seen = []
        self.publish()

    def publish(self):
        """Write the cursor."""
        self.cell.write(ReaderCursor(ring="ticks", sequence=self.reader.sequence))

    def read(self, max_records):
        """Read, and publish the cursor."""
        rows = self.reader.read(max_records=max_records)
        self.seen += zip(rows["partition"].tolist(), rows["offset"].tolist(), strict=True)
        self.publish()
        return rows.size


def test_block_never_overtakes_a_follower(tmp_path):
    """A reader that sleeps is waited for, one that is dead is not; it loses nothing."""
    with world(tmp_path, SMALL) as one:
        follower = Follower(one)
        one.send(GOOD[:2400])
        until("blocked", lambda: "slow is slow" in one.status()["state"])
        assert one.status()["published"] <= 512
        until("all", lambda: (follower.read(100) and False) or len(follower.seen) == 2400)
        assert follower.reader.lost == 0
        one.consumed(2400)
        is_followed = {p: [o for q, o in follower.seen if q == p] for p in range(PARTITIONS)}
        assert is_followed == {p: list(range(800)) for p in range(PARTITIONS)}
        one.unhurt()
        observe(
            "a follower that sleeps, `block` (2,400 messages, a ring of 1,024)",
            "ingest stops at half a ring, the follower gets all 2,400; no restart",
        )


def test_conflate_publishes_the_newest_of_each_symbol(tmp_path):
    """Behind a sleeping reader the newest of each symbol is published, the rest counted."""
    with world(tmp_path, SMALL + 'back_pressure = "conflate"\n') as one:
        Follower(one)
        one.send(GOOD[:2400])
        status = one.consumed(2400)
        assert status["conflated"] > 500
        assert status["published"] == one.mesh.attach("ticks").published
        quotes = one.mesh.attach("quotes")
        for symbol in np.unique(ROWS["symbol"][:2400]).tolist():
            row = quotes.read(symbol)[1]
            newest = np.flatnonzero(ROWS["symbol"][:2400] == symbol)
            of_partition = newest[newest % PARTITIONS == row["partition"]]
            assert PARTITIONS * row["offset"] + row["partition"] == of_partition.max()
        observe(
            "a follower that sleeps, `conflate`",
            "newest of each symbol and batch published, the others counted as conflated",
        )


def test_skip_to_end_counts_what_it_leaves_out(tmp_path):
    """Behind a sleeping reader ingest goes to the newest messages; all are accounted for."""
    with world(tmp_path, SMALL + 'back_pressure = "skip_to_end"\n') as one:
        follower = Follower(one)
        one.send(GOOD[:2400])
        status = one.consumed(2400)
        assert status["skipped"] > 0
        assert status["published"] + status["skipped"] == 2400
        assert status["errors"]["skipped"] >= 1
        until("caught up", lambda: follower.read(1024) == 0)
        one.send(GOOD[:30])
        assert one.consumed(2430)["skipped"] == status["skipped"]
        observe(
            "a follower that sleeps, `skip_to_end`",
            "goes to the newest, what lies between is counted as skipped and logged",
        )


def test_bursts_are_taken_whole(tmp_path, data):
    """Recorded messages, twice a second 60 times the mean over 10 ms: all once, nobody lapped."""
    count = 10_000
    bursts = f"""
    [replayer]
    data = "{data}/hftbacktest/usdm_btcusdt_20240808.gz"
    speed = 4.0
    burst_every_s = 0.5
    burst_length_s = 0.01
    burst_factor = 60.0
    rows = {count}
    """
    with daemon(tmp_path, THREE, bursts) as one:
        one.running("ingest")
        ring = until("ring", lambda: one.mesh.attach("ticks"))
        reader, offsets = ring.reader("oldest"), {}

        def all_there():
            assert_exactly_once(reader, offsets)
            return status(one, "ingest")["published"] >= count

        until("all", all_there)
        assert status(one, "ingest")["consumed"] == count
        assert sum(offset + 1 for offset in offsets.values()) == count
        assert one.worker("ingest")["restarts"] == 0
        observe(
            "recorded messages, twice a second 60 times the mean over 10 ms (10,000 messages)",
            "all published once, in order, no reader lapped; no restart",
        )


def test_what_the_broker_deleted_is_counted_as_lost(tmp_path):
    """Ingest is away while a partition outgrows the broker's 5 MiB: the gap is counted."""
    with world(tmp_path) as one:
        one.send(GOOD[:30], partition=0)
        one.consumed(30)
        assert one.daemon.stop() == 0
        for _ in range(20):
            one.send(GOOD, partition=0)
        one.daemon.start()
        one.daemon.running("ingest")
        until("caught up", lambda: one.status()["positions"]["quotes/0"] == 60_030)
        status = one.status()
        assert status["lost"] > 0
        assert status["consumed"] + status["lost"] == 60_030
        ring = one.mesh.attach("ticks")
        rows = ring.reader("oldest").read(max_records=ring.capacity)
        assert rows["offset"].tolist() == [*range(30), *range(30 + status["lost"], 60_030)]
        observe(
            "60,000 messages while ingest is away, the broker keeps only 5 MiB",
            "goes on at the oldest one kept, the gap is counted as lost to the message",
        )


def test_an_operator_rewinds(tmp_path):
    """A partition is read again from an offset on; it is done once, and counted."""
    with world(tmp_path) as one:
        one.send(GOOD[:300])
        one.consumed(300)
        command = [
            sys.executable,
            "-m",
            "workers.ingest.kafka.rewind",
            "--mesh",
            str(one.mesh.path),
        ]
        wrong = [*command, "quotes/9=0"]
        refused = subprocess.run(wrong, cwd=ROOT, capture_output=True, text=True, check=False)
        assert refused.returncode == 64
        assert "quotes/0" in refused.stderr
        subprocess.run([*command, "quotes/1=40"], cwd=ROOT, check=True)
        status = one.consumed(360)
        assert status["rewinds"] == 1
        pid = one.daemon.worker("ingest")["pid"]
        os.kill(pid, 9)
        one.daemon.running("ingest", other_than=pid)
        one.send(GOOD[:3])
        one.consumed(363)
        found = one.offsets()
        assert found[1] == [*range(100), *range(40, 101)]
        assert found[0] == found[2] == list(range(101))
        observe(
            "an operator rewinds a partition by 60 messages, then ingest is killed",
            "those 60 are published again, once; `rewinds` is 1",
        )


@pytest.mark.stress
def test_two_hosts_share_the_partitions(tmp_path):
    """A second host joins and leaves the group: each message is published on one of them."""
    group = '[kafka]\ngroup = "hosts"\n'
    # the embedded broker waits out the session where others wait for the members alone
    options = 'options = { "session.timeout.ms" = "6000", "heartbeat.interval.ms" = "500" }'
    with world(tmp_path, start=False) as one:
        profile = one.daemon.profile.read_text().replace("[kafka]", group)
        profile = profile.replace("options = {  }", options)
        one.daemon.profile.write_text(profile)
        one.daemon.start()
        one.daemon.running("ingest")
        one.send(GOOD[:300])
        one.consumed(300)
        # the embedded broker refuses commits while members come and go, where others take them
        asked = Consumer({"bootstrap.servers": one.servers, "group.id": "hosts"})
        places = [TopicPartition("quotes", p) for p in range(PARTITIONS)]
        until("committed", lambda: all(at.offset == 100 for at in asked.committed(places, 10)))
        asked.close()
        (tmp_path / "second").mkdir()
        second = Daemon(tmp_path / "second", INGEST)
        second.profile.write_text(
            profile.replace(str(one.daemon.mesh_path), str(second.mesh_path)).replace(
                f"{tmp_path}/run", f"{tmp_path}/second/run"
            )
        )
        try:
            second.start()

            def status():
                return second.mesh.attach("status/ingest").read()[1]

            def count():
                return one.status()["consumed"] + status()["consumed"]

            until("shared", lambda: len(status()["lag"]) in {1, 2})
            until("both", lambda: one.send(GOOD[:300]) or status()["published"])
            until("all", lambda: count() == one.sent)
            assert second.stop() == 0
            one.send(GOOD[:300])
            until("all again", lambda: count() == one.sent)
            both = [one.mesh.attach("ticks"), second.mesh.attach("ticks")]
            rows = np.concatenate([r.reader("oldest").read(max_records=r.capacity) for r in both])
            for partition in range(PARTITIONS):
                offsets = np.sort(rows["offset"][rows["partition"] == partition])
                assert offsets.tolist() == list(range(one.sent // PARTITIONS))
        finally:
            second.clean()
        observe(
            "a second host joins the consumer group and leaves again",
            "partitions are shared and given back; each message on one host, once",
        )
