"""What somebody deletes in MLflow amid a run holds nobody up and costs no later point."""

from __future__ import annotations

import numpy as np
import pytest
from mlflow.exceptions import MlflowException

from tests.daemons import daemon, until
from tests.workers.shipper.test_worker import WORKERS, runs_of, waiting_for_shipment
from workers.trainer.spool import Spool

pytestmark = [
    pytest.mark.crash,
    # of the libraries inside MLflow
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
SETTINGS = "[tracking]\nretry_s = 0.2\n"


class TrackedRun:
    """A run of one trainer under a daemon with a shipper, and MLflow as its user sees it."""

    def __init__(self, directory):
        self.spools = directory / "run" / "tracking"
        self.logs = directory / "run" / "logs"
        self.uri = f"sqlite:///{directory}/run/mlflow.db"
        self.spool = Spool(self.spools, "td3-0", "run-1", 1 << 20)
        self.spool.begin("")
        self.step = 0

    def points(self, count=20):
        """Further points."""
        for _ in range(count):
            self.step += 1
            self.spool.point(self.step, {"loss": float(self.step)})

    def shipped(self):
        """Wait until all of it is in MLflow."""
        until("shipped", lambda: waiting_for_shipment(self.spools), 120.0)

    def said(self, text):
        """Wait until the shipper's log has this text."""
        until(text, lambda: any(text in p.read_text() for p in self.logs.glob("shipper*")))

    def steps_of(self, run):
        """The steps of the points that a run holds."""
        client, _ = runs_of(self.uri)
        return sorted(point.step for point in client.get_metric_history(run, "loss"))


@pytest.fixture
def tracked(tmp_path):
    """Twenty points are in MLflow already; at the end the shipper must not have been restarted."""
    found = TrackedRun(tmp_path)
    with daemon(tmp_path, WORKERS, SETTINGS) as one:
        one.running("shipper")
        found.points()
        found.shipped()
        yield found
        assert one.worker("shipper")["restarts"] == 0
        found.spool.close()
        assert one.stop() == 0


def test_run_that_was_deleted_is_followed_by_another(tracked):
    """What comes after goes to a new run of the same name and tag; the deleted one stays so."""
    client, (first,) = runs_of(tracked.uri)
    client.delete_run(first.info.run_id)
    tracked.points()
    tracked.spool.end("FINISHED")
    tracked.shipped()
    _, (second,) = runs_of(tracked.uri)
    assert second.info.run_id != first.info.run_id
    assert second.data.tags["mesh.run"] == first.data.tags["mesh.run"]
    assert second.info.status == "FINISHED"
    assert tracked.steps_of(first.info.run_id) == list(range(1, 21))
    assert tracked.steps_of(second.info.run_id) == list(range(21, 41))
    assert client.get_run(first.info.run_id).info.lifecycle_stage == "deleted"
    assert not list(tracked.spools.glob("*.refused"))


def test_experiment_that_was_deleted_is_waited_for(tracked):
    """It is said what to do; restored, it gets every point, under the run that it was."""
    client, (run,) = runs_of(tracked.uri)
    experiment = run.info.experiment_id
    client.delete_experiment(experiment)
    tracked.points()
    tracked.said("was deleted in MLflow; restore it")
    assert not waiting_for_shipment(tracked.spools)
    tracked.points()
    client.restore_experiment(experiment)
    tracked.shipped()
    _, (found,) = runs_of(tracked.uri)
    assert found.info.run_id == run.info.run_id
    assert tracked.steps_of(run.info.run_id) == list(range(1, 61))
    assert not list(tracked.spools.glob("*.refused"))


def test_model_that_was_deleted_is_registered_anew(tracked, tmp_path):
    """The registered model, a version of it or its alias: the next best one is `best` again."""
    client, (run,) = runs_of(tracked.uri)
    name = "tradingmesh-td3-0"

    def best(step):
        """Ship a best policy and give its version."""
        file = tmp_path / f"best-{step}.npz"
        np.savez(file, w0=np.full(3, step))
        tracked.spool.model(step, name, "best", [file])
        tracked.shipped()
        return client.get_model_version_by_alias(name, "best")

    assert best(1).run_id == run.info.run_id
    client.delete_registered_model(name)
    with pytest.raises(MlflowException, match="not found"):
        client.get_registered_model(name)
    second = best(2)
    assert second.tags["updates"] == "2"
    client.delete_model_version(name, second.version)
    third = best(3)
    assert third.tags["updates"] == "3"
    client.delete_registered_model_alias(name, "best")
    assert best(4).tags["updates"] == "4"
    tracked.points()
    tracked.shipped()
    assert tracked.steps_of(run.info.run_id) == list(range(1, 41))
    assert not list(tracked.spools.glob("*.refused"))
