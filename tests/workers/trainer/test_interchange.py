"""What users of stable-baselines3 bring along works here: files, noise, spaces, callbacks, buffers.

Each is done with the stock class and with ours, from the same seed: the weights are the same
within rounding, and `update_kind` says by which update.
"""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.callbacks import (
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import BitFlippingEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import (
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import nn

from tests.workers.trainer.batches import largest_difference
from workers.trainer.td3.algorithm import TD3

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
SMALL = {
    "learning_starts": 40,
    "batch_size": 16,
    "buffer_size": 1000,
    "seed": 3,
    "device": "cpu",
    "policy_kwargs": {"net_arch": {"pi": [16, 8], "qf": [24]}},
}


def noise():
    """Correlated noise of one dimension."""
    return OrnsteinUhlenbeckActionNoise(np.zeros(1), 0.2 * np.ones(1))


def both(policy, env, steps=120, **kwargs):
    """Ours and stock, trained alike; `env` makes one."""
    return [kind(policy, env(), **{**SMALL, **kwargs}).learn(steps) for kind in (TD3, StockTD3)]


def pendulum():
    """The environment."""
    return Monitor(gymnasium.make("Pendulum-v1"))


@pytest.mark.parametrize("vectorised", [False, True])
def test_correlated_noise_in_several_environments(vectorised):
    """One noise, made one for each environment by `learn`, or given as such."""
    made = [VectorizedActionNoise(noise(), 2) if vectorised else noise() for _ in range(2)]
    models = [
        kind(
            "MlpPolicy",
            make_vec_env("Pendulum-v1", n_envs=2),
            train_freq=1,
            gradient_steps=2,
            action_noise=one,
            **SMALL,
        ).learn(160)
        for kind, one in zip((TD3, StockTD3), made, strict=True)
    ]
    assert models[0].update_kind.startswith("mlp")
    assert models[0]._n_updates == models[1]._n_updates > 100
    assert largest_difference(*models) < 1e-4


@pytest.mark.parametrize("saver", [StockTD3, TD3])
def test_saved_run_goes_on_alike_in_both(tmp_path, saver):
    """Zip and replay buffer, with a schedule, noise and layers of its own: loaded by ours and by
    stock and trained further from the same seed, counters going on, the weights stay the same."""
    rate = {"learning_rate": lambda left: 2e-3 * left, "action_noise": noise()}
    first = saver("MlpPolicy", pendulum(), **rate, **SMALL).learn(150)
    first.save(tmp_path / "m")
    first.save_replay_buffer(tmp_path / "replay")
    models = []
    for kind in (TD3, StockTD3):
        model = kind.load(tmp_path / "m", env=pendulum(), device="cpu")
        model.load_replay_buffer(tmp_path / "replay")
        assert model.num_timesteps == 150
        assert model.lr_schedule(0.5) == 1e-3
        model.set_random_seed(11)
        models.append(model.learn(90, reset_num_timesteps=False))
    ours, stock = models
    assert ours.num_timesteps == stock.num_timesteps == 240
    assert ours._n_updates == stock._n_updates == first._n_updates + 90
    assert largest_difference(ours, stock) < 1e-4
    assert largest_difference(ours, first) > 1e-3
    assert ours.replay_buffer.actions == pytest.approx(stock.replay_buffer.actions, abs=1e-3)


def test_parameters_are_given_and_taken(tmp_path):
    """`get_parameters` has moments; what `set_parameters` took, a file or a dictionary, is what is
    learned on, in the midst of a run too; parts that do not fit are refused."""
    ours, stock = both("MlpPolicy", pendulum)
    wanted, found = stock.get_parameters(), ours.get_parameters()
    assert set(found) == set(wanted)
    for name in ("actor.optimizer", "critic.optimizer"):
        assert found[name]["param_groups"] == wanted[name]["param_groups"]
        for key, state in wanted[name]["state"].items():
            assert set(found[name]["state"][key]) == set(state)
            assert torch.allclose(found[name]["state"][key]["exp_avg"], state["exp_avg"], atol=1e-4)
    stock.save(tmp_path / "m")
    ours.train(5, 16)
    assert largest_difference(ours, stock) > 1e-4
    for source in (wanted, str(tmp_path / "m.zip")):
        ours.set_parameters(source, device="cpu")
        assert largest_difference(ours, stock) == 0.0
        moments = ours.get_parameters()["actor.optimizer"]["state"][0]
        assert torch.equal(moments["exp_avg"], wanted["actor.optimizer"]["state"][0]["exp_avg"])
    ours.replay_buffer = stock.replay_buffer
    ours._n_updates = stock._n_updates
    for model in (ours, stock):
        model.set_random_seed(5)
        model.train(10, 16)
    assert largest_difference(ours, stock) < 1e-5
    with pytest.raises(ValueError, match=r"expected .*critic"):
        ours.set_parameters({"policy": wanted["policy"]}, exact_match=True)
    ours.set_parameters({"policy": wanted["policy"]}, exact_match=False)
    assert torch.equal(ours.actor.mu[0].bias, wanted["policy"]["actor.mu.0.bias"])


def test_file_is_no_larger_than_that_of_the_stock_class(tmp_path):
    """Parameters that are views of one vector are saved as they are, not with the whole vector."""
    ours, stock = both("MlpPolicy", pendulum, policy_kwargs={"net_arch": [256, 256]}, steps=45)
    for name, model in (("ours", ours), ("stock", stock)):
        model.save(tmp_path / name)
        model.policy.save(tmp_path / f"{name}.pt")
    for suffix in (".zip", ".pt"):
        sizes = [(tmp_path / f"{name}{suffix}").stat().st_size for name in ("ours", "stock")]
        assert sizes[0] < 1.1 * sizes[1], (suffix, sizes)


def test_settings_that_are_ours_are_taken_by_load(tmp_path):
    """They are of a machine, not of a model: not in the file, and given anew with `load`."""
    TD3("MlpPolicy", pendulum(), precision="high", **SMALL).save(tmp_path / "m")
    loaded = TD3.load(tmp_path / "m", device="cpu", precision="medium", compile_networks=True)
    assert loaded.precision == "medium"
    assert loaded.update is not None
    assert loaded.update_kind.endswith("nothing to compile")
    assert TD3.load(tmp_path / "m", device="cpu").precision == "highest"


def test_callbacks_of_stable_baselines3_end_and_save(tmp_path):
    """Checkpoints with replay buffers, evaluations that stop the training, counters of episodes."""
    saves = CheckpointCallback(50, str(tmp_path), save_replay_buffer=True)
    events = EveryNTimesteps(60, CheckpointCallback(1, str(tmp_path), name_prefix="every"))
    stops = EvalCallback(
        pendulum(),
        eval_freq=60,
        n_eval_episodes=1,
        verbose=0,
        callback_on_new_best=StopTrainingOnRewardThreshold(-1e9),
    )
    model = TD3("MlpPolicy", pendulum(), **SMALL)
    model.learn(500, callback=CallbackList([saves, events, stops]))
    assert model.num_timesteps == 60  # any return is above that threshold
    stock = StockTD3.load(tmp_path / "rl_model_50_steps.zip", env=pendulum(), device="cpu")
    stock.load_replay_buffer(tmp_path / "rl_model_replay_buffer_50_steps.pkl")
    assert stock.replay_buffer.size() == 49  # the 50th step is stored after the callback
    assert (tmp_path / "every_60_steps.zip").exists()
    model.learn(10_000, callback=StopTrainingOnMaxEpisodes(2))
    assert model.num_timesteps == 400
    patience = EvalCallback(
        pendulum(),
        eval_freq=20,
        n_eval_episodes=1,
        verbose=0,
        callback_after_eval=StopTrainingOnNoModelImprovement(1, min_evals=1),
    )
    patience.best_mean_reward = 0.0  # that no policy reaches
    model.learn(10_000, callback=patience)
    assert model.num_timesteps == 60


class Picture(gymnasium.Env):
    """A bright spot to be moved to the middle."""

    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed, options=options)
        self.place, self.count = int(self.np_random.integers(36)), 0
        return self.seen(), {}

    def step(self, action):
        self.place = int(np.clip(self.place + round(5 * float(action[0])), 0, 35))
        self.count += 1
        return self.seen(), -abs(self.place - 18) / 18, False, self.count == 20, {}

    def seen(self):
        picture = np.zeros((1, 36, 36), np.uint8)
        picture[0, :, self.place] = 255
        return picture


def test_pictures():
    """CnnPolicy: autograd, after the stock class's own scaling of the bytes."""
    ours, stock = both("CnnPolicy", Picture, 60, policy_kwargs={"net_arch": [8]})
    seen = ours.observation_space
    assert ours.update_kind == f"autograd: observations are {seen}, not a box of plain numbers"
    assert ours._n_updates == stock._n_updates > 10
    assert largest_difference(ours, stock) < 1e-4


def test_hindsight_replay():
    """HerReplayBuffer over a dictionary of observations, goals relabelled as it does."""
    ours, stock = both(
        "MultiInputPolicy",
        lambda: BitFlippingEnv(4, continuous=True),
        120,
        replay_buffer_class=HerReplayBuffer,
        replay_buffer_kwargs={"n_sampled_goal": 2, "goal_selection_strategy": "future"},
    )
    assert isinstance(ours.replay_buffer, HerReplayBuffer)
    assert ours.update_kind.startswith("autograd: observations are Dict")
    assert ours._n_updates == stock._n_updates > 50
    assert largest_difference(ours, stock) < 1e-4


class Scaled(ContinuousCritic):
    """The layers of the stock critic, another function of them."""

    def forward(self, obs, actions):
        return tuple(3.0 * value for value in super().forward(obs, actions))

    def q1_forward(self, obs, actions):
        return 3.0 * super().q1_forward(obs, actions)


class Halved(Actor):
    """The layers of the stock actor, another function of them."""

    def forward(self, obs):
        return 0.5 * super().forward(obs)


class OwnCritic(TD3Policy):
    """A user's policy with a critic of its own."""

    def make_critic(self, features_extractor=None):
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        return Scaled(**kwargs).to(self.device)


class OwnActor(TD3Policy):
    """A user's policy with an actor of its own."""

    def make_actor(self, features_extractor=None):
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return Halved(**kwargs).to(self.device)


@pytest.mark.parametrize(
    ("policy", "kind"),
    [
        (OwnCritic, "autograd: the critic is a Scaled"),
        (OwnActor, "autograd: the actor is a Halved"),
    ],
)
def test_policies_of_a_user(policy, kind):
    """Networks that look like the stock ones and compute something else are not taken for them."""
    ours, stock = both(policy, pendulum)
    assert ours.update_kind == kind
    assert largest_difference(ours, stock) < 1e-4


@pytest.mark.parametrize(
    ("further", "kind"),
    [
        ({"net_arch": [16], "optimizer_kwargs": {"weight_decay": 0.1}}, "mlp"),
        ({"net_arch": [16], "share_features_extractor": True}, "mlp"),
        ({"net_arch": [16], "n_critics": 1}, "mlp"),
        ({"net_arch": []}, "autograd: its layers are"),
        ({"net_arch": [16], "optimizer_class": torch.optim.AdamW}, "stable-baselines3: the optimi"),
        ({"net_arch": [16], "optimizer_kwargs": {"amsgrad": True}}, "stable-baselines3: Adam"),
        (
            {
                "net_arch": [16],
                "optimizer_kwargs": {"weight_decay": 0.1, "decoupled_weight_decay": True},
            },
            "stable-baselines3: Adam",
        ),
        ({"net_arch": [16], "activation_fn": nn.ELU}, "autograd: its layers are"),
    ],
)
def test_what_a_policy_is_told(further, kind):
    """Optimisers, layers and extractors as they are given: the same weights, or not our update."""
    ours, stock = both("MlpPolicy", pendulum, policy_kwargs=further, learning_rate=3e-3)
    assert ours.update_kind.startswith(kind)
    assert largest_difference(ours, stock) < 1e-4


def test_noise_that_is_replaced_and_steps_of_several_updates():
    """Other noise and other constants between two `learn`s, as many updates as steps."""
    models = both("MlpPolicy", pendulum, 60, train_freq=4, gradient_steps=-1)
    for model in models:
        model.action_noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
        model.tau, model.gamma = 0.05, 0.9
        model.set_random_seed(4)
        model.learn(40, reset_num_timesteps=False)
    assert models[0].num_timesteps == 100
    assert largest_difference(*models) < 1e-4
