"""The replayer under the daemon: every row once, and on after a kill."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.daemons import daemon, until

pytestmark = [pytest.mark.broker, pytest.mark.crash]
LEAN = Path(__file__).parents[3].parent / "shared" / "data" / "lean"
TWO = """
[workers.broker]
worker = "workers.broker.worker:BrokerWorker"
[workers.replayer]
worker = "workers.replayer.worker:ReplayerWorker"
depends_on = ["broker"]
"""


def status(one):
    """ReplayerStatus as others see it."""
    return one.mesh.attach("status/replayer").read()[1]


def consume(one, partitions, enough):
    """Values of all partitions, each from its beginning, until `enough(values)`."""
    _, address = one.mesh.attach("broker").read()
    consumer = Consumer({"bootstrap.servers": address["bootstrap_servers"], "group.id": "t"})
    consumer.assign([TopicPartition("quotes", p, 0) for p in range(partitions)])
    got = []
    until("messages", lambda: got.extend(consumer.consume(1000, 0.1)) or enough(got))
    consumer.close()
    return got


@pytest.mark.skipif(not LEAN.exists(), reason="the recorded market data is not beside the project")
def test_recorded_rows_are_sent_once_and_then_it_is_finished(tmp_path):
    """The smallest recorded day: rows read = produced = what a consumer finds."""
    extra = f"""
[replayer]
data = "{LEAN}"
date = "20151228"
speed = 0.0
loop = false
follow = ""
max_ahead = 1000000
"""
    with daemon(tmp_path, TWO, extra) as one:
        until("finished", lambda: status(one)["finished"])
        found = status(one)
        assert found["rows_read"] == found["produced"] > 500
        assert found["failed"] == 0
        got = consume(one, 2, lambda got: len(got) >= found["produced"])
        assert len(got) == found["produced"]


def test_killed_replayer_goes_on_at_its_position(tmp_path):
    """SIGKILL amid a synthetic stream: nothing is skipped; at most one batch is there twice."""
    extra = '[replayer]\nspeed = 0.0\nfollow = ""\nbatch = 200\nmax_ahead = 20000'
    with daemon(tmp_path, TWO, extra) as one:
        pid = one.running("replayer")
        until("messages", lambda: status(one)["produced"] > 1000)
        os.kill(pid, 9)
        one.running("replayer", other_than=pid)
        before = status(one)["position"]
        until("more", lambda: status(one)["position"] > before + 1000)
        assert one.stop() == 0


def test_missing_data_is_a_readable_reason(tmp_path):
    """A path that is not there: nothing is sent, the status says which and what to do."""
    workers = TWO + "restart = { base_delay_s = 0.01, intensity = 1 }\n"
    with daemon(tmp_path, workers, '[replayer]\ndata = "/nowhere"') as one:
        until("quarantine", lambda: one.worker("replayer")["state"] == "quarantined")
        reason = one.worker("replayer")["reason"]
        assert "/nowhere: no such file or folder; expected" in reason
        assert "set replayer.data" in reason
