"""The shipper: every point arrives, whatever MLflow did meanwhile, and runs end as they ended."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from pathlib import Path

import msgspec
import numpy as np
import pytest

from mesh.control import ControlRequest, ask
from tests.daemons import daemon, until
from tests.processes import child
from tests.workers.shipper.servers import Server
from workers.trainer.spool import Spool, spool_files

pytestmark = [
    pytest.mark.crash,
    # of the libraries inside MLflow
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]
WORKERS = """
[workers.shipper]
worker = "workers.shipper.worker:ShipperWorker"
heartbeat_deadline_s = 60.0
start_deadline_s = 120.0
"""


def shipped(directory, trainer="td3-0"):
    """Whether everything of the spool was shipped."""
    place = msgspec.json.decode((directory / f"{trainer}.place").read_bytes())
    newest = spool_files(directory, trainer)[-1]
    return newest.name.endswith(f"{place['number']:08d}.jsonl") and (
        place["offset"] == newest.stat().st_size
    )


def waiting_for_shipment(directory):
    """The same, where the place file may not be there yet."""
    with contextlib.suppress(FileNotFoundError):
        return shipped(directory)
    return False


def runs_of(uri, experiment="tradingmesh"):
    """A client, and the runs it finds."""
    from mlflow.tracking import MlflowClient  # noqa: PLC0415 - it takes seconds

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    return client, [] if found is None else client.search_runs([found.experiment_id])


def test_points_arrive_once_under_the_same_run(tmp_path):
    """Points, parameters, the best model; a line cut by a kill and one MLflow refuses are passed
    over, files that were shipped are removed."""
    directory = tmp_path / "run" / "tracking"
    spool = Spool(directory, "td3-0", "run-1", 160_000)  # small: several files
    spool.begin("")
    spool.params({"batch": 256})
    for step in range(1200):
        spool.point(step, {"loss": step / 10})
    with spool.path.open("ab") as file:
        file.write(b'{"run": "run-1", "tr')  # cut by a kill
    spool.close()
    model = tmp_path / "best.npz"
    np.savez(model, w0=np.zeros(3))
    again = Spool(directory, "td3-0", "run-1", 160_000)
    again.point(1200, {"loss": 120.0})
    again.point(1200, {"a name with ? that MLflow does not take": 1.0})
    again.model(1200, "tradingmesh-td3-0", "best", [model])
    again.end("FINISHED")
    again.close()
    files = spool_files(directory, "td3-0")
    assert len(files) > 1
    assert again.dropped == 0
    with daemon(tmp_path, WORKERS) as one:
        one.running("shipper")
        until("shipped", lambda: waiting_for_shipment(directory))
        assert one.stop() == 0
    assert spool_files(directory, "td3-0") == files[-1:]
    assert len((directory / "td3-0.refused").read_text().splitlines()) == 1
    client, (run,) = runs_of(f"sqlite:///{tmp_path}/run/mlflow.db")
    assert run.data.params == {"batch": "256"}
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(1201))
    version = client.get_model_version_by_alias("tradingmesh-td3-0", "best")
    assert version.run_id == run.info.run_id
    paths = Path(run.info.artifact_uri.removeprefix("file://")).rglob("*.npz")
    assert [path.read_bytes() for path in paths] == [model.read_bytes()]


def test_run_of_a_killed_process_is_killed_and_goes_on(tmp_path):
    """kill -9 of the trainer: KILLED; the next process of the run: RUNNING, then as it ends."""
    directory = tmp_path / "run" / "tracking"
    uri = f"sqlite:///{tmp_path}/run/mlflow.db"

    def train(tell):
        spool = Spool(directory, "td3-0", "run-1", 1 << 20)
        spool.begin("")
        spool.point(1, {"loss": 1.0})
        tell()
        until("killed", lambda: False)

    with daemon(tmp_path, WORKERS) as one:
        with child(train) as trainer:
            trainer.started()
            # the shipper makes the database; two that do so at once hinder each other
            until("shipped", lambda: waiting_for_shipment(directory))
            until("running", lambda: [r.info.status for r in runs_of(uri)[1]] == ["RUNNING"])
            os.kill(trainer.pid, signal.SIGKILL)
            trainer.wait()
        until("marked", lambda: [r.info.status for r in runs_of(uri)[1]] == ["KILLED"])
        again = Spool(directory, "td3-0", "run-1", 1 << 20)
        again.begin("shared memory")
        until("on", lambda: [r.info.status for r in runs_of(uri)[1]] == ["RUNNING"])
        again.point(2, {"loss": 0.5})
        again.end("FAILED")
        again.close()
        until("ended", lambda: [r.info.status for r in runs_of(uri)[1]] == ["FAILED"])
        assert one.stop() == 0
    _, (run,) = runs_of(uri)
    assert run.data.metrics["loss"] == 0.5
    assert run.data.tags["mesh.resumed_from"] == "shared memory"


def test_nothing_is_lost_while_the_server_is_down_hung_or_gone(tmp_path):
    """Down at the start, hung (SIGSTOP), killed, back again: in the end every point is there."""
    directory = tmp_path / "run" / "tracking"
    server = Server(tmp_path)
    settings = f'[tracking]\nuri = "{server.uri}"\nretry_s = 0.2\ntimeout_s = 1\n'
    spool = Spool(directory, "td3-0", "run-1", 1 << 20)
    spool.begin("")
    spool.point(0, {"loss": 0.0})
    step = 0

    def more(count=50):
        nonlocal step
        for _ in range(count):
            step += 1
            spool.point(step, {"loss": float(step)})

    try:
        with daemon(tmp_path, WORKERS, settings) as one:
            one.running("shipper")
            more()
            server.start()
            until("caught up", lambda: waiting_for_shipment(directory), 120.0)
            server.signal(signal.SIGSTOP)
            more()
            log = tmp_path / "run" / "logs"
            until(
                "noticed", lambda: any("unavailable" in p.read_text() for p in log.glob("shipper*"))
            )
            assert one.worker("shipper")["restarts"] == 0
            server.signal(signal.SIGKILL)
            more()
            server.start()
            until("caught up again", lambda: waiting_for_shipment(directory), 120.0)
            assert one.worker("shipper")["restarts"] == 0
            assert one.stop() == 0
        client, (run,) = runs_of(server.uri)
        history = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in history) == list(range(step + 1))
        assert spool.dropped == 0
    finally:
        spool.close()
        with contextlib.suppress(ProcessLookupError):
            server.signal(signal.SIGKILL)


def test_a_stop_does_not_wait_for_a_server_that_hangs(tmp_path):
    """A request is on its way for ever: the shipper ends in order, and its points arrive later."""
    directory = tmp_path / "run" / "tracking"
    spool = Spool(directory, "td3-0", "run-1", 1 << 20)
    spool.begin("")
    for step in range(50):
        spool.point(step, {"loss": 1.0})
    spool.close()
    with socket.create_server(("127.0.0.1", 0)) as server:  # the kernel accepts, nobody answers
        settings = (
            f'[tracking]\nuri = "http://127.0.0.1:{server.getsockname()[1]}"\ntimeout_s = 600\n'
        )
        with daemon(tmp_path, WORKERS + "stop_grace_s = 45.0\n", settings) as one:
            client, _ = server.accept()
            with client:
                assert client.recv(4)  # it has asked
                assert ask(one.mesh_path, ControlRequest("stop", "shipper")).ok
                until("stopped", lambda: one.worker("shipper")["state"] == "stopped")
            assert "did not stop" not in one.worker("shipper")["reason"]
            profile = one.profile.read_text()
            one.profile.write_text(profile.replace(settings, ""))  # into a database of its own
            assert ask(one.mesh_path, ControlRequest("reload")).ok
            assert ask(one.mesh_path, ControlRequest("start", "shipper")).ok
            until("shipped", lambda: waiting_for_shipment(directory))
            assert one.stop() == 0
    client, (run,) = runs_of(f"sqlite:///{tmp_path}/run/mlflow.db")
    history = client.get_metric_history(run.info.run_id, "loss")
    assert sorted(point.step for point in history) == list(range(50))
