"""Whose policy acts: what must not act is refused once, and the last good one stays."""

from __future__ import annotations

import time

import numpy as np

from mesh import Mesh
from tests.daemons import until
from workers.contract.statuses import Leaderboard
from workers.feeder.policies import Policies
from workers.trading_env.policy.numpy_policy import like


def arrays():
    """A policy that may act."""
    return {**like((8,)), "created_ns": np.array(time.time_ns()), "score": np.array(1.0)}


def test_a_broken_version_is_refused_once_and_the_last_good_one_acts(mesh_directory):
    """A byte that changed in memory: found by the checksum, counted once, nothing else changes."""
    mesh = Mesh(mesh_directory)
    segment = mesh.tensors("policy/p", like=arrays(), create=True)
    policies = Policies(mesh, ("p",), 60.0)
    segment.publish(arrays())
    assert policies.best().version == 1
    broken = segment.publish(arrays())
    (path,) = mesh_directory.glob("policy*p")
    offset = segment._file.identity.data_offset + broken % 3 * segment._file.identity.stride
    with path.open("r+b") as file:
        file.seek(offset + 40)
        file.write(b"\x55")
    for _ in range(3):
        assert policies.best().version == 1
    assert policies.refused == 1
    segment.publish(arrays())
    assert policies.best().version == 3
    segment.close()


def test_policies_that_grew_too_old_are_told_from_none_at_all(mesh_directory):
    """Without any, lanes explore at random; with old ones only, acting is not safe."""
    mesh = Mesh(mesh_directory)
    policies = Policies(mesh, ("p",), 60.0)
    assert policies.best() is None
    assert not policies.has_expired
    segment = mesh.tensors("policy/p", like=arrays(), create=True)
    segment.publish({**arrays(), "created_ns": np.array(time.time_ns() - 61 * 10**9)})
    later = Policies(mesh, ("p",), 60.0)
    assert later.best() is None
    assert later.has_expired
    segment.publish(arrays())
    assert later.best().version == 2
    assert not later.has_expired
    segment.close()


def test_the_leaderboard_is_followed_also_when_it_is_replaced(mesh_directory):
    """Nobody's board: own order; a board: its best; another board in its place: that one's."""
    mesh = Mesh(mesh_directory)
    segments = [mesh.tensors(f"policy/{n}", like=arrays(), create=True) for n in ("p", "q")]
    for segment in segments:
        segment.publish(arrays())
    policies = Policies(mesh, ("p", "q"), 60.0)
    assert policies.best().trainer == "p"
    for best in ("q", "p"):
        board = mesh.cell("leaderboard", Leaderboard, create=True, max_bytes=4096)
        board.write(Leaderboard(best=best))
        until("the board's best", lambda best=best: policies.best().trainer == best)
        board.close()
        mesh.unlink("leaderboard")
    for segment in segments:
        segment.close()
