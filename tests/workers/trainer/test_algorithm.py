"""TD3 as stable-baselines3 has it: learn, callbacks, predict, and zip files that go both ways."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from tests.workers.trainer.batches import largest_difference
from workers.trainer.td3.algorithm import TD3
from workers.trainer.td3.autograd_update import AutogradUpdate

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
SMALL = {
    "learning_starts": 50,
    "batch_size": 16,
    "buffer_size": 2000,
    "seed": 3,
    "device": "cpu",
    "policy_kwargs": {"net_arch": [24, 16]},
}


def normalised():
    """An environment that normalises observations and rewards as it goes."""
    return VecNormalize(DummyVecEnv([lambda: Monitor(gymnasium.make("Pendulum-v1"))]))


@pytest.mark.parametrize(
    ("environment", "further"),
    [
        ("Pendulum-v1", {}),
        ("Pendulum-v1", {"train_freq": (1, "episode"), "gradient_steps": 40}),
        ("Pendulum-v1", {"n_steps": 3, "learning_rate": lambda left: 1e-3 * left}),
        (normalised, {"action_noise": NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))}),
    ],
)
def test_run_is_that_of_stable_baselines3(environment, further):
    """Same seed, same steps: the same weights within rounding, through everything of `learn`."""
    models = []
    for kind in (TD3, StockTD3):
        given = environment if isinstance(environment, str) else environment()
        models.append(kind("MlpPolicy", given, **{**SMALL, **further}).learn(250))
    ours, stock = models
    assert ours.update_kind.startswith("mlp")
    assert ours._n_updates == stock._n_updates > 0
    assert largest_difference(ours, stock) < 1e-4
    observation = np.array([0.1, 0.2, 0.3], np.float32)
    assert np.allclose(ours.predict(observation)[0], stock.predict(observation)[0], atol=1e-3)


@pytest.mark.parametrize("directions", [(TD3, StockTD3), (StockTD3, TD3), (TD3, TD3)])
def test_zip_files_go_both_ways(tmp_path, directions):
    """What one class saved the other goes on with: moments, counters and targets included."""
    first, second = directions
    models = [
        first("MlpPolicy", "Pendulum-v1", **SMALL).learn(120) for _ in range(2)
    ]  # two equal ones
    models[0].save(tmp_path / "model.zip")
    environment = gymnasium.make("Pendulum-v1")
    loaded = second.load(tmp_path / "model.zip", env=environment, device="cpu")
    assert largest_difference(models[1], loaded) < 1e-6
    loaded.replay_buffer = models[0].replay_buffer
    loaded.set_logger(models[0].logger)
    for model in (models[1], loaded):
        np.random.seed(5)  # noqa: NPY002 - stable-baselines3 draws its batches from this one
        torch.manual_seed(5)
        model.train(10, 16)
    assert largest_difference(models[1], loaded) < 1e-5
    steps = [m.actor.optimizer.state_dict()["state"] for m in models[:1]]
    assert steps[0][0]["step"] == models[0]._n_updates // 2


def test_callbacks_of_stable_baselines3_work(tmp_path):
    """An EvalCallback evaluates, keeps the best zip, and the stock class loads that."""
    evaluation = EvalCallback(
        Monitor(gymnasium.make("Pendulum-v1")),
        eval_freq=60,
        n_eval_episodes=1,
        verbose=0,
        best_model_save_path=str(tmp_path),
    )
    TD3("MlpPolicy", "Pendulum-v1", **SMALL).learn(130, callback=evaluation)
    assert np.isfinite(evaluation.best_mean_reward)
    StockTD3.load(tmp_path / "best_model.zip").predict(np.zeros(3, np.float32))


def test_policy_of_a_user_learns():
    """A policy that is no plain MLP (a dictionary of observations) takes the generic update."""

    class Parts(gymnasium.ObservationWrapper):
        def __init__(self):
            super().__init__(gymnasium.make("Pendulum-v1"))
            box = self.observation_space
            self.observation_space = gymnasium.spaces.Dict(
                place=gymnasium.spaces.Box(box.low[:2], box.high[:2]),
                speed=gymnasium.spaces.Box(box.low[2:], box.high[2:]),
            )

        def observation(self, observation):
            return {"place": observation[:2], "speed": observation[2:]}

    models = [kind("MultiInputPolicy", Parts(), **SMALL).learn(120) for kind in (TD3, StockTD3)]
    assert isinstance(models[0].update, AutogradUpdate)
    assert largest_difference(*models) < 1e-4
