"""Does it learn: the market whose optimum is known, Pendulum, a recorded chain. Minutes each.

    bench_learning.py [known] [pendulum [SEED ...]] [chain PATH]

`known` and `pendulum` train ours and stock stable-baselines3 with the same settings and seeds.
Times are processor seconds of one thread. `chain` trains on the first two thirds of a recorded day
and evaluates on the rest beside the baselines of the environment; the picture goes to
bench/results/chain.png. It promises nothing.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
import warnings
from pathlib import Path
from statistics import mean

import numpy as np
import torch

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
torch.set_num_threads(1)
warnings.filterwarnings("ignore")

import gymnasium
from stable_baselines3 import TD3 as StockTD3  # noqa: N811 - two classes of one name meet here
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise

from config.trading import TradingConfig
from workers.records import SLOTS
from workers.trading_env.evaluation import baselines, evaluate, report
from workers.trading_env.evaluation.picture import picture
from workers.trading_env.providers.files import states_of_file
from workers.trading_env.providers.known_optimum import KnownOptimum
from workers.trading_env.providers.recorded import RecordedProvider
from workers.trading_env.vector import TradingVectorEnv
from workers.trainer.algorithm import TD3
from workers.trainer.evaluation import KNOWN_OPTIMUM, Evaluation
from workers.trainer.frame_replay import FrameReplay
from workers.trainer.policies import FrameEncoder
from workers.trainer.train import RewardScale, acting, environment

KINDS = {"ours": TD3, "SB3": StockTD3}
LANES, UPDATES, LOOK_EVERY = 16, 5000, 500
SEEDS = (0, 1, 2)
#: Small, so that a bench is minutes: a layer of 8 over each frame, then two hidden ones.
FRAMES = {
    "net_arch": [64, 64],
    "features_extractor_class": FrameEncoder,
    "features_extractor_kwargs": {"width": 8},
}


def line(bench, value, unit, peer=None, ratio=None):
    """Print one figure."""
    entry = {"bench": f"learning.{bench}", "value": value, "unit": unit}
    print(json.dumps({**entry, "peer": peer, "ratio": ratio}), flush=True)


def falling(left):
    """A learning rate that falls to a fiftieth."""
    return 1e-3 * max(0.02, left)


def trading(kind, env, updates, **kwargs):
    """A learner on trading lanes, one update a step of all lanes."""
    if kind is TD3:
        kwargs["replay_buffer_class"] = FrameReplay
    model = kind(
        "MlpPolicy", env, learning_rate=falling, buffer_size=40_000, learning_starts=125 * LANES,
        batch_size=256, train_freq=1, gradient_steps=1, policy_kwargs=FRAMES,
        action_noise=NormalActionNoise(np.zeros(SLOTS), np.full(SLOTS, 0.2)), seed=0,
        device="cpu", **kwargs,
    )  # fmt: skip
    return model, LANES * (updates + 126)


class Look(BaseCallback):
    """Evaluates now and then, and does not count the processor seconds of that."""

    def __init__(self, name, evaluation, best):
        super().__init__()
        self.name, self.evaluation, self.best = name, evaluation, best
        self.began, self.looking, self.reached = time.process_time(), 0.0, None
        self.share = 0.0

    def _on_step(self):
        updates = getattr(self.model, "_n_updates", 0)
        if updates and updates % LOOK_EVERY == 0:
            looked = time.process_time()
            score = self.evaluation.score(acting(self.model)).mean_reward
            self.looking += time.process_time() - looked
            self.share = score / self.best
            seconds = round(time.process_time() - self.began - self.looking, 1)
            if self.share >= 0.95 and self.reached is None:
                self.reached = seconds
            what = f"known optimum: {self.name} after {updates} updates, {seconds} s"
            line(what, round(self.share, 3), "of the optimal value", 0.95)
        return True


def bench_known():
    """Share of the optimal value on held-out episodes, and when it first was within 5 %."""
    evaluation = Evaluation(KNOWN_OPTIMUM, TradingConfig(), lanes=64, steps=256)
    best = evaluation.score(KnownOptimum().act).mean_reward
    for name, kind in KINDS.items():
        env = environment(KNOWN_OPTIMUM, lanes=LANES, seed=1)
        model, steps = trading(kind, RewardScale(env.as_sb3(), 30.0), UPDATES)
        look = Look(name, evaluation, best)
        model.learn(steps, callback=look, log_interval=None)
        line(
            f"known optimum: {name}, at the end", round(look.share, 3), "of the optimal value", 0.95
        )
        line(f"known optimum: {name}, first within 5 %", look.reached, "s")


def bench_pendulum(seeds=SEEDS):
    """Return after 10,000 and 20,000 steps of each seed, evaluated over 20 episodes."""
    found = {name: {10_000: [], 20_000: []} for name in KINDS}
    for seed in seeds:
        for name, kind in KINDS.items():
            model = kind(
                "MlpPolicy", Monitor(gymnasium.make("Pendulum-v1")), learning_rate=1e-3,
                buffer_size=200_000, learning_starts=1000, batch_size=128, gamma=0.98,
                train_freq=1, gradient_steps=1, policy_kwargs={"net_arch": [64, 64]},
                action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.1)), seed=seed,
                device="cpu",
            )  # fmt: skip
            began = time.process_time()
            for steps in (10_000, 20_000):
                model.learn(10_000, reset_num_timesteps=steps == 10_000, log_interval=None)
                env = Monitor(gymnasium.make("Pendulum-v1"))
                env.reset(seed=1000)
                value, _ = evaluate_policy(model, env, n_eval_episodes=20)
                found[name][steps].append(float(value))
                seconds = round(time.process_time() - began)
                what = f"Pendulum: {name}, seed {seed}, {steps} steps, {seconds} s"
                line(what, round(float(value), 1), "return")
    for steps in (10_000, 20_000):
        ours, stock = (round(mean(found[name][steps]), 1) for name in KINDS)
        line(f"Pendulum: {steps} steps, mean of {len(seeds)}", ours, "return", stock)


def bench_chain(path):
    """Walk forward: learn from the first two thirds of the states, trade the last third."""
    config = TradingConfig()
    states = states_of_file(Path(path), config)
    cut = 2 * states.size // 3
    past, future = RecordedProvider(states[:cut], random_start=True), RecordedProvider(states[cut:])
    env = TradingVectorEnv(past, LANES, config, autoreset_mode="SameStep")
    model, steps = trading(TD3, RewardScale(env.as_sb3(), 100.0), 3000)
    model.learn(steps, log_interval=None)
    policies = {"TD3": acting(model), **baselines(config)}
    for name, provider in (("seen", past), ("not seen", future)):
        runs = evaluate(provider, policies, config, episodes=16 if name == "seen" else 1, seed=1)
        for policy, run in runs.items():
            value = float((run.equity[-1] / run.equity[0] - 1.0).mean())
            line(f"chain, {name}: {policy}", round(100 * value, 3), "% return")
    target = ROOT / "bench" / "results" / "chain.png"
    target.parent.mkdir(exist_ok=True)
    picture(runs, report(runs), target)
    print(f"picture: {target.relative_to(ROOT)}; {states.size} states, {cut} to learn from")


def main():
    """Run what was named, or `known` and `pendulum`."""
    names = sys.argv[1:] or ["known", "pendulum"]
    if names[0] == "chain":
        bench_chain(names[1])
        return
    if names[0] == "pendulum" and names[1:]:
        bench_pendulum([int(seed) for seed in names[1:]])
        return
    for name in names:
        {"known": bench_known, "pendulum": bench_pendulum}[name]()


if __name__ == "__main__":
    main()
