"""The train command: a model that stable-baselines3 loads and the feeder could act with."""

from __future__ import annotations

import json

import numpy as np
import pytest
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here

from config.trainer import TrainerConfig
from workers.trading_env.policy_numpy import PublishedPolicy
from workers.trainer.frame_replay import FrameReplay
from workers.trainer.train import main, train_td3

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def test_classic_entry_point_trains_and_saves(tmp_path):
    """`train_td3(total_timesteps, model_path)`: the zip loads in the stock class."""
    config = TrainerConfig(hidden=(16, 16), batch=32, learning_starts=64, device="cpu")
    model = train_td3(
        320, tmp_path / "td3", market="known_optimum", lanes=8, config=config, progress_bar=False
    )
    assert model._n_updates > 20
    assert isinstance(model.replay_buffer, FrameReplay)
    loaded = StockTD3.load(tmp_path / "td3.zip", device="cpu")
    window = np.random.default_rng(0).standard_normal((1, 16, 100)).astype(np.float32)
    wanted, _ = model.predict(window, deterministic=True)
    assert loaded.predict(window, deterministic=True)[0] == pytest.approx(wanted)
    with np.load(tmp_path / "td3.npz") as arrays:
        assert PublishedPolicy(dict(arrays))(window) == pytest.approx(wanted, abs=1e-5)


def test_command_tracks_what_it_does(tmp_path, capsys):
    """`python -m workers.trainer.train`: a model file and a spool for the shipper."""
    arguments = ["--timesteps", "400", "--lanes", "8", "--known-optimum", "3", "--model",
                 str(tmp_path / "m.zip"), "--tracking", str(tmp_path)]  # fmt: skip
    for setting in (
        "learning_starts=64",
        "batch=16",
        "hidden=[16, 16]",
        "replay_ratio=1.0",
        "policy=frames",
    ):
        arguments += ["--set", setting]
    assert main(arguments) == 0
    assert "updates, autograd: features come from FrameEncoder" in capsys.readouterr().out
    lines = (tmp_path / "tracking" / "train-00000000.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    assert entries[0]["begin"] == ""
    assert entries[1]["params"]["batch_size"] == 16
    assert entries[-1]["end"] == "FINISHED"
    points = [entry for entry in entries if "metrics" in entry]
    assert points
    assert all(np.isfinite(point["metrics"]["train/critic_loss"]) for point in points)


def test_mistakes_are_said(tmp_path, capsys):
    """A setting that is none: 78; data that is none: 1; both with a reason."""
    assert main(["--set", "batch=many"]) == 78
    assert "batch" in capsys.readouterr().err
    assert main(["--data", str(tmp_path / "nothing.zip"), "--model", str(tmp_path / "m")]) == 1
    assert "nothing.zip" in capsys.readouterr().err
