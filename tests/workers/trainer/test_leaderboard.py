"""The leaderboard: one keeper, the best of those that may act, no gap when one goes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from mesh import Mesh, NotWritten
from tests.daemons import ROOT, until
from tests.processes import child
from workers.contract.names import LEADERBOARD, SUPERVISOR, policy_segment
from workers.contract.statuses import Leaderboard, SupervisorStatus, WorkerStatus
from workers.feeder.policies import Policies
from workers.trading_env.policy.numpy_policy import like
from workers.trainer.publish.leaderboard import LeaderboardKeeper


def published(mesh, trainer, score, updates=1):
    """Publish a policy of that score, as its trainer would."""
    import time  # noqa: PLC0415 - the policies carry the wall clock

    arrays = like((4, 4))
    arrays["score"], arrays["updates"] = np.array(score), np.array(updates)
    arrays["created_ns"] = np.array(time.time_ns())
    segment = mesh.tensors(policy_segment(trainer), like=arrays, create=True)
    segment.publish(arrays)
    return segment


def board(mesh):
    """The leaderboard as others read it."""
    return mesh.cell(LEADERBOARD, Leaderboard).read()[1]


def test_best_score_leads_and_no_score_leads_nobody(mesh_directory):
    """Ranked by score; a policy without one stands last; without any score there is no best."""
    mesh = Mesh(mesh_directory)
    keeper = LeaderboardKeeper(mesh, "td3-0")
    published(mesh, "td3-0", math.nan)
    assert keeper.update(now=True)
    assert board(mesh).best == ""
    published(mesh, "td3-1", -0.5, updates=7)
    published(mesh, "td3-2", 0.5)
    keeper.update(now=True)
    found = board(mesh)
    assert found.best == "td3-2"
    assert [row.trainer for row in found.rows] == ["td3-2", "td3-1", "td3-0"]
    assert found.rows[1].updates == 7
    assert found.keeper == "td3-0"
    command = [
        sys.executable,
        "-m",
        "workers.ctl.cli",
        "--mesh",
        str(mesh_directory),
        "show",
        LEADERBOARD,
        "--format",
        "json",
    ]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.index("td3-2") < shown.index("td3-1")
    assert json.loads(shown)


def test_next_trainer_keeps_the_board_when_the_keeper_dies(mesh_directory):
    """While the keeper lives another one is refused; after its kill -9 the other goes on."""
    mesh = Mesh(mesh_directory)
    published(mesh, "td3-1", 1.0)
    mine = LeaderboardKeeper(mesh, "td3-1")

    def keep(tell):
        LeaderboardKeeper(Mesh(mesh_directory), "td3-0").update(now=True)
        tell()
        until("killed", lambda: False)

    with child(keep) as other:
        other.started()
        assert not mine.update(now=True)
        assert board(mesh).keeper == "td3-0"
        os.kill(other.pid, 9)
        other.wait()
        assert until("taken over", lambda: mine.update(now=True))
    assert board(mesh).keeper == "td3-1"


def test_feeder_goes_on_with_the_next_when_the_best_is_quarantined(mesh_directory):
    """The quarantined leader stands last; the feeder acts with the next, at every moment."""
    mesh = Mesh(mesh_directory)
    keeper = LeaderboardKeeper(mesh, "td3-1")
    published(mesh, "td3-0", 2.0), published(mesh, "td3-1", 1.0)
    policies = Policies(mesh, ["td3-0", "td3-1"], 60.0)
    keeper.update(now=True)
    assert policies.best().trainer == "td3-0"
    supervisor = mesh.cell(SUPERVISOR, SupervisorStatus, create=True, max_bytes=16384)
    workers = [
        WorkerStatus(
            name="td3-0", class_path="workers.trainer", pid=0, state="quarantined", restarts=9
        ),
        WorkerStatus(
            name="td3-1", class_path="workers.trainer", pid=1, state="running", restarts=0
        ),
    ]
    supervisor.write(
        SupervisorStatus(
            pid=1,
            start_time=1,
            since=0.0,
            version="",
            profile="",
            state="degraded",
            workers=workers,
        )
    )
    assert policies.best() is not None
    keeper.update(now=True)
    assert policies.best().trainer == "td3-1"
    assert board(mesh).rows[-1].state == "quarantined"


def test_board_without_policies_names_nobody(mesh_directory):
    """An empty mesh has an empty board."""
    mesh = Mesh(mesh_directory)
    assert LeaderboardKeeper(mesh, "td3-0").update(now=True)
    with pytest.raises(NotWritten):
        board(mesh)
