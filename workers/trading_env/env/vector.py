"""`TradingVectorEnv`: n trading environments stepped as one, `gymnasium.vector.VectorEnv`.

Lane i does exactly what `TradingEnvironment` does with seed + i: the same simulation steps both.
Over an indexed provider all lanes read one block of states and a step is a single call; over
streams (a provider a lane, or one for all of them) a block of the newest states is made each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from config.trading import TradingConfig
from mesh.arrays import Array
from workers.contract.dtypes import SLOTS
from workers.trading_env.account.simulation import Simulation
from workers.trading_env.env.episode import END_OF_DATA, INFO, RUIN, SEEDS, STEP_LIMIT
from workers.trading_env.env.lane_markets import lane_market
from workers.trading_env.env.spaces import action_space, observation_space

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from workers.trading_env.account._kernel import Outcome
    from workers.trading_env.providers.protocol import MarketDataProvider

WHY = f"<U{max(map(len, (RUIN, END_OF_DATA, STEP_LIMIT)))}"


class TradingVectorEnv(VectorEnv[Array, Array, Array]):
    """Observations float32 (n, 16, 100), actions float32 (n, 10), rewards float64 (n,).

    `info` has the arrays cash, equity, costs (n,), fills (n, 10), reasons (n, 10), step and
    ts_event (n,). With `copy=False` observations are a view that is valid until the next step.
    Autoreset is next-step (gymnasium's default: the step after an end resets and ignores the
    action), same-step (`final_obs` and `final_info` in info) or disabled (`options` of reset may
    have a `reset_mask`).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - gymnasium's own
        "render_modes": [],
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        provider: MarketDataProvider | Sequence[MarketDataProvider],
        num_envs: int = 1,
        config: TradingConfig | None = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        copy: bool = True,
    ) -> None:
        """Make `num_envs` lanes on one provider, or one lane on each of several.

        Args:
            provider: One provider for all lanes, or one for each lane.
            num_envs: Number of lanes; may stay 1 with several providers.
            config: The rules; the defaults without one.
            autoreset_mode: What happens after the end of an episode, see gymnasium.
            copy: Return a copy of the observations, not a view valid until the next step.

        Raises:
            TypeError: A provider lacks `reset` or `advance`.
            ValueError: `num_envs` is below 1 or not the number of providers.
        """
        self.config = TradingConfig() if config is None else config
        #: where the lanes are: rows `now` and `then` of `block()`
        self.market = lane_market(provider, num_envs, self.config)
        self.num_envs = self.market.then.size
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode(autoreset_mode)}
        self._mode = AutoresetMode(autoreset_mode)
        self.single_observation_space = observation_space()
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.simulation = Simulation(self.num_envs, self.config)
        self._copy = copy
        self._rng = [np.random.default_rng() for _ in range(self.num_envs)]
        self._ended = np.ones(self.num_envs, bool)
        self._started = False
        self._some_ended = True
        everyone = np.ones(self.num_envs, bool)
        self._masks = {f"_{name}": everyone for name in INFO}

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """Start episodes in all lanes, or in those of a mask.

        Args:
            seed: Seed of the first lane, lane i has seed + i; or a seed for each lane.
            options: `reset_mask`, bool (n,), chooses the lanes.

        Returns:
            (observations, info): float32 (n, 16, 100), and the arrays the class describes.

        Raises:
            ValueError: The number of seeds, or the mask's dtype or shape, is wrong.
        """
        mask = (options or {}).get("reset_mask")
        lanes = np.arange(self.num_envs) if mask is None else _lanes_of(mask, self.num_envs)
        seeds = (
            [None if seed is None else seed + lane for lane in range(self.num_envs)]
            if (seed is None or isinstance(seed, int | np.integer))
            else list(seed)
        )
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        for lane in lanes:
            if seeds[lane] is not None or not self._started:
                self._rng[lane], _ = seeding.np_random(seeds[lane])
        self._start(lanes)
        self.simulation.reset(self.market.block(), self.market.then[lanes], lanes)
        self._ended[lanes] = False
        self._some_ended = bool(self._ended.any())
        self._started = True
        return self._observations(), self._info(None)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step all lanes.

        Args:
            actions: Target positions (n, 10) as shares of the contract limit.

        Returns:
            (observations, rewards, terminated, truncated, info): float32 (n, 16, 100),
            float64 (n,), bool (n,), bool (n,), and the arrays the class describes.

        Raises:
            ResetNeeded: `reset` was not called, or a lane has ended and is not reset by itself.
            InvalidAction: Not numbers, another shape, or NaN or infinity unless `on_bad_action` is
                "hold".
            BadMarketData: A state broke a rule and `on_bad_data` is "raise".
        """
        if not self._started:
            raise ResetNeeded("no episode is running; call reset first")
        actions = self.simulation.checked(actions)
        ended = self._ended if self._some_ended else None
        if ended is not None and self._mode is not AutoresetMode.NEXT_STEP:
            which = np.flatnonzero(ended).tolist()
            raise ResetNeeded(f"the episodes of lanes {which[:8]} have ended; reset them")
        data_ends = self.market.move(ended)
        if ended is not None:
            self._start(np.flatnonzero(ended))
        market = self.market
        outcome = self.simulation.move(
            market.block(), market.now, market.then, actions, ended, data_ends=data_ends
        )
        return self._finish(outcome, data_ends)

    def _finish(
        self, outcome: Outcome, data_ends: Array
    ) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Say which episodes ended, and in same-step mode begin the next ones."""
        terminated, truncated = outcome.ruined, outcome.truncated
        self._ended, self._some_ended = outcome.ended, outcome.any_ended
        info = self._info(outcome)
        if self._some_ended:
            info["ended"] = why = np.zeros(self.num_envs, WHY)
            why[truncated & data_ends], why[truncated & ~data_ends] = END_OF_DATA, STEP_LIMIT
            why[terminated] = RUIN
            info["_ended"] = outcome.ended.copy()
            if self._mode is AutoresetMode.SAME_STEP:
                self._restart(np.flatnonzero(self._ended), info)
        if self.config.swap_terminated_truncated:
            terminated, truncated = truncated, terminated
        return self._observations(), outcome.reward, terminated, truncated, info

    def as_sb3(self) -> VecEnv:
        """These lanes as a stable-baselines3 `VecEnv`; only this call imports stable-baselines3."""
        from workers.trading_env.env.sb3 import SB3View  # noqa: PLC0415 - see the docstring

        return SB3View(self, self.config)

    def _start(self, lanes: Array) -> None:
        seeds = [int(self._rng[lane].integers(SEEDS)) for lane in lanes.tolist()]
        self.market.start(lanes, seeds)

    def _restart(self, lanes: Array, info: dict[str, Any]) -> None:
        """Begin new episodes in the same step; what ended is kept in `info`."""
        final = np.full(self.num_envs, None, object)
        final_info = {name: value.copy() for name, value in info.items() if name[0] != "_"}
        for lane in lanes.tolist():
            final[lane] = self.simulation.windows.view()[lane].copy()
        mask = self._ended.copy()
        self._start(lanes)
        self.simulation.reset(self.market.block(), self.market.then[lanes], lanes)
        self._ended = np.zeros(self.num_envs, bool)
        self._some_ended = False
        info.update(self._info(None), final_obs=final, _final_obs=mask)
        for name in ("costs", "fills", "reasons"):
            info[name] = np.where(
                mask.reshape(-1, *[1] * (final_info[name].ndim - 1)), 0, final_info[name]
            )
        final_info.update({f"_{name}": mask for name in list(final_info)})
        info["final_info"], info["_final_info"] = final_info, mask
        info.pop("ended"), info.pop("_ended")

    def _observations(self) -> Array:
        windows = self.simulation.windows.view()
        return windows.copy() if self._copy else windows

    def _info(self, outcome: Outcome | None) -> dict[str, Any]:
        if outcome is not None:
            return {
                "cash": outcome.cash,
                "equity": outcome.equity,
                "costs": outcome.costs,
                "fills": outcome.change,
                "reasons": outcome.reasons,
                "step": outcome.steps,
                "ts_event": outcome.ts_event,
                **self._masks,
            }
        accounts, n = self.simulation.accounts, self.num_envs
        return {
            "cash": accounts.cash.copy(),
            "equity": accounts.equity.copy(),
            "costs": np.zeros(n),
            "fills": np.zeros((n, SLOTS)),
            "reasons": np.zeros((n, SLOTS), np.uint8),
            "step": self.simulation.steps.copy(),
            "ts_event": self.market.block().ts_event[self.market.then],
            **self._masks,
        }


def _lanes_of(mask: Any, count: int) -> Array:
    chosen = np.asarray(mask)
    if chosen.dtype != bool or chosen.shape != (count,) or not chosen.any():
        raise ValueError(
            f"reset_mask must be bool of shape ({count},) with a True in it, got {chosen.dtype} of "
            f"shape {chosen.shape}"
        )
    lanes: Array = np.flatnonzero(chosen)
    return lanes
