"""Frames stored once: what is drawn is what the stock buffer would have given."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.buffers import ReplayBuffer

from workers.trainer.replay.frames import FrameReplay

WINDOW, FRAME, LANES = 4, 3, 5
OBSERVATIONS = gymnasium.spaces.Box(-np.inf, np.inf, (WINDOW, FRAME), np.float32)
ACTIONS = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


def played(steps, *buffers, seed=0, leave=0.05):
    """Let all buffers see the same episodes, ended by termination, by limits, and by a reset."""
    rng = np.random.default_rng(seed)

    def frames():
        return rng.standard_normal((LANES, FRAME)).astype(np.float32)

    observations = np.repeat(frames()[:, None], WINDOW, 1)
    for _ in range(steps):
        following = np.concatenate([observations[:, 1:], frames()[:, None]], 1)
        done = rng.random(LANES) < 0.15
        limited = done & (rng.random(LANES) < 0.5)
        infos = [{"TimeLimit.truncated": bool(flag)} for flag in limited]
        action = rng.uniform(-1, 1, (LANES, 2)).astype(np.float32)
        reward = rng.standard_normal(LANES).astype(np.float32)
        for buffer in buffers:
            buffer.add(observations, following, action, reward, done, infos)
        started = np.repeat(frames()[:, None], WINDOW, 1)
        left = rng.random(LANES) < leave  # reset within an episode
        observations = np.where((done | left)[:, None, None], started, following)


def test_draws_are_those_of_the_stock_buffer():
    """Before the buffer is full: the same random state, the same batch, from less memory."""
    mine = FrameReplay(500, OBSERVATIONS, ACTIONS, "cpu", LANES)
    stock = ReplayBuffer(500, OBSERVATIONS, ACTIONS, "cpu", LANES)
    played(90, mine, stock)
    for _ in range(5):
        state = np.random.get_state()  # noqa: NPY002 - the one SB3 seeds
        batch = mine.sample(64)
        np.random.set_state(state)  # noqa: NPY002 - the one SB3 seeds
        for found, wanted in zip(batch, stock.sample(64), strict=True):
            assert (found is None and wanted is None) or (found == wanted).all()


def test_full_buffer_gives_whole_windows_only():
    """After it went round: every sampled transition is one that was played."""
    mine = FrameReplay(60 * LANES, OBSERVATIONS, ACTIONS, "cpu", LANES)
    everything = ReplayBuffer(500 * LANES, OBSERVATIONS, ACTIONS, "cpu", LANES)
    played(233, mine, everything)
    known = {
        now.tobytes() + then.tobytes(): reward
        for now, then, reward in zip(
            everything.observations[:233].reshape(-1, WINDOW, FRAME),
            everything.next_observations[:233].reshape(-1, WINDOW, FRAME),
            everything.rewards[:233].reshape(-1),
            strict=True,
        )
    }
    for _ in range(10):
        batch = mine.sample(64)
        for row in range(64):
            now, then = batch.observations[row].numpy(), batch.next_observations[row].numpy()
            assert known[now.tobytes() + then.tobytes()] == float(batch.rewards[row])


def test_what_is_no_window_is_refused():
    """FlatParameters observations, or a buffer that holds no window: both sizes are named."""
    flat = gymnasium.spaces.Box(-1, 1, (3,), np.float32)
    with pytest.raises(ValueError, match="window"):
        FrameReplay(100, flat, ACTIONS)
    with pytest.raises(ValueError, match="windows of 4"):
        FrameReplay(8, OBSERVATIONS, ACTIONS)
