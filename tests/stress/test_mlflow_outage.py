"""MLflow is gone for minutes while a trainer learns: it learns on, and every point arrives."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest

from tests.daemons import daemon, until
from tests.workers.shipper.servers import Server
from tests.workers.shipper.test_worker import runs_of
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE

pytestmark = [
    pytest.mark.stress,
    pytest.mark.timeout(900),
    # of the libraries inside MLflow
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
OUTAGE_S = 120.0
EVERY = 20
WORKERS = """
[workers.td3-0]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
heartbeat_deadline_s = 20.0
[workers.shipper]
worker = "workers.shipper.worker:ShipperWorker"
heartbeat_deadline_s = 10.0
start_deadline_s = 120.0
"""
EXTRA = """
[trainer]
hidden = [32, 16]
batch = 32
learning_starts = 400
evaluate_every = 0
[tracking]
uri = "{uri}"
every_updates = {every}
retry_s = 1.0
timeout_s = 2
"""


def test_outage_of_minutes_in_the_midst_of_a_run(tmp_path):
    """Killed for two minutes: not one update is waited for, no process is started again, and the
    run has a point for every twenty updates when the server is back."""
    server = Server(tmp_path)
    try:
        server.start()
        extra = EXTRA.format(uri=server.uri, every=EVERY)
        with daemon(tmp_path, WORKERS, extra) as one:
            one.running("td3-0")
            ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
            ring.publish(steps(200, 4))

            def status():
                return one.mesh.attach("status/td3-0").read()[1]

            until("a run", lambda: runs_of(server.uri)[1])
            server.signal(signal.SIGKILL)
            at, back_at = status()["updates"], time.monotonic() + OUTAGE_S
            until("minutes later", lambda: time.monotonic() > back_at, 2 * OUTAGE_S)
            assert status()["updates"] > at + 100 * EVERY
            assert status()["tracking"] == "spooled"
            server.start()
            assert one.worker("td3-0")["restarts"] == one.worker("shipper")["restarts"] == 0
            ring.close()
            updates = status()["updates"]

            def caught_up():
                client, (run,) = runs_of(server.uri)
                return (
                    run.data.metrics
                    and len(client.get_metric_history(run.info.run_id, "critic_loss"))
                    >= updates // EVERY
                )

            until("caught up", caught_up, 300.0)
            assert one.stop() == 0
        client, (run,) = runs_of(server.uri)
        found = sorted(
            point.step for point in client.get_metric_history(run.info.run_id, "critic_loss")
        )
        assert found == list(range(EVERY, found[-1] + 1, EVERY))
        assert found[-1] >= updates // EVERY * EVERY
    finally:
        with contextlib.suppress(ProcessLookupError):
            server.signal(signal.SIGKILL)
