"""The whole loop as tests see it: a profile with every worker, and what must add up in it."""

from __future__ import annotations

import numpy as np

#: Every worker of the loop; the replayer starts last, so that no data is missed.
LOOP = """
[workers.broker]
worker = "workers.broker.worker:BrokerWorker"
[workers.ingest]
worker = "workers.ingest.worker:IngestWorker"
depends_on = ["broker"]
heartbeat_deadline_s = 5.0
restart = { base_delay_s = 0.01, intensity = 1000 }
[workers.feeder]
worker = "workers.feeder.worker:FeederWorker"
depends_on = ["ingest"]
heartbeat_deadline_s = 5.0
restart = { base_delay_s = 0.01, intensity = 1000 }
[workers.td3-0]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
depends_on = ["feeder"]
heartbeat_deadline_s = 10.0
restart = { base_delay_s = 0.01, intensity = 1000 }
[workers.td3-1]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
depends_on = ["feeder"]
heartbeat_deadline_s = 10.0
restart = { base_delay_s = 0.01, intensity = 1000 }
settings = { seed = 1 }
[workers.replayer]
worker = "workers.replayer.worker:ReplayerWorker"
depends_on = ["feeder", "td3-0", "td3-1"]
heartbeat_deadline_s = 10.0
restart = { base_delay_s = 0.01, intensity = 1000 }
"""
#: Small networks and short waits: the tests are about the loop, not about how well it learns.
SMALL = """
[trainer]
hidden = [32, 32]
batch = 32
learning_starts = 256
publish_every = 20
state_every = 10
[feeder]
lanes = 16
"""
TRAINERS = ("td3-0", "td3-1")


def status(one, worker):
    """The status cell of a worker as others see it."""
    return one.mesh.attach(f"status/{worker}").read()[1]


def reconciles(found):
    """Whether every message that ingest consumed is accounted for."""
    parts = ("published", "dead_lettered", "dropped", "conflated", "skipped")
    return found["consumed"] == sum(found[part] for part in parts)


class Sequence:
    """Follows a ring from its start and asserts that no record is missing or repeated."""

    def __init__(self, ring):
        self._reader = ring.reader(0)
        self.offsets = {}

    def read(self, dtype=None):
        """Return new records; the reader's own sequence has neither gap nor repeat."""
        parts = []
        while (rows := self._reader.read(max_records=65536)).size:
            parts.append(rows)
        assert self._reader.lost == 0, "the ring of this test is too small, or records are lost"
        return np.concatenate(parts) if parts else np.zeros(0, dtype)

    def read_ticks(self):
        """Return new ticks after checking that the offsets of each partition are consecutive."""
        rows = self.read()
        for partition in np.unique(rows["partition"]) if rows.size else ():
            offsets = rows["offset"][rows["partition"] == partition]
            first = self.offsets.get(int(partition), -1) + 1
            assert (offsets == np.arange(first, first + offsets.size)).all()
            self.offsets[int(partition)] = int(offsets[-1])
        return rows
