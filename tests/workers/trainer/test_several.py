"""Several trainers from one stream: when the best is quarantined the next acts, without a gap."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.daemons import ROOT, daemon, until

pytestmark = [pytest.mark.broker, pytest.mark.crash]
TRAINER = """
[workers.{0}]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
role = "policy"
heartbeat_deadline_s = 20.0
required = false
settings = {{ seed = {1}, learning_rate = {2} }}
restart = {{ base_delay_s = 0.01, max_delay_s = 0.05, intensity = 2 }}
"""
MARKET = """
[workers.broker]
worker = "workers.broker.worker:BrokerWorker"
[workers.ingest]
worker = "workers.ingest.worker:IngestWorker"
depends_on = ["broker"]
[workers.feeder]
worker = "workers.feeder.worker:FeederWorker"
depends_on = ["ingest"]
[workers.replayer]
worker = "workers.replayer.worker:ReplayerWorker"
depends_on = ["feeder"]
"""
EXTRA = """
[trainer]
hidden = [32, 16]
batch = 32
learning_starts = 400
replay_ratio = 0.1
publish_every = 20
state_every = 20
evaluate_every = 60
evaluate_on = "known_optimum"
evaluate_lanes = 4
evaluate_steps = 16
[replayer]
speed = 600.0
[feeder]
lanes = 4
interval_s = 5.0
experience_capacity = 400000
"""
NAMES = ["td3-0", "td3-1"]


def test_hand_over_when_the_best_is_quarantined(tmp_path):
    """Two learners of one stream; the leader is killed until it is quarantined. Every step that the
    feeder made since the first policy was made with a policy of one of them, none is missing, and
    in the end the other acts, as the leaderboard and `meshctl status` say."""
    trainers = TRAINER.format("td3-0", 1, 1e-3) + TRAINER.format("td3-1", 2, 3e-4)
    with daemon(tmp_path, MARKET + trainers, EXTRA) as one:

        def board():
            return one.mesh.attach("leaderboard").read()[1]

        def acting():
            return one.mesh.attach("status/feeder").read()[1]["acting_trainer"]

        until("both ranked", lambda: len([r for r in board()["rows"] if r["score"] < 1e9]) == 2)
        leader = until("the best acts", lambda: acting() == board()["best"] and acting())
        (other,) = set(NAMES) - {leader}

        def quarantined():
            row = one.worker(leader)
            if row["state"] == "running":
                with contextlib.suppress(ProcessLookupError):
                    os.kill(row["pid"], 9)
            return row["state"] == "quarantined"

        until("quarantined", quarantined)
        until("handed over", lambda: board()["best"] == other == acting())
        rows = {row["trainer"]: row for row in board()["rows"]}
        assert rows[leader]["state"] == "quarantined"
        assert board()["keeper"] == other
        at = one.mesh.attach("experience").published
        until("acting", lambda: one.mesh.attach("status/feeder").read()[1]["state"] == "acting")
        until("going on", lambda: one.mesh.attach("experience").published > at + 400)
        made = one.mesh.attach(f"status/{other}").read()[1]["updates"]
        until("learning on", lambda: one.mesh.attach(f"status/{other}").read()[1]["updates"] > made)
        assert shown(one) == {leader: False, other: True}
        ring = one.mesh.attach("experience")
        records = ring.reader("oldest").read(max_records=ring.capacity)
        assert_no_gap(records, leader, other)
        assert set(records["policy_trainer"][-400:]) == {other.encode()}
        assert one.stop() == 0


def shown(one):
    """Whose policy acts, as `meshctl status` says."""
    command = [
        sys.executable,
        "-m",
        "workers.ctl.cli",
        "--mesh",
        str(one.mesh_path),
        "status",
        "--format",
        "json",
    ]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, text=True)
    policies = json.loads(found.stdout)["flow"]["policies"]
    return {name: policy["acting"] for name, policy in policies.items()}


def assert_no_gap(records, leader, other):
    """From the first policy on every lane at every state acted with one, ever newer ones."""
    assert (np.diff(records["market_step"][::4]) == 1).all()
    began = np.flatnonzero(records["policy_version"])[0]
    since = records[began:]
    assert (since["policy_version"] > 0).all()
    assert set(since["policy_trainer"]) == {leader.encode(), other.encode()}
    for name in (leader, other):
        versions = since["policy_version"][since["policy_trainer"] == name.encode()]
        assert (np.diff(versions) >= 0).all()
    assert np.isfinite(since["action"]).all()
    assert np.abs(since["action"]).max() <= 1.0
