"""How good a policy is: its mean reward a step on held-out episodes, always the same ones.

The market is one that nobody trains on: synthetic with a seed of its own, the one whose best policy
is known, a recorded file, or the part of one that was held out. All episodes are lanes of one
`TradingVectorEnv` and the policy acts without noise: the same policy always gets the same score.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workers.trading_env.env.vector import TradingVectorEnv
from workers.trading_env.evaluation import Policy, rollout
from workers.trading_env.providers.files import file_provider
from workers.trading_env.providers.known_optimum import known_optimum_config, known_optimum_provider
from workers.trading_env.providers.synthetic import synthetic_provider

if TYPE_CHECKING:
    from config.trading import TradingConfig
    from mesh.arrays import Array
    from workers.trading_env.providers.recorded import RecordedProvider
    from workers.trainer.td3.algorithm import TD3

HELD_OUT_SEED = 0x5EED  # of markets that are never trained on
STATES = 1200
SYNTHETIC, KNOWN_OPTIMUM = "synthetic", "known_optimum"


def acting(model: TD3) -> Policy:
    """Return the model as an evaluation calls it."""

    def act(observations: Array) -> Array:
        actions, _ = model.predict(observations, deterministic=True)
        return actions

    return act


@dataclass(frozen=True)
class Score:
    """What an evaluation found; rewards are those of the environment, not scaled."""

    mean_reward: float  # a step, over all episodes: this is the score
    mean_return: float  # of the equity over an episode
    worst_drawdown: float
    mean_costs: float  # of an episode, quote currency


class Evaluation:
    """Held-out episodes, made at the first use where `prepare` was not called."""

    def __init__(
        self,
        source: str | RecordedProvider,
        config: TradingConfig,
        *,
        lanes: int,
        steps: int,
        seed: int = HELD_OUT_SEED,
    ) -> None:
        """Evaluate on a market nobody trains on.

        Args:
            source: "synthetic" or "known_optimum" (made with `seed`), the path of a recorded file
                of any known family, or a provider of states.
            config: rules of trading; "known_optimum" has its own.
            lanes: episodes.
            steps: the most steps of an episode.
            seed: of a simulated market.
        """
        self._lanes, self._steps, self._seed = lanes, steps, seed
        self._config = known_optimum_config() if source == KNOWN_OPTIMUM else config
        self._provider: RecordedProvider | None = None
        self._source = source if isinstance(source, str) else ""
        if not isinstance(source, str):
            self._provider = source

    def score(self, policy: Policy) -> Score:
        """Let `policy` (observations (n, 16, 100) to actions (n, 10)) trade every episode."""
        provider = self.prepare()
        env = TradingVectorEnv(provider, self._lanes, self._config, copy=False)
        longest = max(run.size for run in provider.segments) - 1
        run = rollout(env, policy, seed=HELD_OUT_SEED, steps=min(self._steps, longest))
        peaks = np.maximum.accumulate(run.equity, axis=0)
        return Score(
            mean_reward=float(run.reward.sum() / max(1, run.counted.sum())),
            mean_return=float((run.equity[-1] / run.equity[0] - 1.0).mean()),
            worst_drawdown=float((1.0 - run.equity / peaks).max()),
            mean_costs=float(run.costs.sum(0).mean()),
        )

    def prepare(self) -> RecordedProvider:
        """Make the episodes and return them; errors of reading a file pass through."""
        self._provider = self._provider or self._make_episodes()
        return self._provider

    def _make_episodes(self) -> RecordedProvider:
        if self._source == KNOWN_OPTIMUM:
            return known_optimum_provider(self._seed, episodes=64, steps=self._steps)
        if self._source == SYNTHETIC:
            return synthetic_provider(self._seed, states=STATES, config=self._config)
        return file_provider(Path(self._source), self._config, random_start=True, min_steps=16)
