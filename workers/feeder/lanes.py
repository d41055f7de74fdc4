"""The paper portfolios: stepped together, each with noise of its own, resumed after a kill."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from workers.contract.dtypes import EXPERIENCE_DTYPE, SLOTS, WINDOW
from workers.trading_env.account.simulation import Simulation
from workers.trading_env.market.block import MarketBlock

if TYPE_CHECKING:
    from config.feeder import FeederConfig
    from config.trading import TradingConfig
    from mesh.arrays import Array
    from workers.feeder.policies import Policy

RANDOM_DEVIATION = 0.6  # of actions before there is a policy


class LaneState(msgspec.Struct):
    """Everything of the lanes that the experience ring does not hold, committed with it."""

    accounts: bytes
    steps: list[int]
    limits: list[int]
    episodes: list[int]
    fresh: list[bool]
    market_step: int


class Lanes:
    """L lanes of one market."""

    def __init__(self, config: FeederConfig, trading: TradingConfig) -> None:
        """Start all lanes fresh; the first record of each is then a `first` one."""
        self.count = config.lanes
        self._config = config
        self._trading = trading
        self.simulation = Simulation(self.count, trading)
        self._rng = np.random.default_rng(config.seed + time.time_ns() % (1 << 32))
        self._episodes = np.zeros(self.count, np.int64)
        self._limits = self._rng.integers(
            config.episode_steps // 2, config.episode_steps + 1, self.count
        )
        self._fresh = np.ones(self.count, bool)
        self._noise = np.zeros((self.count, SLOTS))
        greedy = round(config.greedy_share * self.count)
        noisy = np.linspace(0.0, config.exploration, self.count - greedy + 1)[1:]
        self._deviation = np.concatenate([np.zeros(greedy), noisy])[:, None]
        self.previous: Array | None = None

    def begin(self, state: Array) -> Array:
        """Start every lane.

        Args:
            state: The market state to start at, MARKET_DTYPE of shape ().

        Returns:
            Records with `first` set, EXPERIENCE_DTYPE (L,).
        """
        block = MarketBlock.of(state.reshape(1), self._trading)
        self.simulation.reset(block, np.zeros(self.count, np.int64))
        self._episodes += 1
        self._fresh[:] = False
        self.previous = state
        records = self._records(state, None, np.zeros((self.count, SLOTS), np.float32))
        records["first"] = True
        return records

    def step(
        self, state: Array, policy: Policy | None, *, hold: bool = False, flatten: bool = False
    ) -> Array:
        """Act on the previous state and move to the next one.

        Args:
            state: The next market state, MARKET_DTYPE of shape ().
            policy: The policy that acts; actions are random without one.
            hold: Keep every position as it is.
            flatten: Close every position.

        Returns:
            One record for each lane, EXPERIENCE_DTYPE (L,).
        """
        if self.previous is None:
            return self.begin(state)
        block = MarketBlock.of(np.stack([self.previous, state]), self._trading)
        actions = self._actions(policy, hold=hold, flatten=flatten)
        now = np.zeros(self.count, np.int64)
        fresh = self._fresh.copy()
        outcome = self.simulation.step(block, now, now + 1, actions, fresh, hold=hold)
        self._episodes += fresh
        self._limits[fresh] = self._config.episode_steps
        steps = self.simulation.steps
        truncated = ~outcome.ruined & (steps >= self._limits)
        records = self._records(state, policy, actions)
        records["reward"] = outcome.reward
        records["first"] = fresh
        records["terminated"] = outcome.ruined
        records["truncated"] = truncated
        records["action"][fresh] = 0.0
        self._fresh = outcome.ruined | truncated
        self.previous = state
        return records

    def save(self) -> bytes:
        """Return what is committed together with the records of this step."""
        step = -1 if self.previous is None else int(self.previous["step"])
        return msgspec.msgpack.encode(
            LaneState(
                self.simulation.accounts.to_bytes(),
                self.simulation.steps.tolist(),
                self._limits.tolist(),
                self._episodes.tolist(),
                self._fresh.tolist(),
                step,
            )
        )

    def resume(self, state: bytes, market: Array, records: Array) -> bool:
        """Restore the lanes from a saved state.

        When it cannot be restored (other lanes, market lapped) every lane starts a new episode.

        Args:
            state: What `save` returned.
            market: Market states, MARKET_DTYPE (T,), that may hold the saved step.
            records: The newest experience, EXPERIENCE_DTYPE (m,), oldest first.

        Returns:
            Whether the lanes were restored.
        """
        self._episodes[:] = records["episode"].max(initial=0)
        try:
            saved = msgspec.msgpack.decode(state, type=LaneState)
        except msgspec.DecodeError:
            return False
        self._episodes[:] = max(saved.episodes, default=0)
        at = np.flatnonzero(market["step"] == saved.market_step)
        windows = _windows(records, self.count)
        if len(saved.steps) != self.count or at.size == 0 or windows is None:
            return False
        try:
            self.simulation.accounts.from_bytes(saved.accounts)
        except ValueError:
            return False
        self.simulation.windows.restore(windows)
        self.simulation.steps[:] = saved.steps
        self._limits[:], self._episodes[:] = saved.limits, saved.episodes
        self._fresh[:] = saved.fresh
        self.previous = market[at[-1]]
        return True

    def _actions(self, policy: Policy | None, *, hold: bool, flatten: bool) -> Array:
        if flatten:
            return np.zeros((self.count, SLOTS), np.float32)
        return self.simulation.held_actions() if hold else self._decide(policy)

    def _decide(self, policy: Policy | None) -> Array:
        memory = self._config.noise_memory
        draw = self._rng.standard_normal((self.count, SLOTS))
        self._noise = memory * self._noise + np.sqrt(1.0 - memory**2) * draw
        if policy is None:
            return np.clip(RANDOM_DEVIATION * self._noise, -1.0, 1.0).astype(np.float32)
        wanted = policy.act(self.simulation.windows.view())
        return np.clip(wanted + self._deviation * self._noise, -1.0, 1.0).astype(np.float32)

    def _records(self, state: Array, policy: Policy | None, actions: Array) -> Array:
        now = time.time_ns()
        records = np.zeros(self.count, EXPERIENCE_DTYPE)
        records["frame"] = self.simulation.windows.newest
        records["action"] = actions
        records["lane"] = np.arange(self.count)
        records["lanes"] = self.count
        records["episode"] = self._episodes
        records["step"] = self.simulation.steps
        records["market_step"] = state["step"]
        records["ts_event"], records["ts_published"] = state["ts_event"], now
        records["equity"] = self.simulation.accounts.equity
        records["data_age_s"] = state["age_s"]
        records["exploratory"] = self._deviation[:, 0] > 0 if policy else True
        if policy is not None:
            records["policy_version"] = policy.version
            records["policy_trainer"] = policy.trainer.encode()  # fits: config.feeder.TrainerName
            records["policy_age_s"] = (now - policy.created_ns) / 1e9
        return records


def _windows(records: Array, lanes: int) -> Array | None:
    """Rebuild the windows (L, 16, 100) from the newest experience, oldest record first."""
    steps = records.size // lanes
    if steps == 0 or (records["lanes"] != lanes).any():
        return None
    table = records[records.size - steps * lanes :].reshape(steps, lanes)
    if (table["lane"] != np.arange(lanes)).any():
        return None
    windows = np.empty((lanes, WINDOW, table["frame"].shape[-1]), np.float32)
    for lane in range(lanes):
        mine = table[:, lane]
        mine = mine[mine["episode"] == mine["episode"][-1]][-WINDOW:]
        if mine.size < WINDOW and not mine["first"][0]:
            return None
        windows[lane, WINDOW - mine.size :] = mine["frame"]
        windows[lane, : WINDOW - mine.size] = mine["frame"][0]
    return windows
