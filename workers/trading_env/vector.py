"""`TradingVectorEnv`: n trading environments stepped as one, `gymnasium.vector.VectorEnv`.

Lane i does exactly what `TradingEnvironment` does with seed + i: the same simulation steps both.
Over an indexed provider all lanes read one block of states and a step is a single call; over
streams (one provider a lane, or one for all) a block of two states a lane is made at each step.
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
from workers.records import SLOTS
from workers.trading_env.environment import END_OF_DATA, RUIN, SEEDS, STEP_LIMIT
from workers.trading_env.market_block import MarketBlock
from workers.trading_env.providers.protocol import IndexedProvider, MarketDataProvider
from workers.trading_env.simulation import Simulation
from workers.trading_env.spaces import action_space, observation_space
from workers.trading_env.track import IndexedTrack, StreamTrack, block_of

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from workers.trading_env.portfolio import Outcome

Array = np.ndarray[Any, np.dtype[Any]]
INFO = ("cash", "equity", "costs", "fills", "reasons", "step", "ts_event")


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
        """Make `num_envs` lanes on one indexed provider, or one lane on each of several.

        Raises ValueError for one streaming provider under several lanes (each lane would take a
        part of it) and for a number of lanes that does not fit the providers.
        """
        self.config = TradingConfig() if config is None else config
        self._tracks = _tracks(provider, num_envs, self.config)
        self.num_envs = len(self._tracks)
        self.metadata = {**self.metadata, "autoreset_mode": AutoresetMode(autoreset_mode)}
        self._mode = AutoresetMode(autoreset_mode)
        self.single_observation_space = observation_space()
        self.single_action_space = action_space()
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.simulation = Simulation(self.num_envs, self.config)
        self._copy = copy
        #: where the lanes are: rows `now` and `then` of `block()`
        self.market = Market(self._tracks)
        self._dice = [np.random.default_rng() for _ in self._tracks]
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
        """Start episodes in all lanes, or in those of options["reset_mask"] (bool (n,))."""
        mask = (options or {}).get("reset_mask")
        lanes = np.arange(self.num_envs) if mask is None else _lanes_of(mask, self.num_envs)
        seeds = [None if seed is None else seed + lane for lane in range(self.num_envs)] if (
            seed is None or isinstance(seed, int | np.integer)
        ) else list(seed)  # fmt: skip
        if len(seeds) != self.num_envs:
            raise ValueError(f"{len(seeds)} seeds for {self.num_envs} environments")
        for lane in lanes:
            if seeds[lane] is not None or not self._started:
                self._dice[lane], _ = seeding.np_random(seeds[lane])
        self._start(lanes)
        self.simulation.reset(self.market.block(), self.market.then[lanes], lanes)
        self._ended[lanes] = False
        self._some_ended = bool(self._ended.any())
        self._started = True
        return self._observations(), self._info(None)

    def step(self, actions: Array) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Step all lanes. Raises ResetNeeded, InvalidAction, and by configuration BadMarketData."""
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
        outcome = self.simulation.move(
            self.market.block(), self.market.now, self.market.then, actions, ended
        )
        terminated = outcome.ruined
        over = data_ends
        if self.config.max_episode_steps:
            over = over | (self.simulation.steps >= self.config.max_episode_steps)
        truncated: Array = over > terminated
        if ended is not None:
            truncated[ended] = False
        return self._finish(outcome, terminated, truncated, data_ends)

    def _finish(
        self, outcome: Outcome, terminated: Array, truncated: Array, data_ends: Array
    ) -> tuple[Array, Array, Array, Array, dict[str, Any]]:
        """Say which episodes ended, and in same-step mode begin the next ones."""
        self._ended = terminated | truncated
        self._some_ended = bool(self._ended.any())
        info = self._info(outcome)
        if self._some_ended:
            why = np.where(data_ends, END_OF_DATA, STEP_LIMIT)
            info["ended"] = np.where(self._ended, np.where(terminated, RUIN, why), "")
            info["_ended"] = self._ended.copy()
            if self._mode is AutoresetMode.SAME_STEP:
                self._restart(np.flatnonzero(self._ended), info)
        if self.config.swap_terminated_truncated:
            terminated, truncated = truncated, terminated
        return self._observations(), outcome.reward, terminated, truncated, info

    def as_sb3(self) -> VecEnv:
        """These lanes as a stable-baselines3 `VecEnv`; only this call imports stable-baselines3."""
        from workers.trading_env.sb3_view import SB3View  # noqa: PLC0415 - see the docstring

        return SB3View(self)

    def _start(self, lanes: Array) -> None:
        for lane in lanes.tolist():
            self._tracks[lane].start(int(self._dice[lane].integers(SEEDS)))
        self.market.started(lanes)

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
        accounts, n = self.simulation.accounts, self.num_envs
        return {
            "cash": accounts.cash.copy(),
            "equity": accounts.equity.copy(),
            "costs": np.zeros(n) if outcome is None else outcome.costs,
            "fills": np.zeros((n, SLOTS)) if outcome is None else outcome.change,
            "reasons": np.zeros((n, SLOTS), np.uint8) if outcome is None else outcome.reasons,
            "step": self.simulation.steps.copy(),
            "ts_event": self.market.block().ts_event[self.market.then],
            **self._masks,
        }


class Market:
    """Rows now and then of every lane, in a block that may be made anew at each step."""

    def __init__(self, tracks: Sequence[IndexedTrack] | Sequence[StreamTrack]) -> None:
        self._tracks = tracks
        count = len(tracks)
        self.now, self.then = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self._last = np.zeros(count, np.int64)
        self._indexed = isinstance(tracks[0], IndexedTrack)
        self._joined: MarketBlock | None = None
        if isinstance(tracks[0], IndexedTrack):
            self._joined = tracks[0].block

    def started(self, lanes: Array) -> None:
        """Take up the rows of lanes whose track was started."""
        if not self._indexed:
            self._joined = None
            self._place()
            return
        for lane in lanes.tolist():
            track = self._tracks[lane]
            self.then[lane], self._last[lane] = track.row, track.last

    def move(self, ended: Array | None) -> Array:
        """Move the lanes that have not ended on by a state; bool (n,): the data ends there."""
        if self._indexed:
            self.now, self.then = self.then, self.now
            np.add(self.now, 1 if ended is None else ~ended, out=self.then)
            data_ends: Array = self.then >= self._last
            return data_ends
        ends = np.zeros(len(self._tracks), bool)
        for lane in range(len(self._tracks)):
            if ended is None or not ended[lane]:
                _, ends[lane] = self._tracks[lane].move()
        self._joined = None
        self._place()
        return ends

    def block(self) -> MarketBlock:
        """The block in which `now` and `then` are rows."""
        if self._joined is None:
            self._joined = MarketBlock.joined([track.block for track in self._tracks])
        return self._joined

    def _place(self) -> None:
        sizes = [len(track.block) if hasattr(track, "block") else 0 for track in self._tracks]
        starts = np.cumsum([0, *sizes[:-1]])
        rows = np.array([track.row for track in self._tracks])
        self.then[:], self.now[:] = starts + rows, starts


def _tracks(
    provider: MarketDataProvider | Sequence[MarketDataProvider],
    num_envs: int,
    config: TradingConfig,
) -> list[IndexedTrack] | list[StreamTrack]:
    """One track a lane."""
    if isinstance(provider, IndexedProvider):
        if num_envs < 1:
            raise ValueError(f"num_envs must be at least 1, got {num_envs}")
        block = block_of(provider, config)
        return [IndexedTrack(provider, config, block) for _ in range(num_envs)]
    several = [provider] if isinstance(provider, MarketDataProvider) else list(provider)
    if not several or not all(isinstance(one, MarketDataProvider) for one in several):
        raise TypeError("give a market data provider or a sequence of them, one a lane")
    if num_envs not in (1, len(several)):
        raise ValueError(
            f"{num_envs} environments on {len(several)} streaming providers; give one provider a "
            "lane, or an indexed one (RecordedProvider) for all"
        )
    return [StreamTrack(one, config) for one in several]


def _lanes_of(mask: Any, count: int) -> Array:
    chosen = np.asarray(mask)
    if chosen.dtype != bool or chosen.shape != (count,) or not chosen.any():
        raise ValueError(
            f"reset_mask must be bool of shape ({count},) with a True in it, got {chosen.dtype} of "
            f"shape {chosen.shape}"
        )
    lanes: Array = np.flatnonzero(chosen)
    return lanes
