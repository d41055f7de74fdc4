"""Letting policies trade the same episodes, all episodes as lanes of one batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from config.trading import TradingConfig
from mesh.arrays import Array
from workers.trading_env.env.vector import TradingVectorEnv

if TYPE_CHECKING:
    from workers.trading_env.providers.protocol import IndexedProvider

#: Observations (n, 16, 100) to actions (n, 10). A policy with a method `begin(env)` is given the
#: environment before its first observation.
Policy = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one policy did in E episodes of at most T steps; what is after an end is not counted."""

    equity: Array  # float64 (T + 1, E), quote currency
    reward: Array  # float64 (T, E)
    costs: Array  # float64 (T, E), quote currency
    traded: Array  # float64 (T, E), quote currency: |contracts| x price x multiplier
    invested: Array  # bool (T, E): a position was held during the step
    counted: Array  # bool (T, E): the step belongs to the episode
    step_s: float  # market seconds a step, on the average
    ended: tuple[str, ...]  # why each episode ended; empty: it was cut off by `steps`

    @property
    def returns(self) -> Array:
        """Returns of equity, float64 (T, E); 0 where not counted."""
        before = np.where(self.counted, self.equity[:-1], 1.0)
        gained: Array = np.where(self.counted, (self.equity[1:] - before) / before, 0.0)
        return gained


def rollout(env: TradingVectorEnv, policy: Policy, *, seed: int, steps: int) -> Run:
    """Play the first episode of each lane.

    Args:
        env: The E lanes.
        policy: From observations (E, 16, 100) to actions (E, 10).
        seed: Seed of the first lane; lane i has seed + i.
        steps: Largest number of steps.

    Returns:
        What the policy did in E episodes of at most `steps` steps.
    """
    observations, info = env.reset(seed=seed)
    if hasattr(policy, "begin"):
        policy.begin(env)
    lanes, multiplier = env.num_envs, env.config.multiplier
    equity = np.full((steps + 1, lanes), np.nan)
    columns = {name: np.zeros((steps, lanes)) for name in ("reward", "costs", "traded")}
    invested, counted = np.zeros((steps, lanes), bool), np.zeros((steps, lanes), bool)
    running, ended = np.ones(lanes, bool), np.full(lanes, "", object)
    equity[0], first = info["equity"], info["ts_event"].copy()
    last, done = first.copy(), 0
    for step in range(steps):
        observations, reward, terminated, truncated, info = env.step(policy(observations))
        price = env.market.block().price[env.market.now]
        counted[step] = running
        equity[step + 1] = np.where(running, info["equity"], equity[step])
        columns["reward"][step], columns["costs"][step] = reward, info["costs"]
        columns["traded"][step] = (np.abs(info["fills"]) * price).sum(1) * multiplier
        invested[step] = (env.simulation.accounts.positions != 0).any(1)
        last, done = np.where(running, info["ts_event"], last), step + 1
        over = running & (terminated | truncated)
        if over.any():
            ended[over] = info["ended"][over]
            running = running & ~over
            if not running.any():
                break
    kept = {name: np.where(counted, column, 0.0)[:done] for name, column in columns.items()}
    return Run(
        equity=equity[: done + 1],
        invested=(invested & counted)[:done],
        counted=counted[:done],
        step_s=float((last - first).sum() / 1e9 / max(1, counted.sum())),
        ended=tuple(ended),
        **kept,
    )


def evaluate(
    provider: IndexedProvider,
    policies: Mapping[str, Policy],
    config: TradingConfig | None = None,
    *,
    episodes: int = 16,
    seed: int = 0,
    steps: int = 100_000,
) -> dict[str, Run]:
    """Let each policy trade the same episodes.

    Args:
        provider: The market.
        policies: The policies by name.
        config: The rules of the environment; the defaults without one.
        episodes: Number of episodes, the lanes of one environment.
        seed: The same seed gives the same episodes.
        steps: Largest number of steps of an episode.

    Returns:
        The runs by the policy's name.
    """
    config = TradingConfig() if config is None else config
    longest = min(steps, max(run.size for run in provider.segments) - 1)
    runs = {}
    for name, policy in policies.items():
        env = TradingVectorEnv(provider, episodes, config, copy=False)
        runs[name] = rollout(env, policy, seed=seed, steps=longest)
    return runs
