"""A `TradingVectorEnv` as a stable-baselines3 `VecEnv`. The only module here that imports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from workers.trading_env.env.episode import INFO

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from config.trading import TradingConfig
    from mesh.arrays import Array


class SB3View(VecEnv):
    """Same-step resets as SB3 expects: `terminal_observation` and `TimeLimit.truncated` in info."""

    def __init__(self, env: VectorEnv[Array, Array, Array], config: TradingConfig) -> None:
        """Wrap `env`.

        Raises:
            ValueError: `env` was not made with autoreset_mode SAME_STEP.
        """
        mode = env.metadata["autoreset_mode"]
        if mode.value != "SameStep":
            raise ValueError(f"autoreset_mode is {mode.value}; make the env with SameStep for SB3")
        self.env, self._config = env, config
        self._actions: Array | None = None
        self._options_used = False
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Array:
        """Start episodes in all lanes: observations (n, 16, 100)."""
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        observations, info = self.env.reset(seed=seeds)  # type: ignore[arg-type] # one a lane
        self.reset_infos = self._split(info)
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: Array) -> None:
        """Remember the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Array, Array, Array, list[dict[str, Any]]]:
        """Step: observations, rewards float32 (n,), dones (n,), one info a lane."""
        if self._actions is None:
            raise ValueError("step_wait without step_async")
        observations, rewards, terminated, truncated, info = self.env.step(self._actions)
        dones = terminated | truncated
        infos = self._split(info)
        if self._config.swap_terminated_truncated:
            terminated, truncated = truncated, terminated
        for lane in np.flatnonzero(dones).tolist():
            infos[lane]["terminal_observation"] = info["final_obs"][lane]
            infos[lane]["TimeLimit.truncated"] = bool(truncated[lane] and not terminated[lane])
            infos[lane]["final_equity"] = float(info["final_info"]["equity"][lane])
            infos[lane]["ended"] = str(info["final_info"]["ended"][lane])
        return observations, rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the environment, once for each lane asked for."""
        value = getattr(self.env, attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the environment, which all lanes share."""
        del indices
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method of the environment once; its result for each lane asked for."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """No lane is wrapped."""
        del wrapper_class
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[Array | None]:
        """Lanes are not drawn."""
        return [None for _ in range(self.num_envs)]

    def _split(self, info: dict[str, Any]) -> list[dict[str, Any]]:
        rows = zip(*(info[name] for name in INFO), strict=True)
        return [dict(zip(INFO, row, strict=True)) for row in rows]
