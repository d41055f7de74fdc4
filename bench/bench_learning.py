"""Does it learn: the market whose optimum is known, Pendulum, a recorded chain. Minutes each.

    bench_learning.py known [SEED ...]       share of the optimal value
    bench_learning.py pendulum [SEED ...]    return after 10,000 and 20,000 steps
    bench_learning.py chain PATH [FOLDS]     walk forward through a recorded chain
    bench_learning.py summary LOG ...        mean and spread of what earlier runs printed

`known` and `pendulum` train ours and stock stable-baselines3 with the same settings, seeds and
number of updates, and print a JSON line for each seed, step and algorithm, then the summary.
`cpu_s` are processor seconds of the one thread that learns, without the evaluations; `wall_s` is
what a clock on the wall says, on a machine that may do other things.

`chain` learns from the past of each fold and trades what came after, beside the baselines of the
environment; the report and its picture go to bench/results/. It promises nothing.
"""

from __future__ import annotations

import json
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")

import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, stdev

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
from workers.contract.dtypes import SLOTS
from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.evaluation import Run, baselines, evaluate, report
from workers.trading_env.evaluation.picture import picture
from workers.trading_env.providers.files import states_of_file
from workers.trading_env.providers.known_optimum import (
    KnownOptimum,
    known_optimum_config,
    known_optimum_provider,
)
from workers.trading_env.providers.recorded import RecordedProvider
from workers.trading_env.providers.splits import walk_forward
from workers.trainer.cli import RewardScale
from workers.trainer.evaluation.evaluation import KNOWN_OPTIMUM, Evaluation, acting
from workers.trainer.replay.frames import FrameReplay
from workers.trainer.td3.algorithm import TD3
from workers.trainer.td3.networks import FrameEncoder

KINDS = {"ours": TD3, "SB3": StockTD3}
LANES, UPDATES, CHECK_EVERY = 64, 4000, 500
CHAIN_UPDATES, EMBARGO_STEPS = 2000, 16
#: The best policy for a discount of 0.9 is worth 99.98 % of the best one (its closed form says so),
#: and its critic has a tenth of the values to learn.
DISCOUNT, EPISODES = 0.9, 512
SEEDS = (0, 1, 2)
STEPS = (10_000, 20_000)
RESULTS = ROOT / "bench" / "results"
#: A layer of 8 over each frame, then two hidden ones. A quarter of it does not do: positions
#: that are off by 0.025 cost 5 % of the value, and a critic of 64 has its peak off by 0.03 to 0.08.
FRAMES = {
    "net_arch": [256, 256],
    "features_extractor_class": FrameEncoder,
    "features_extractor_kwargs": {"width": 8},
}


class Clock:
    """Processor and wall seconds, less those of what is not learning."""

    def __init__(self):
        self.cpu, self.wall = -time.process_time(), -time.monotonic()

    def read(self):
        """Seconds so far, rounded."""
        return {
            "cpu_s": round(time.process_time() + self.cpu, 1),
            "wall_s": round(time.monotonic() + self.wall, 1),
        }

    @contextmanager
    def stopped(self):
        """What is done meanwhile does not count."""
        cpu, wall = time.process_time(), time.monotonic()
        yield
        self.cpu += cpu - time.process_time()
        self.wall += wall - time.monotonic()


def line(bench, value, unit, peer=None, **more):
    """Print one figure and return it."""
    ratio = None if peer is None or value < 0 else round(value / peer, 3)
    entry = {"bench": f"learning.{bench}", "value": value, "unit": unit, "peer": peer}
    entry = {**entry, "ratio": ratio, **more}
    print(json.dumps(entry), flush=True)
    return entry


def falling(left):
    """A learning rate that falls to a fiftieth."""
    return 1e-3 * max(0.02, left)


def trading(kind, env, updates, seed, **kwargs):
    """A learner on trading lanes, one update a step of all lanes."""
    if kind is TD3:
        kwargs["replay_buffer_class"] = FrameReplay
    model = kind(
        "MlpPolicy",
        env,
        learning_rate=falling,
        buffer_size=160_000,
        learning_starts=32 * LANES,
        batch_size=256,
        train_freq=1,
        gradient_steps=1,
        policy_kwargs=FRAMES,
        action_noise=NormalActionNoise(np.zeros(SLOTS), np.full(SLOTS, 0.3)),
        seed=seed,
        device="cpu",
        **kwargs,
    )
    return model, LANES * (updates + 33)


class Look(BaseCallback):
    """Evaluates now and then."""

    def __init__(self, evaluation, best, **about):
        super().__init__()
        self.evaluation, self.best, self.about = evaluation, best, about
        self.clock, self.lines = Clock(), []

    def _on_step(self):
        updates = getattr(self.model, "_n_updates", 0)
        if updates and updates % CHECK_EVERY == 0:
            seconds = self.clock.read()
            with self.clock.stopped():
                share = self.evaluation.score(acting(self.model)).mean_reward / self.best
            what = {**self.about, "step": updates, **seconds}
            self.lines.append(line("known", round(share, 4), "of the optimal value", **what))
        return True


def bench_known(seeds):
    """Share of the optimal value on held-out episodes."""
    evaluation = Evaluation(KNOWN_OPTIMUM, TradingConfig(), lanes=64, steps=256)
    best = evaluation.score(KnownOptimum().act).mean_reward
    lines = []
    for seed in seeds:
        for name, kind in KINDS.items():
            market = known_optimum_provider(1 + seed, episodes=EPISODES)
            env = TradingVectorEnv(
                market, LANES, known_optimum_config(), autoreset_mode="SameStep"
            ).as_sb3()
            model, steps = trading(kind, RewardScale(env, 30.0), UPDATES, seed, gamma=DISCOUNT)
            evaluation_callback = Look(evaluation, best, algorithm=name, seed=seed)
            model.learn(steps, callback=evaluation_callback, log_interval=None)
            lines += evaluation_callback.lines
    summary(lines)


def bench_pendulum(seeds):
    """Return of each seed, evaluated over 20 episodes that begin alike for everybody."""
    lines = []
    for seed in seeds:
        for name, kind in KINDS.items():
            model = kind(
                "MlpPolicy",
                Monitor(gymnasium.make("Pendulum-v1")),
                learning_rate=1e-3,
                buffer_size=200_000,
                learning_starts=1000,
                batch_size=128,
                gamma=0.98,
                train_freq=1,
                gradient_steps=1,
                policy_kwargs={"net_arch": [256, 256]},
                action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.1)),
                seed=seed,
                device="cpu",
            )
            clock = Clock()
            for steps in STEPS:
                model.learn(10_000, reset_num_timesteps=steps == STEPS[0], log_interval=None)
                what = {"algorithm": name, "seed": seed, "step": steps, **clock.read()}
                with clock.stopped():
                    env = Monitor(gymnasium.make("Pendulum-v1"))
                    env.reset(seed=1000)
                    value, _ = evaluate_policy(model, env, n_eval_episodes=20)
                lines.append(line("pendulum", round(float(value), 1), "return", **what))
    summary(lines)


def summary(lines):
    """Mean and spread over the seeds at each step, ours beside stable-baselines3."""
    for bench, step in sorted({(entry["bench"], entry["step"]) for entry in lines}):
        found = {
            name: [
                entry
                for entry in lines
                if (entry["bench"], entry["step"], entry["algorithm"]) == (bench, step, name)
            ]
            for name in KINDS
        }
        if not all(found.values()):
            continue
        means, more = [], {}
        for name, entries in found.items():
            values = [entry["value"] for entry in entries]
            means.append(round(mean(values), 4))
            more[f"seeds, {name}"] = len(values)
            more[f"spread, {name}"] = round(stdev(values), 4) if len(values) > 1 else None
            more[f"worst, {name}"] = min(values)
            more[f"cpu_s, {name}"] = round(mean(entry["cpu_s"] for entry in entries), 1)
        short = bench.removeprefix("learning.")
        more["difference"] = round(means[0] - means[1], 4)
        line(f"{short} summary", means[0], entries[0]["unit"], means[1], step=step, **more)


def padded(runs):
    """Return the runs of one policy on several test parts as one run of as many episodes."""
    longest = max(len(run.reward) for run in runs)

    def column(name):
        parts = []
        for run in runs:
            values = getattr(run, name)
            short = longest + (name == "equity") - len(values)
            mode = "edge" if name == "equity" else "constant"
            parts.append(np.pad(values, ((0, short), (0, 0)), mode=mode))
        return np.concatenate(parts, axis=1)

    names = ("equity", "reward", "costs", "traded", "invested", "counted")
    return Run(
        **{name: column(name) for name in names},
        step_s=mean(run.step_s for run in runs),
        ended=sum((run.ended for run in runs), ()),
    )


def bench_chain(path, folds):
    """Walk forward: in each fold learn from the past, then trade what came after it, once."""
    config = TradingConfig()
    states = states_of_file(Path(path), config)
    step_s = float(np.median(np.diff(states["ts_event"]))) / 1e9
    splits = walk_forward(states["ts_event"], folds=folds, embargo_s=EMBARGO_STEPS * step_s)
    runs = {"seen": {}, "not seen": {}}
    for fold, split in enumerate(splits):
        past = RecordedProvider(states[split.train], random_start=True)
        markets = {"seen": past, "not seen": RecordedProvider(states[split.test])}
        policies, clock = {}, Clock()
        for seed in SEEDS:
            env = TradingVectorEnv(past, LANES, config, autoreset_mode="SameStep")
            model, steps = trading(TD3, RewardScale(env.as_sb3(), 100.0), CHAIN_UPDATES, seed)
            model.learn(steps, log_interval=None)
            policies[f"TD3, seed {seed}"] = acting(model)
        policies.update(baselines(config))
        for name, provider in markets.items():
            episodes = 16 if name == "seen" else 1
            for policy, run in evaluate(
                provider, policies, config, episodes=episodes, seed=1
            ).items():
                runs[name].setdefault(policy, []).append(run)
                grown = float((run.equity[-1] / run.equity[0] - 1.0).mean())
                what = {"market": name, "fold": fold, "algorithm": policy, **clock.read()}
                line("chain", round(100 * grown, 3), "% return", **what)
    RESULTS.mkdir(exist_ok=True)
    for name, found in runs.items():
        joined = {policy: padded(parts) for policy, parts in found.items()}
        document = report(joined)
        stem = f"chain-{name.replace(' ', '-')}"
        (RESULTS / f"{stem}.json").write_text(json.dumps(document, indent=2) + "\n")
        picture(joined, document, RESULTS / f"{stem}.png")
        for policy, entry in document["policies"].items():
            for measure in ("total_return", "mean_reward", "max_drawdown", "cost"):
                what = {"market": name, "algorithm": policy, "measure": measure}
                line("chain summary", unit="", **what, **entry["measures"][measure])
    print(f"{states.size} states, {folds} folds, {EMBARGO_STEPS} steps between past and future")


def main():
    """Run what was named; without a name `known` and `pendulum`."""
    name, *rest = sys.argv[1:] or [""]
    if name == "chain":
        bench_chain(rest[0], int(rest[1]) if rest[1:] else 3)
    elif name == "summary":
        printed = [text for log in rest for text in Path(log).read_text().splitlines()]
        lines = [json.loads(text) for text in printed if text.startswith("{")]
        summary([entry for entry in lines if "seed" in entry])
    else:
        benches = {"known": bench_known, "pendulum": bench_pendulum}
        for chosen in [benches[name]] if name else benches.values():
            chosen([int(seed) for seed in rest] or SEEDS)


if __name__ == "__main__":
    main()
