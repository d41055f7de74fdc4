"""Ingest under the daemon: each offset exactly once, whatever is killed or poisoned."""

from __future__ import annotations

import os
import random
import select

import numpy as np
import pytest

from tests.daemons import daemon, until
from tests.flow import reconciles, status

pytestmark = [pytest.mark.broker, pytest.mark.crash]
THREE = """
[workers.broker]
worker = "workers.broker.worker:BrokerWorker"
[workers.ingest]
worker = "workers.ingest.worker:IngestWorker"
depends_on = ["broker"]
restart = { base_delay_s = 0.01, max_delay_s = 0.02, intensity = 1000 }
[workers.replayer]
worker = "workers.replayer.worker:ReplayerWorker"
depends_on = ["ingest"]
"""
FAST = "[replayer]\nspeed = 0.0\nbatch = 500\nmax_ahead = 3000\n"


def assert_exactly_once(reader, seen):
    """Read what is new; offsets of each partition follow each other without gap or repeat."""
    while (rows := reader.read(max_records=100_000)).size:
        for partition in np.unique(rows["partition"]):
            offsets = rows["offset"][rows["partition"] == partition]
            first = seen.get(int(partition), -1) + 1
            assert offsets.tolist() == list(range(first, first + offsets.size))
            seen[int(partition)] = int(offsets[-1])
    assert reader.lost == 0


def test_i5_exactly_once_over_kills_under_load(tmp_path):
    """SIGKILL of ingest at random, again and again, under load: no gap, no repeat, no doubt."""
    rng = random.Random(5)  # a fixed seed: the points differ by scheduling anyway
    with daemon(tmp_path, THREE, FAST) as one:
        pid = one.running("ingest")
        reader = one.mesh.attach("ticks").reader("oldest")
        seen = {}
        until("messages", lambda: status(one, "ingest")["published"] > 2000)
        for _ in range(12):
            select.select([], [], [], rng.uniform(0.0, 0.15))
            os.kill(pid, 9)
            pid = one.running("ingest", other_than=pid)
            assert_exactly_once(reader, seen)
        before = status(one, "ingest")["published"]
        until("more", lambda: status(one, "ingest")["published"] > before + 2000)
        assert one.stop() == 0
        assert_exactly_once(reader, seen)
        found = status(one, "ingest")
        assert reconciles(found)
        assert found["published"] == sum(offset + 1 for offset in seen.values())
        assert found["positions"] == {f"quotes/{p}": o + 1 for p, o in seen.items()}
        assert found["dead_lettered"] == 0
        quotes = one.mesh.attach("quotes")
        assert len(quotes) == 37
        ticks = one.mesh.attach("ticks").view()
        for symbol in quotes.keys():  # noqa: SIM118 - a table is no dict
            newest = ticks[ticks["symbol"] == symbol.encode()]["offset"].max()
            assert quotes.read(symbol)[1]["offset"] == newest


def test_broker_restart_is_survived_by_all(tmp_path):
    """The broker is killed and comes back empty: replayer and ingest go on with the new one."""
    with daemon(tmp_path, THREE, FAST) as one:
        broker = one.running("broker")
        ingest = one.running("ingest")
        until("messages", lambda: status(one, "ingest")["published"] > 2000)
        os.kill(broker, 9)
        one.running("broker", other_than=broker)
        before = status(one, "ingest")["published"]
        incarnation = one.mesh.attach("broker").read()[1]["incarnation"]
        until("the new one", lambda: status(one, "ingest")["incarnation"] == incarnation)
        until("more", lambda: status(one, "ingest")["published"] > before + 2000)
        assert one.worker("ingest")["pid"] == ingest
        assert reconciles(status(one, "ingest"))
