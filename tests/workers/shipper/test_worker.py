"""The shipper: every point arrives, also after MLflow was away."""

from __future__ import annotations

import pytest

from tests.daemons import daemon, until
from workers.trainer.tracking import Spool

pytestmark = pytest.mark.crash
WORKERS = """
[workers.shipper]
worker = "workers.shipper.worker:ShipperWorker"
heartbeat_deadline_s = 60.0
start_deadline_s = 120.0
"""


# of the database library, caused inside MLflow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_points_arrive_once_under_the_same_run(tmp_path):
    """Points and parameters of a run are in MLflow's database, over a restart of the shipper."""
    directory = tmp_path / "run" / "tracking"
    spool = Spool(directory, "td3-0", "run-1", 1 << 20)
    spool.params({"batch": 256})
    for step in range(1200):
        spool.point(step, {"loss": step / 10})
    with spool.path.open("ab") as file:
        file.write(b'{"run": "run-1", "tr')  # cut by a kill
    spool.close()
    again = Spool(directory, "td3-0", "run-1", 1 << 20)
    again.point(1200, {"loss": 120.0})
    again.end("FINISHED")
    again.close()
    with daemon(tmp_path, WORKERS) as one:
        one.running("shipper")
        place = directory / "td3-0.place"
        size = str((directory / "td3-0.jsonl").stat().st_size)
        until("shipped", lambda: place.exists() and place.read_text() == size)
        assert one.stop() == 0
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.tracking.MlflowClient(f"sqlite:///{tmp_path}/run/mlflow.db")
    experiment = client.get_experiment_by_name("tradingmesh")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params == {"batch": "256"}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(1201))
