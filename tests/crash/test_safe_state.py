"""The learner whose policy acts is not trustworthy any more: positions are held, or flattened."""

from __future__ import annotations

import os

import numpy as np
import pytest

from mesh.control import ControlRequest, ask
from tests.daemons import daemon, until
from tests.flow import status
from workers.contract.dtypes import SLOTS

pytestmark = [pytest.mark.crash, pytest.mark.broker]
WORKERS = """
[workers.broker]
worker = "workers.broker.worker:BrokerWorker"
[workers.ingest]
worker = "workers.ingest.worker:IngestWorker"
depends_on = ["broker"]
role = "data"
heartbeat_deadline_s = 5.0
[workers.feeder]
worker = "workers.feeder.worker:FeederWorker"
depends_on = ["ingest"]
heartbeat_deadline_s = 5.0
[workers.td3-0]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
depends_on = ["feeder"]
role = "policy"
heartbeat_deadline_s = 10.0
restart = {{ base_delay_s = 0.01, intensity = 1 }}
[workers.replayer]
worker = "workers.replayer.worker:ReplayerWorker"
depends_on = ["feeder", "td3-0"]
heartbeat_deadline_s = 10.0
[replayer]
speed = 300.0
[trainer]
hidden = [16, 16]
batch = 16
learning_starts = 128
publish_every = 20
evaluate_every = 0
[feeder]
lanes = 8
interval_s = 5.0
episode_steps = 100000
safe_state = "{safe_state}"
"""
STEPS = 12


def newest(one, steps):
    """The newest experience, shape (steps, lanes)."""
    ring = one.mesh.attach("experience")
    records = ring.reader(ring.published - 8 * steps).read(max_records=8 * steps)
    return records.reshape(steps, 8)


def positions(table):
    """Shares of the contract limit that each lane holds in each slot, (steps, lanes, slots)."""
    return table["frame"][..., 1 : 1 + SLOTS]


def same_slots(one, table):
    """Whether each step names the same contracts as the step before, (steps - 1,)."""
    market = one.mesh.attach("market")
    rows = market.reader("oldest").read(max_records=market.capacity)
    first = int(np.flatnonzero(rows["step"] == table["market_step"][0, 0])[0])
    contracts = rows["contract"][first : first + len(table)]
    return (contracts[1:] == contracts[:-1]).all(1)


@pytest.mark.parametrize("safe_state", ["hold", "flatten"])
def test_quarantined_learner_stops_the_acting(tmp_path, safe_state):
    """Its learner dies too often: the feeder holds or flattens as configured, and says why.

    The last good policy stays where it is; after a reset of the learner acting goes on.
    """
    with daemon(tmp_path, WORKERS.format(safe_state=safe_state)) as one:
        until("a policy acts", lambda: status(one, "feeder")["state"] == "acting", 120)
        until("positions", lambda: np.abs(positions(newest(one, 1))).max() > 0)
        pid = one.running("td3-0")
        os.kill(pid, 9)
        os.kill(one.running("td3-0", other_than=pid), 9)
        until("quarantined", lambda: one.worker("td3-0")["state"] == "quarantined")
        doing = {"hold": "holding", "flatten": "flattening"}[safe_state]
        state = f"{doing}: policy of td3-0: quarantined: "
        until("held", lambda: status(one, "feeder")["state"].startswith(state))
        version = one.mesh.attach("policy/td3-0").version
        steps = status(one, "feeder")["market_steps"]
        until("more steps", lambda: status(one, "feeder")["market_steps"] > steps + 2 * STEPS)
        table = newest(one, STEPS)
        assert status(one, "feeder")["state"].startswith(state)
        if safe_state == "flatten":
            assert np.abs(positions(table)).max() == 0
        else:
            same = same_slots(one, table)
            assert same.any()
            assert np.abs(positions(table)).max() > 0
            assert (positions(table)[1:][same] == positions(table)[:-1][same]).all()
        assert one.mesh.attach("policy/td3-0").version == version > 0
        assert ask(one.mesh_path, ControlRequest("reset", "td3-0")).ok
        until("acting again", lambda: status(one, "feeder")["state"] == "acting")
        assert one.stop() == 0
