"""The network in front of MLflow misbehaves in every way: nothing is lost, nothing doubled."""

from __future__ import annotations

import contextlib
import signal

import numpy as np
import pytest

from config.trainer import TrainerConfig
from tests.daemons import daemon, until
from tests.workers.shipper.servers import Network, Server
from tests.workers.shipper.test_worker import WORKERS, runs_of, waiting_for_shipment
from workers.trainer.publish.publisher import policy_arrays
from workers.trainer.spool import Spool
from workers.trainer.td3.learner import make_learner

pytestmark = [
    pytest.mark.crash,
    pytest.mark.filterwarnings(  # of the libraries inside MLflow
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
    ),
]
DELAY_S = 1.2
HOUR = 3600  # points: one a second is more than a trainer makes


def test_nothing_is_lost_over_a_bad_network(tmp_path):
    """Seconds for each request, 503, pages that are no answers, answers that never arrive, an
    hour's points at once: every point arrives once, the shipper lives on, and the best model in
    the registry acts as the one that was trained."""
    directory = tmp_path / "run" / "tracking"
    server = Server(tmp_path)
    spool = Spool(directory, "td3-0", "run-1", 1 << 24)
    spool.begin("")
    spool.params({"batch": 256})
    step = 0

    def more(count):
        nonlocal step
        for _ in range(count):
            step += 1
            spool.point(step, {"loss": float(step), "rate": 1.0})

    def tries(network):
        """Two more requests, so that it was tried again."""
        before = network.seen
        until("tried again", lambda: network.seen >= before + 2)

    spec = WORKERS.replace("heartbeat_deadline_s = 60.0", "heartbeat_deadline_s = 1.0")
    try:
        server.start()
        with Network(server.port) as network:
            settings = f'[tracking]\nuri = "{network.uri}"\nretry_s = 0.1\ntimeout_s = 4\n'
            with daemon(tmp_path, spec, settings) as one:
                one.running("shipper")
                network.mode, network.delay_s = "slow", DELAY_S
                more(400)
                until("slowly", lambda: waiting_for_shipment(directory), 120.0)
                network.mode = "failing"
                more(HOUR)
                tries(network)
                network.mode = "page"
                tries(network)
                network.mode = "cut"
                tries(network)
                network.mode = "pass"
                model = best_model(tmp_path, spool, step)
                until("caught up", lambda: waiting_for_shipment(directory), 120.0)
                assert one.worker("shipper")["restarts"] == 0
                assert one.stop() == 0
        client, (run,) = runs_of(server.uri)
        for name in ("loss", "rate"):
            history = client.get_metric_history(run.info.run_id, name)
            assert sorted(point.step for point in history) == list(range(1, step + 1))
        assert len(client.search_model_versions("name='tradingmesh-td3-0'")) == 1
        assert not (directory / "td3-0.refused").exists()
        assert spool.dropped == 0
        acts_like(server.uri, model, tmp_path)
    finally:
        spool.close()
        with contextlib.suppress(ProcessLookupError):
            server.signal(signal.SIGKILL)


def best_model(directory, spool, step):
    """A learner's files, told to the spool as the trainer worker tells them."""
    model, _ = make_learner(TrainerConfig(hidden=(16, 16), device="cpu", seed=3))
    files = [directory / "best-1.zip", directory / "best-1.npz"]
    model.save(files[0])
    np.savez(files[1], allow_pickle=False, **policy_arrays(model.policy, updates=step, score=1.0))
    spool.model(step, "tradingmesh-td3-0", "best", files)
    return model


def acts_like(uri, model, directory):
    """What the registry gives acts as the model does: as MLflow loads it, and as stock SB3 does."""
    import mlflow  # noqa: PLC0415 - it takes seconds
    from stable_baselines3 import TD3 as StockTD3  # noqa: N811, PLC0415 - stock class

    mlflow.set_tracking_uri(uri)
    windows = np.random.default_rng(0).standard_normal((5, 16, 100)).astype(np.float32)
    wanted, _ = model.predict(windows, deterministic=True)
    loaded = mlflow.pyfunc.load_model("models:/tradingmesh-td3-0@best")
    assert loaded.predict(windows) == pytest.approx(wanted, abs=1e-5)
    where = mlflow.artifacts.download_artifacts(
        "models:/tradingmesh-td3-0@best", dst_path=str(directory / "downloaded")
    )
    again = StockTD3.load(f"{where}/best-1.zip", device="cpu")
    assert (again.predict(windows, deterministic=True)[0] == wanted).all()
