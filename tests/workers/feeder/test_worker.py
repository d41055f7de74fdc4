"""The feeder under the daemon: experience of many lanes, on after a kill, whole windows."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.daemons import daemon, until
from workers.contract.dtypes import WINDOW
from workers.trading_env.policy.numpy_policy import like

pytestmark = [pytest.mark.broker, pytest.mark.crash]
FOUR = """
[workers.broker]
worker = "workers.broker.worker:BrokerWorker"
[workers.ingest]
worker = "workers.ingest.worker:IngestWorker"
depends_on = ["broker"]
[workers.feeder]
worker = "workers.feeder.worker:FeederWorker"
depends_on = ["ingest"]
restart = { base_delay_s = 0.01, intensity = 1000 }
[workers.replayer]
worker = "workers.replayer.worker:ReplayerWorker"
depends_on = ["ingest"]
"""
EXTRA = """
[replayer]
speed = 600.0
[feeder]
lanes = 8
interval_s = 5.0
episode_steps = 40
experience_capacity = 200000
"""


def status(one):
    """FeederStatus as others see it."""
    return one.mesh.attach("status/feeder").read()[1]


def experience(one):
    """Everything in the experience ring, shape (steps, lanes)."""
    ring = one.mesh.attach("experience")
    records = ring.reader("oldest").read(max_records=ring.capacity)
    return records[: records.size // 8 * 8].reshape(-1, 8)


def assert_consistent(table):
    """Lanes in order, episodes marked, frames finite, accounts unbroken within an episode."""
    assert (table["lane"] == np.arange(8)).all()
    assert np.isfinite(table["frame"]).all()
    assert np.isfinite(table["reward"]).all()
    assert np.abs(table["action"]).max() <= 1.0
    assert table["first"][0].all()
    new = table["episode"][1:] != table["episode"][:-1]
    assert (table["first"][1:] == new).all()
    ended = (table["terminated"] | table["truncated"])[:-1]
    assert (ended <= new).all()
    same = ~new
    assert (table["step"][1:][same] == table["step"][:-1][same] + 1).all()
    assert (table["market_step"][1:] == table["market_step"][:-1] + 1).all()


def test_experience_grows_and_a_killed_feeder_goes_on(tmp_path):
    """Kills between steps: no market step missing, accounts intact, episodes end as they should."""
    with daemon(tmp_path, FOUR, EXTRA) as one:
        pid = one.running("feeder")
        until("experience", lambda: status(one)["market_steps"] > 3 * WINDOW)
        for _ in range(4):
            before = status(one)["market_steps"]
            os.kill(pid, 9)
            pid = one.running("feeder", other_than=pid)
            until("more", lambda: status(one)["market_steps"] > before + WINDOW)  # noqa: B023 - used at once
        table = experience(one)
        assert_consistent(table)
        logs = (tmp_path / "run" / "logs" / "feeder.log").read_text()
        assert logs.count('"resumed"') == 4
        assert "episode boundary" not in logs
        market = one.mesh.attach("market").reader("oldest").read(max_records=10_000)
        assert (np.diff(market["step"]) == 1).all()
        assert (market["price"] >= 0).all()


def test_newest_finite_policy_acts_and_a_bad_one_does_not(tmp_path):
    """A policy published by anybody acts within a step; one with NaN leaves the last good one."""
    with daemon(tmp_path, FOUR, EXTRA) as one:
        one.running("feeder")
        until("random actions", lambda: "at random" in status(one)["state"])
        arrays = like([8])
        arrays["b1"][:] = 0.3
        arrays["created_ns"] = np.array(2**62)
        policy = one.mesh.tensors("policy/td3-0", like=arrays, create=True)
        policy.publish(arrays)
        until("acting", lambda: status(one)["acting_version"] == 1)
        assert status(one)["state"] == "acting"
        arrays["w0"] = np.full_like(arrays["w0"], np.nan)
        policy.publish(arrays)
        steps = status(one)["market_steps"]
        until("more", lambda: status(one)["market_steps"] > steps + 3)
        assert status(one)["acting_version"] == 1
        assert status(one)["policies_refused"] == 1
        newest = experience(one)[-1]
        greedy = newest[~newest["exploratory"] & ~newest["first"]]
        assert greedy["action"] == pytest.approx(np.tanh(0.3), abs=1e-6)
        policy.close()
