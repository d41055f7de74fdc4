"""Sampling: whole windows of one lane and episode, straight from the ring."""

from __future__ import annotations

import numpy as np
import pytest

from tests.workers.trainer.experience import steps
from workers.records import FEATURES, WINDOW
from workers.trainer.replay import NoExperience


def test_windows_are_of_one_lane_and_episode(mesh_ring):
    """Each window ends where its transition does; before the episode stands its first frame."""
    replay, _ = mesh_ring(200, 5, batch=64)
    for _ in range(20):
        b = replay.sample()
        now = b.observations.numpy().reshape(64, WINDOW, FEATURES)
        following = b.following.numpy().reshape(64, WINDOW, FEATURES)
        for window in (now, following):
            assert (window[:, :, 0] == window[:, -1:, 0]).all()
            assert (window[:, :, 1] == window[:, -1:, 1]).all()
            last = window[:, -1, 2]
            wanted = np.maximum(last[:, None] - np.arange(WINDOW - 1, -1, -1), 0)
            begun = window[:, 0, 2][:, None]
            assert (window[:, :, 2] == np.maximum(wanted, begun)).all()
        assert (following[:, -1, 2] == now[:, -1, 2] + 1).all()
        assert (following[:, :-1][:, 4:, 3:] == now[:, 1:][:, 4:, 3:]).all()
        assert (b.rewards.numpy() == b.actions.numpy()[:, 0]).all()
        ends = following[:, -1, 2] == 12
        terminated = ends & (following[:, -1, 1] % 2 == 0)
        assert (b.dones.numpy() == terminated).all()


def test_lapped_ring_gives_only_what_is_whole(mesh_ring):
    """After the writer went round, sampled records are of the part that stays for a while."""
    replay, ring = mesh_ring(100, 4, capacity=2048, batch=32)
    for start in range(100, 1000, 100):
        ring.publish(steps(100, 4, start=start))
    assert 0 < replay.records() < 2048
    for _ in range(50):
        frames = replay.sample().following.numpy().reshape(32, WINDOW, FEATURES)
        assert np.isfinite(frames).all()


def test_too_little_experience_is_said(mesh_ring):
    """Fewer records than a batch, or none that ends a transition: NoExperience."""
    replay, _ = mesh_ring(1, 4)
    with pytest.raises(NoExperience, match="4 records"):
        replay.sample()
