"""Sampling: whole windows of one lane and episode, straight from the ring."""

from __future__ import annotations

import numpy as np
import pytest

from mesh import Mesh
from tests.processes import child
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE, FEATURES, WINDOW
from workers.trainer.replay.ring import NoExperience, RingReplay


def test_windows_are_of_one_lane_and_episode(mesh_ring):
    """Each window ends where its transition does; before the episode stands its first frame."""
    replay, _ = mesh_ring(200, 5)
    for _ in range(20):
        b = replay.sample(64)
        now = b.observations.numpy().reshape(64, WINDOW, FEATURES)
        following = b.next_observations.numpy().reshape(64, WINDOW, FEATURES)
        for window in (now, following):
            assert (window[:, :, 0] == window[:, -1:, 0]).all()
            assert (window[:, :, 1] == window[:, -1:, 1]).all()
            last = window[:, -1, 2]
            wanted = np.maximum(last[:, None] - np.arange(WINDOW - 1, -1, -1), 0)
            begun = window[:, 0, 2][:, None]
            assert (window[:, :, 2] == np.maximum(wanted, begun)).all()
        assert (following[:, -1, 2] == now[:, -1, 2] + 1).all()
        assert (following[:, :-1][:, 4:, 3:] == now[:, 1:][:, 4:, 3:]).all()
        assert (b.rewards.numpy()[:, 0] == b.actions.numpy()[:, 0]).all()
        ends = following[:, -1, 2] == 12
        terminated = ends & (following[:, -1, 1] % 2 == 0)
        assert (b.dones.numpy()[:, 0] == terminated).all()


def test_lapped_ring_gives_only_what_is_whole(mesh_ring):
    """After the writer went round, sampled records are of the part that stays for a while."""
    replay, ring = mesh_ring(100, 4, capacity=2048)
    for start in range(100, 1000, 100):
        ring.publish(steps(100, 4, start=start))
    assert 0 < replay.size() < 2048
    for _ in range(50):
        frames = replay.sample(32).next_observations.numpy().reshape(32, WINDOW, FEATURES)
        assert np.isfinite(frames).all()


def test_too_little_experience_is_said(mesh_ring):
    """Fewer records than a batch, or none that ends a transition: NoExperience."""
    replay, _ = mesh_ring(1, 4)
    with pytest.raises(NoExperience, match="4 records"):
        replay.sample(8)


def test_faulty_records_are_passed_over(mesh_ring):
    """NaN and infinity in frames, rewards and actions: counted, and in no batch."""
    replay, ring = mesh_ring(100, 4)
    more = steps(100, 4, start=100)
    more["reward"][::11] = np.nan
    more["action"][5::23, 2] = np.inf
    more["frame"][7::41, 50] = -np.inf
    ring.publish(more)
    for _ in range(40):
        for part in replay.sample(64):
            assert np.isfinite(part.numpy()).all()
    assert replay.faults > 0
    assert replay.faulty
    bad = {int(s) for s in np.flatnonzero(~np.isfinite(more["reward"])) + 400}
    assert bad & set(replay.faulty) or replay.faults > 16


def test_several_steps_sum_the_rewards_of_one_episode(mesh_ring):
    """Three steps: discounted rewards up to the end of the episode, the window where they end."""
    one, ring = mesh_ring(200, 5, n_steps=3, gamma=0.5)
    records = ring.view()[: ring.published].copy()
    b = one.sample(64)
    for row in range(64):
        lane, episode, step = b.next_observations[row, -1, :3].tolist()
        start = int(b.observations[row, -1, 2])
        mine = records[(records["lane"] == lane) & (records["episode"] == episode)]
        taken = mine[(mine["step"] > start) & (mine["step"] <= step)]
        assert 1 <= len(taken) <= 3
        wanted = sum(0.5**k * reward for k, reward in enumerate(taken["reward"].tolist()))
        assert float(b.rewards[row]) == pytest.approx(wanted, rel=1e-5)
        assert float(b.discounts[row]) == 0.5 ** len(taken)
        assert bool(b.dones[row]) == bool(taken["terminated"][-1])
        if len(taken) < 3:
            ended = taken["terminated"][-1] or taken["truncated"][-1]
            assert ended or mine["step"].max() == step


def test_limit_decides_what_is_drawn(mesh_ring):
    """With a limit the same batch is drawn whatever was published since."""
    one, _ = mesh_ring(100, 4)
    two, ring = mesh_ring(100, 4)
    one.limit = two.limit = 300
    first = [part.numpy().copy() for part in one.sample(32)]
    ring.publish(steps(100, 4, start=100))
    for mine, theirs in zip(first, two.sample(32), strict=True):
        assert (mine == theirs.numpy()).all()


def test_replay_is_read_only(mesh_ring):
    """The ring has its own writer."""
    replay, _ = mesh_ring(20, 4)
    with pytest.raises(TypeError, match="only reads"):
        replay.add()


def test_overtaken_batches_are_drawn_again(mesh_directory):
    """While a writer goes round and round a small ring, every batch is whole."""
    capacity, lanes = 1 << 12, 4
    mesh = Mesh(mesh_directory)

    def write(tell):
        ring = Mesh(mesh_directory).ring("moving", EXPERIENCE_DTYPE, capacity=capacity, create=True)
        for start in range(0, 1 << 30, 250):
            ring.publish(steps(250, lanes, start=start))
            if start == 1000:
                tell()

    with child(write) as writer:
        writer.started()
        ring = mesh.ring("moving", EXPERIENCE_DTYPE)
        replay, began = RingReplay(ring), ring.published
        while ring.published < began + 6 * capacity:
            b = replay.sample(64)
            for part in (b.observations, b.next_observations):
                window = part.numpy()
                assert (window[:, :, 0] == window[:, -1:, 0]).all()
                assert (window[:, :, 1] == window[:, -1:, 1]).all()
                last, begun = window[:, -1, 2], window[:, 0, 2][:, None]
                wanted = np.maximum(last[:, None] - np.arange(WINDOW - 1, -1, -1), begun)
                assert (window[:, :, 2] == wanted).all()
            assert (b.rewards.numpy()[:, 0] == b.actions.numpy()[:, 0]).all()
