"""How good a policy is: its mean reward a step on held-out episodes, always the same ones.

The market is one that no feeder saw: synthetic with a seed of its own, or the one whose best policy
is known. All episodes are lanes of one `TradingVectorEnv`, the policy acts without noise, so that a
score says something about the policy and nothing about luck: the same policy gets the same score.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.vector import AutoresetMode

from workers.trading_env.providers.known_optimum import known_optimum_config, known_optimum_provider
from workers.trading_env.providers.synthetic import synthetic_provider
from workers.trading_env.vector import TradingVectorEnv

if TYPE_CHECKING:
    from config.trading import TradingConfig

Array = np.ndarray[Any, np.dtype[Any]]
HELD_OUT_SEED = 0x5EED  # of markets that are never trained on
STATES = 1200


@dataclass(frozen=True)
class Score:
    """What an evaluation found; rewards are those of the environment, not scaled."""

    mean_reward: float  # a step, over all lanes: this is the score
    deviation: float  # of the lanes' mean rewards
    mean_return: float  # of the equity over an episode
    worst_drawdown: float


class Evaluation:
    """Held-out episodes, made at the first use."""

    def __init__(self, source: str, config: TradingConfig, *, lanes: int, steps: int) -> None:
        """Evaluate on `source`, "synthetic" or "known_optimum", `lanes` episodes of `steps`."""
        self._source, self._lanes, self._steps = source, lanes, steps
        self._config = known_optimum_config() if source == "known_optimum" else config
        self._env: TradingVectorEnv | None = None

    def score(self, act: Callable[[Array], Array]) -> Score:
        """Let `act` (observations (n, 16, 100) to actions (n, 10)) trade every episode."""
        env = self._env = self._env or self._made()
        observations, info = env.reset(seed=HELD_OUT_SEED)
        start = peak = info["equity"].astype(float)
        rewards, counted = np.zeros(self._lanes), np.zeros(self._lanes)
        drawdown, running = np.zeros(self._lanes), np.ones(self._lanes, bool)
        equity = start
        for _ in range(self._steps):
            observations, reward, terminated, truncated, info = env.step(act(observations))
            rewards[running] += reward[running]
            counted[running] += 1.0
            equity = np.where(running, info["equity"], equity)
            peak = np.maximum(peak, equity)
            drawdown = np.maximum(drawdown, 1.0 - equity / peak)
            running &= ~(terminated | truncated)
            if not running.any():
                break
        lanes = rewards / np.maximum(counted, 1.0)
        return Score(
            float(rewards.sum() / max(1.0, counted.sum())),
            float(lanes.std()),
            float((equity / start - 1.0).mean()),
            float(drawdown.max()),
        )

    def _made(self) -> TradingVectorEnv:
        if self._source == "known_optimum":
            provider = known_optimum_provider(HELD_OUT_SEED, episodes=64, steps=self._steps)
        else:
            provider = synthetic_provider(HELD_OUT_SEED, states=STATES, config=self._config)
        mode = AutoresetMode.NEXT_STEP  # lanes that have ended are not looked at any more
        return TradingVectorEnv(
            provider, self._lanes, self._config, autoreset_mode=mode, copy=False
        )


def is_worse(score: float, published: float, tolerance: float) -> bool:
    """Tell whether a policy of `score` should not replace one of `published`.

    Whoever has no score yet replaces nobody who has one; `tolerance` is a share of |published|.
    """
    if math.isnan(published):
        return False
    return math.isnan(score) or score < published - tolerance * abs(published)
