"""`TradingEnvironment`: ten option positions as a `gymnasium.Env`, over any provider.

One lane of the simulation that the feeder and `TradingVectorEnv` step in batches. What is decided
on state t is filled at t's quote and rewarded by t + 1. `terminated` is ruin; `truncated` is the
end of data or of the configured steps, where a learner bootstraps. The configuration can swap the
two for code that was written for older environments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded

from config.trading import TradingConfig
from mesh.arrays import Array
from workers.contract.dtypes import SLOTS
from workers.trading_env.account.simulation import Simulation
from workers.trading_env.env.episode import END_OF_DATA, RUIN, SEEDS, STEP_LIMIT
from workers.trading_env.env.render import History
from workers.trading_env.env.spaces import action_space, observation_space
from workers.trading_env.market.track import track_of

if TYPE_CHECKING:
    from workers.trading_env.account._kernel import Outcome
    from workers.trading_env.providers.protocol import MarketDataProvider


class TradingEnvironment(gymnasium.Env[Array, Array]):
    """Observation float32 (16, 100), action float32 (10,); see `workers.trading_env.env.spaces`.

    `info` holds cash, equity and costs (float, quote currency; costs of this step), fills (float64
    (10,), contracts bought + and sold -), reasons (uint8 (10,), bits of `Reason`: why a slot did
    not get what was wanted), step and ts_event; the last step of an episode adds `ended`.

    Example:
        >>> import numpy as np
        >>> from workers.trading_env.providers.synthetic import synthetic_provider
        >>> env = TradingEnvironment(synthetic_provider(3, states=40))
        >>> observation, info = env.reset(seed=0)
        >>> observation.shape, observation.dtype.name
        ((16, 100), 'float32')
        >>> hold_nothing = np.zeros(10, np.float32)
        >>> observation, reward, terminated, truncated, info = env.step(hold_nothing)
        >>> reward, terminated, info["step"]
        (0.0, False, 1)
    """

    metadata = {"render_modes": ["human", "rgb_array"], "render_fps": 10}  # noqa: RUF012 - gymnasium's own

    def __init__(
        self,
        provider: MarketDataProvider,
        config: TradingConfig | None = None,
        *,
        render_mode: str | None = None,
    ) -> None:
        """Trade on a provider.

        Args:
            provider: The market.
            config: The rules; the defaults without one.
            render_mode: "human", "rgb_array" or None.

        Raises:
            ValueError: Another `render_mode`.
            TypeError: The provider lacks `reset` or `advance`.
            BadMarketData: A state broke a rule and `on_bad_data` is "raise".
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ValueError(
                f"render_mode {render_mode!r} must be one of {self.metadata['render_modes']}"
            )
        self.config = TradingConfig() if config is None else config
        self.observation_space = observation_space()
        self.action_space = action_space()
        self.render_mode = render_mode
        self.provider = provider
        self.simulation = Simulation(1, self.config)
        self._track = track_of(provider, self.config)
        self._running = False
        self._then = np.zeros(1, np.int64)
        self._now = np.zeros(1, np.int64)
        self._history = History(self.config) if render_mode else None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Array, dict[str, Any]]:
        """Start an episode.

        Args:
            seed: The same seed gives the same episode, and the same episodes after it.
            options: Not used.

        Returns:
            (observation, info): float32 (16, 100), and `info` as the class describes it.
        """
        super().reset(seed=seed, options=options)
        self._track.start(int(self.np_random.integers(SEEDS)))
        self._then[0] = self._track.row
        self.simulation.reset(self._track.block, self._then)
        self._running = True
        if self._history is not None:
            self._history.clear()
            self._record(self._info(None))
        return self.simulation.windows.of(0), self._info(None)

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Trade to the target positions at the current quotes and move to the next state.

        Args:
            action: Target positions (10,) as shares of the contract limit.

        Returns:
            (observation, reward, terminated, truncated, info): the observation float32 (16, 100),
            `info` as the class describes it.

        Raises:
            ResetNeeded: No episode is running.
            InvalidAction: Not numbers, another shape, or NaN or infinity unless `on_bad_action` is
                "hold".
            BadMarketData: A state broke a rule and `on_bad_data` is "raise".
            CorporateAction: A contract's terms changed and `corporate_action` is "refuse".
            StaleData: A live source sent nothing new within its timeout.
        """
        if not self._running:
            raise ResetNeeded("no episode is running; call reset first")
        simulation = self.simulation
        single = action[None] if isinstance(action, np.ndarray) else [action]
        actions = simulation.checked(single)
        self._now[0], data_ends = self._track.move()
        self._then[0] = self._track.row
        outcome = self.simulation.step(self._track.block, self._now, self._then, actions)
        terminated = bool(outcome.ruined[0])
        limit = self.config.max_episode_steps
        limited = bool(limit and simulation.steps[0] >= limit)
        truncated = not terminated and (data_ends or limited)
        info = self._info(outcome)
        if terminated or truncated:
            self._running = False
            info["ended"] = RUIN if terminated else END_OF_DATA if data_ends else STEP_LIMIT
        if self._history is not None:
            self._record(info)
        if self.config.swap_terminated_truncated:
            terminated, truncated = truncated, terminated
        return simulation.windows.of(0), float(outcome.reward[0]), terminated, truncated, info

    def render(self) -> Any:
        """Plot equity, positions and costs of the episode: uint8 (h, w, 3), or a window."""
        if self._history is None:
            gymnasium.logger.warn("render without a render_mode: give one when making it")
            return None
        return self._history.render(self.render_mode or "rgb_array")

    def close(self) -> None:
        """Close the window, if there is one."""
        if self._history is not None:
            self._history.close()

    def _info(self, outcome: Outcome | None) -> dict[str, Any]:
        accounts = self.simulation.accounts
        return {
            "cash": float(accounts.cash[0]),
            "equity": float(accounts.equity[0]),
            "costs": 0.0 if outcome is None else float(outcome.costs[0]),
            "fills": np.zeros(SLOTS) if outcome is None else outcome.change[0],
            "reasons": np.zeros(SLOTS, np.uint8) if outcome is None else outcome.reasons[0],
            "step": int(self.simulation.steps[0]),
            "ts_event": int(self._track.block.ts_event[self._track.row]),
        }

    def _record(self, info: dict[str, Any]) -> None:
        assert self._history is not None  # noqa: S101 - callers looked
        self._history.add(self.simulation.accounts.positions[0].copy(), info)
        if self.render_mode == "human":
            self._history.render("human")
