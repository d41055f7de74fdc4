"""A trainer under the daemon: it learns, publishes, and goes on where it was killed."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest

from tests.daemons import daemon, until
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.trading_env.policy.numpy_policy import checked

pytestmark = pytest.mark.crash
WORKERS = """
[workers.td3-0]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
heartbeat_deadline_s = 20.0
settings = { seed = 5 }
restart = { base_delay_s = 0.01, intensity = 100 }
[workers.shipper]
worker = "workers.shipper.worker:ShipperWorker"
heartbeat_deadline_s = 60.0
required = false
"""
EXTRA = """
[trainer]
hidden = [32, 16]
batch = 32
learning_starts = 500
publish_every = 20
state_every = 10
checkpoint_every = 100
evaluate_every = 100
evaluate_on = "known_optimum"
evaluate_lanes = 4
evaluate_steps = 16
[tracking]
every_updates = 50
"""


def status(one):
    """TrainerStatus as others see it."""
    return one.mesh.attach("status/td3-0").read()[1]


def resumed_beyond(one, updates):
    """Whether it goes on from shared memory and came further."""
    found = status(one)
    return found["resumed_from"] == "shared memory" and found["updates"] > updates + 20


def test_trainer_learns_publishes_and_resumes(tmp_path):
    """Kills amid training: updates never fall below what was stored; the run stays the same."""
    with daemon(tmp_path, WORKERS, EXTRA) as one:
        pid = one.running("td3-0")
        until("waiting", lambda: status(one)["state"].startswith("waiting"))
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(300, 4))
        until("policy", lambda: status(one)["version"] >= 2)
        run = status(one)["run_id"]
        for _ in range(3):
            stored = int(one.mesh.attach("learner/td3-0").read()[1]["updates"])
            os.kill(pid, 9)
            pid = one.running("td3-0", other_than=pid)
            until("resumed", partial(resumed_beyond, one, stored))
            assert int(one.mesh.attach("learner/td3-0").read()[1]["updates"]) >= stored
        assert status(one)["run_id"] == run
        version, arrays = one.mesh.attach("policy/td3-0").read()
        checked(arrays)
        assert version == status(one)["version"] or version > 2
        until("checkpoint", lambda: list((tmp_path / "run/checkpoints/td3-0").glob("checkpoint-*")))
        until("best", lambda: one.mesh.attach("leaderboard").read()[1]["best"] == "td3-0")
        assert np.isfinite(one.mesh.attach("policy/td3-0").read()[1]["score"])
        until("shipped", (tmp_path / "run/tracking/td3-0.place").exists, 120.0)
        ring.close()
        assert one.stop() == 0


def test_nan_reward_never_reaches_a_published_policy(tmp_path):
    """Poisoned records in the ring: passed over and counted, and learning goes on without a NaN."""
    with daemon(tmp_path, WORKERS, EXTRA) as one:
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(300, 4))
        until("policy", lambda: status(one)["version"] >= 2)
        poisoned = steps(200, 4, start=300)
        poisoned["reward"][::5] = np.nan
        ring.publish(poisoned)
        found = until("noticed", lambda: status(one)["faults"] > 20 and status(one))
        until("going on", lambda: status(one)["version"] > found["version"] + 2)
        assert status(one)["skipped"] == status(one)["rollbacks"] == 0
        version, arrays = one.mesh.attach("policy/td3-0").read()
        checked(arrays)
        assert version >= 2
        ring.close()
