"""The train command: a model that stable-baselines3 loads and the feeder could act with."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3.common.callbacks import BaseCallback

from config.trainer import TrainerConfig
from tests.daemons import ROOT, until
from workers.trading_env.policy.numpy_policy import PublishedPolicy
from workers.trainer.callbacks import EndBySignal
from workers.trainer.cli import main, train_td3
from workers.trainer.replay.frames import FrameReplay
from workers.trainer.spool import spool_files
from workers.trainer.state import model_files
from workers.trainer.state.model_files import CannotResume

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
    """`python -m workers.trainer.cli`: a model file and a spool for the shipper."""
    arguments = [
        "--timesteps",
        "400",
        "--lanes",
        "8",
        "--known-optimum",
        "3",
        "--model",
        str(tmp_path / "m.zip"),
        "--tracking",
        str(tmp_path),
    ]
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
    points = [entry["metrics"] for entry in entries if "metrics" in entry]
    losses = [point for point in points if "evaluation/mean_reward" not in point]
    assert losses
    assert all(np.isfinite(point["train/critic_loss"]) for point in losses)


KNOWN = ["--known-optimum", "3"]
SMALL = [
    "--lanes",
    "8",
    "--set",
    "learning_starts=64",
    "--set",
    "batch=16",
    "--set",
    "hidden=[16, 16]",
    "--set",
    "replay_ratio=0.5",
]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--set", "batch=many"], 78, "batch"),
        (["--set", "no_such=1"], 78, "no_such"),
        (["--set", "trading.no_such=1.5"], 78, "trading.no_such"),
        (["--evaluate-every", "-1"], 2, "count of 0 or more"),
        (["--evaluate-every", "0", "--set", "gate=true"], 78, "gate needs evaluate_every above 0"),
        (["--profile", "nowhere.toml"], 78, "nowhere.toml"),
        (["--data", "nothing.zip"], 1, "nothing.zip"),
        (["--data", "/dev/null"], 1, "/dev/null"),
        (["--model", "/dev/null/m.zip"], 1, "/dev/null"),
        (["--model", "/proc/m.zip"], 1, "/proc"),
        (["--resume"], 1, "train without --resume first"),
        (["--timesteps", "0"], 2, "count of 1 or more"),
        (["--data", "a.zip", *KNOWN], 2, "not allowed with"),
        (["--lanes", "-3"], 2, "count of 1 or more"),
        (["--timesteps", "soon"], 2, "soon"),
    ],
)
def test_mistakes_are_said(tmp_path, capsys, arguments, code, said):
    """Settings 78, arguments 2, markets and files 1; each names what is wrong, none trains."""
    try:
        found = main(["--model", str(tmp_path / "m.zip"), *SMALL, *arguments])
    except SystemExit as error:
        found = error.code
    assert found == code
    assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("m*"))


def command(directory, *arguments):
    """The command as a process of its own; its standard error can be read."""
    line = [
        sys.executable,
        "-m",
        "workers.trainer.cli",
        "--model",
        str(directory / "m.zip"),
        "--tracking",
        str(directory),
        *KNOWN,
        *SMALL,
        *arguments,
    ]
    return subprocess.Popen(
        line, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def entries(directory):
    """What is in the spool so far."""
    lines = []
    for path in spool_files(directory / "tracking", "train"):
        lines += path.read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_training_is_saved_and_goes_on(tmp_path, number):
    """Ctrl-C: the model and its experience are saved, the run is KILLED; resumed it makes what is
    left of its steps under the same run, and a complete one has no more to do."""
    process = command(tmp_path, "--timesteps", "1_000_000")
    until("points", lambda: any("metrics" in entry for entry in entries(tmp_path)))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    assert "--resume goes on from there" in errors
    assert entries(tmp_path)[-2]["model"] == "tradingmesh-train"
    assert entries(tmp_path)[-2]["alias"] == "best"
    assert entries(tmp_path)[-1]["end"] == "KILLED"
    before = StockTD3.load(tmp_path / "m.zip", device="cpu")
    made = before.num_timesteps
    assert 64 < made < 1_000_000
    assert (tmp_path / "m.replay.pkl").exists()
    total = made + 160
    again = [
        "--model",
        str(tmp_path / "m.zip"),
        *KNOWN,
        *SMALL,
        "--timesteps",
        str(total),
        "--resume",
        "--tracking",
        str(tmp_path),
    ]
    assert main(again) == 0
    assert {entry["run"] for entry in entries(tmp_path)} == {entries(tmp_path)[0]["run"]}
    begun = [entry["begin"] for entry in entries(tmp_path) if "begin" in entry]
    assert begun == ["", str(tmp_path / "m.zip")]
    assert entries(tmp_path)[-1]["end"] == "FINISHED"
    after = StockTD3.load(tmp_path / "m.zip", device="cpu")
    assert after.num_timesteps == -(-total // 8) * 8
    assert after._n_updates > before._n_updates
    assert not (tmp_path / "m.replay.pkl").exists()
    assert main(again) == 0
    assert StockTD3.load(tmp_path / "m.zip", device="cpu")._n_updates == after._n_updates


def test_resumed_model_has_everything_of_the_one_that_was_saved(tmp_path):
    """Weights, moments, counters and experience; another network or other lanes are refused."""
    config = TrainerConfig(hidden=(16, 16), batch=32, learning_starts=64, device="cpu")
    stops = EndBySignal()

    class After(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 160:
                stops._note(signal.SIGTERM, None)
            return True

    options = {"market": "known_optimum", "lanes": 8, "config": config, "progress_bar": False}
    with stops:
        first = train_td3(800, tmp_path / "m", callbacks=[After(), stops], **options)
    assert first.num_timesteps == 160
    second = train_td3(160, tmp_path / "m", resume=True, **options)
    assert second._n_updates == first._n_updates
    wanted, found = first.get_parameters(), second.get_parameters()
    for name in ("actor.optimizer", "critic.optimizer"):
        for key, state in wanted[name]["state"].items():
            assert (state["exp_avg"] == found[name]["state"][key]["exp_avg"]).all()
    first_steps, second_steps = first.replay_buffer, second.replay_buffer
    assert first_steps.pos == second_steps.pos
    assert (first_steps.frames[:20] == second_steps.frames[:20]).all()
    other = config.model_copy(update={"hidden": (16, 8)})
    with pytest.raises(CannotResume, match="another network"):
        train_td3(800, tmp_path / "m", resume=True, **{**options, "config": other})
    model_files.save(first, tmp_path / "m.zip", with_experience=True)
    with pytest.raises(CannotResume, match="8 lanes, not of 4"):
        train_td3(800, tmp_path / "m", resume=True, **{**options, "lanes": 4})
    (tmp_path / "m.zip").write_text("no zip")
    with pytest.raises(CannotResume, match=r"m\.zip"):
        train_td3(800, tmp_path / "m", resume=True, **options)


def test_bar_on_a_terminal(tmp_path):
    """In a pseudo-terminal: one line that is drawn anew, complete at the end; without, nothing."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    line = [
        sys.executable,
        "-m",
        "workers.trainer.cli",
        "--model",
        str(tmp_path / "m.zip"),
        *KNOWN,
        *SMALL,
        "--timesteps",
        "800",
    ]
    environment = {**os.environ, "TERM": "xterm-256color"}
    with subprocess.Popen(
        line, cwd=ROOT, stderr=theirs, stdout=subprocess.DEVNULL, env=environment
    ) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other side was closed
            while part := os.read(ours, 4096):
                shown += part
    os.close(ours)
    assert process.returncode == 0
    text = shown.decode()
    assert "800/800" in text
    assert "updates" in text
    assert "\x1b[2K" in text  # the line is cleared and drawn again
    assert text.count("\n") == 1


def test_tensorboard_gets_what_is_logged(tmp_path):
    """Event files hold the critic's loss at the steps of the training."""
    pytest.importorskip("tensorboard", reason="pip install tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import (  # noqa: PLC0415 - optional
        EventAccumulator,
    )

    arguments = ["--model", str(tmp_path / "m.zip"), *KNOWN, *SMALL, "--timesteps", "9000"]
    assert main([*arguments, "--tensorboard", str(tmp_path / "board")]) == 0
    (events,) = (tmp_path / "board").rglob("events.out.tfevents.*")
    found = EventAccumulator(str(events))
    found.Reload()
    losses = found.Scalars("train/critic_loss")
    assert losses
    assert all(np.isfinite(point.value) for point in losses)
    assert 0 < losses[-1].step <= 9008
    assert found.Scalars("rollout/ep_rew_mean")
