"""Several trainers from one stream: when the best is quarantined the next acts, without a gap."""

from __future__ import annotations

import contextlib
import os

import pytest

from tests.daemons import daemon, until
from tests.workers.trainer.experience import steps
from workers.feeder.policies import Policies
from workers.records import EXPERIENCE_DTYPE

pytestmark = pytest.mark.crash
TRAINER = """
[workers.{0}]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
heartbeat_deadline_s = 20.0
required = false
settings = {{ seed = {1}, learning_rate = {2} }}
restart = {{ base_delay_s = 0.01, max_delay_s = 0.05, intensity = 2 }}
"""
EXTRA = """
[trainer]
hidden = [32, 16]
batch = 32
learning_starts = 400
publish_every = 20
state_every = 20
evaluate_every = 60
evaluate_on = "known_optimum"
evaluate_lanes = 4
evaluate_steps = 16
"""
NAMES = ["td3-0", "td3-1"]


def test_hand_over_when_the_best_is_quarantined(tmp_path):
    """Two learners of one ring; the leader is killed until it is quarantined: the other leads, and
    at no moment was there nobody to act with."""
    with daemon(tmp_path, TRAINER.format("td3-0", 1, 1e-3) + TRAINER.format("td3-1", 2, 3e-4),
                EXTRA) as one:  # fmt: skip
        for name in NAMES:
            one.running(name)
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(200, 4))

        def board():
            return one.mesh.attach("leaderboard").read()[1]

        until("both ranked", lambda: len([r for r in board()["rows"] if r["score"] < 1e9]) == 2)
        policies = Policies(one.mesh, NAMES, 3600.0)
        until("the best acts", lambda: policies.best().trainer == board()["best"])
        leader = board()["best"]
        (other,) = set(NAMES) - {leader}
        seen = set()

        def quarantined():
            seen.add(policies.best().trainer)  # never None
            row = one.worker(leader)
            if row["state"] == "running":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(row["pid"], 9)
            return row["state"] == "quarantined"

        until("quarantined", quarantined)

        def handed_over():
            seen.add(policies.best().trainer)
            return board()["best"] == other and policies.best().trainer == other

        until("handed over", handed_over)
        rows = {row["trainer"]: row for row in board()["rows"]}
        assert rows[leader]["state"] == "quarantined"
        assert board()["keeper"] == other
        assert seen <= set(NAMES)
        before = one.mesh.attach(f"status/{other}").read()[1]["updates"]
        until(
            "learning on", lambda: one.mesh.attach(f"status/{other}").read()[1]["updates"] > before
        )
        ring.close()
        assert one.stop() == 0
