"""A replay buffer for windows of frames that stores each frame once.

For any learner of stable-baselines3 on environments whose observation is a window (W, F) that
moves on by one frame a step and at the start of an episode repeats its first frame, as
`TradingEnvironment` does: `TD3(..., replay_buffer_class=FrameReplay)`. It draws and gives what the
stock buffer would, from about a thirtieth of the memory (W = 16).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

if TYPE_CHECKING:
    import torch
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecNormalize

    from mesh.arrays import Array


class FrameReplay(ReplayBuffer):
    """Frames (T, n, F); the frame behind an episode's end lies apart, by its place."""

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        *,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        """Keep `buffer_size` transitions of `n_envs` environments.

        Raises:
            ValueError: Observations do not have the shape (window, frame), or the buffer holds no
                more than two windows of each environment.
        """
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        if len(self.obs_shape) != 2:
            raise ValueError(f"observations of shape {self.obs_shape}, expected (window, frame)")
        del optimize_memory_usage  # it always does
        self.window, width = self.obs_shape
        self.buffer_size = max(buffer_size // n_envs, 1)
        if self.buffer_size <= 2 * self.window:
            raise ValueError(
                f"{self.buffer_size} steps of {n_envs} environments; more than two windows of "
                f"{self.window} are needed"
            )
        self.handle_timeout_termination = handle_timeout_termination
        shape = (self.buffer_size, n_envs)
        self.frames = np.zeros((*shape, width), np.float32)
        self.ages = np.zeros(shape, np.int32)  # steps since the episode began
        self.actions = np.zeros((*shape, self.action_dim), np.float32)
        self.rewards = np.zeros(shape, np.float32)
        self.dones = np.zeros(shape, bool)  # the episode ended with this transition
        self.terminal = np.zeros(shape, bool)  # and not by a time limit
        self._behind: dict[int, Array] = {}
        self._age = np.zeros(n_envs, np.int32)
        self._back = np.arange(self.window, -1, -1)

    def add(
        self,
        obs: Array,
        next_obs: Array,
        action: Array,
        reward: Array,
        done: Array,
        infos: list[dict[str, Any]],
    ) -> None:
        """Store one step of every environment."""
        at = self.pos
        self._end_episodes_that_were_left(obs)
        self.frames[at], self.ages[at] = obs[:, -1], self._age
        self.actions[at] = action.reshape(self.n_envs, -1)
        self.rewards[at], self.dones[at] = reward, done
        self.terminal[at] = done
        if self.handle_timeout_termination:
            limited = [info.get("TimeLimit.truncated", False) for info in infos]
            self.terminal[at] &= ~np.array(limited, bool)
        for lane in range(self.n_envs):
            self._behind.pop(at * self.n_envs + lane, None)
        for lane in np.flatnonzero(done).tolist():
            self._behind[at * self.n_envs + lane] = next_obs[lane, -1].copy()
        self._age = np.where(done, 0, self._age + 1).astype(np.int32)
        self.pos = (at + 1) % self.buffer_size
        self.full |= self.pos == 0
        self.frames[self.pos] = next_obs[:, -1]  # until the next step says the same

    def _end_episodes_that_were_left(self, obs: Array) -> None:
        """Mark where an environment was reset within an episode, as a further `learn` does.

        The transition before keeps the frame it led to, and the windows behind it begin anew.
        """
        before = self.pos - 1  # of a buffer that is empty every age is 0
        left = (self._age > 0) & (
            (obs[:, -1] != self.frames[self.pos]) | (obs[:, -2] != self.frames[before])
        ).any(1)
        for lane in np.flatnonzero(left).tolist():
            self.dones[before, lane] = True
            at = before % self.buffer_size * self.n_envs + lane
            self._behind[at] = self.frames[self.pos, lane].copy()
        self._age[left] = 0

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw uniformly from the transitions whose windows are whole."""
        if self.full:  # the newest frame lies where the oldest was; windows reach behind it
            size = self.buffer_size - self.window - 1
            drawn = np.random.randint(0, size, batch_size)  # noqa: NPY002 - the one SB3 seeds
            steps = (self.pos + self.window + drawn) % self.buffer_size
        else:
            steps = np.random.randint(0, self.pos, batch_size)  # noqa: NPY002 - the one SB3 seeds
        return self._get_samples(steps, env)

    def _get_samples(
        self, batch_inds: Array, env: VecNormalize | None = None
    ) -> ReplayBufferSamples:
        lanes = np.random.randint(0, self.n_envs, batch_inds.size)  # noqa: NPY002 - the one SB3 seeds
        age = self.ages[batch_inds, lanes][:, None]
        back = np.minimum(self._back, age + 1)  # 0 is the frame after the step, 1 that of the step
        wanted = (batch_inds[:, None] + 1 - back) % self.buffer_size
        frames = self.frames[wanted, lanes[:, None]]
        for row in np.flatnonzero(self.dones[batch_inds, lanes]).tolist():
            frames[row, -1] = self._behind[int(batch_inds[row]) * self.n_envs + int(lanes[row])]
        rewards = self.rewards[batch_inds, lanes].reshape(-1, 1)
        return ReplayBufferSamples(
            *(
                self.to_torch(np.ascontiguousarray(part), copy=False)
                for part in (
                    self._normalize_obs(frames[:, :-1], env),
                    self.actions[batch_inds, lanes],
                    self._normalize_obs(frames[:, 1:], env),
                    self.terminal[batch_inds, lanes].reshape(-1, 1).astype(np.float32),
                    self._normalize_reward(rewards, env),
                )
            )
        )
