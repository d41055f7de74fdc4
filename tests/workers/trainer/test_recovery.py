"""kill -9 at random points under load: at most the updates since the last stored one are lost."""

from __future__ import annotations

import json
import os
import random
import shutil

import numpy as np
import pytest

from mesh import SegmentMissing
from tests.daemons import daemon, until
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.contract.statuses import TrainerStatus
from workers.trainer.spool import spool_files
from workers.trainer.state import checkpoint

pytestmark = pytest.mark.crash
TRAINER = """
[workers.{}]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
heartbeat_deadline_s = 20.0
settings = {{ seed = 5 }}
restart = {{ base_delay_s = 0.01, intensity = 100 }}
"""
EXTRA = """
[trainer]
hidden = [32, 16]
batch = 32
learning_starts = 400
publish_every = 20
state_every = 10
checkpoint_every = 100
evaluate_every = 0
replay_ratio = 1.0
deterministic = true
"""
KILLS = 6
LAST = 1200


def learner(one, name):
    """The learner's state in shared memory."""
    return one.mesh.attach(f"learner/{name}").read()[1]


def updates(one, name):
    """Updates as the status says them."""
    return one.mesh.attach(f"status/{name}").read()[1]["updates"]


def shape(one):
    """Shape of the first layer's bias in a policy that was published; None before."""
    segment = one.mesh.attach("policy/td3-0")
    return segment.read()[1]["b0"].shape if segment.version else None


def test_killed_learner_reaches_the_weights_of_one_that_was_not(tmp_path):
    """Two learners of one seed and stream, one killed again and again: in the end equal bits."""
    rng = random.Random(os.getpid())
    with daemon(tmp_path, TRAINER.format("td3-0") + TRAINER.format("td3-1"), EXTRA) as one:
        pid = one.running("td3-0")
        one.running("td3-1")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        published = 0
        for _ in range(KILLS):
            ring.publish(steps(50, 4, start=published // 4))
            published += 200
            point = rng.randrange(max(1, published - 400))
            until("some updates", lambda point=point: updates(one, "td3-0") >= point)
            stored = int(learner(one, "td3-0")["updates"]) if published > 400 else 0
            os.kill(pid, 9)
            pid = one.running("td3-0", other_than=pid)
            assert published <= 400 or until(
                "goes on", lambda stored=stored: updates(one, "td3-0") >= stored
            )
        ring.publish(steps((LAST + 400 - published) // 4, 4, start=published // 4))
        for name in ("td3-0", "td3-1"):
            until("the end", lambda name=name: int(learner(one, name)["updates"]) == LAST)
        killed, whole = learner(one, "td3-0"), learner(one, "td3-1")
        assert one.worker("td3-0")["restarts"] >= KILLS
        assert one.worker("td3-1")["restarts"] == 0
        for name, array in whole.items():
            assert array.tobytes() == killed[name].tobytes(), name
        ring.close()


def test_after_a_reboot_it_goes_on_from_disk_and_says_what_it_refused(tmp_path):
    """Without shared memory and with the newest checkpoint corrupt: the one before, by name."""
    free = EXTRA.replace("deterministic = true", "").replace("replay_ratio = 1.0", "")
    with daemon(tmp_path, TRAINER.format("td3-0"), free) as one:
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(200, 4))
        until("checkpoints", lambda: updates(one, "td3-0") > 320)
        ring.close()
        assert one.stop() == 0
    directory = tmp_path / "run" / "checkpoints" / "td3-0"
    newest, before = checkpoint.paths(directory)[:2]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    wanted = int(checkpoint.read(before)["updates"])
    with daemon(tmp_path, TRAINER.format("td3-0"), free) as one:
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(200, 4))
        until("going on", lambda: updates(one, "td3-0") > wanted)
        found = one.mesh.attach("status/td3-0").read()[1]["resumed_from"]
        assert found == f"disk: {before.name} (1 newer refused)"
        ring.close()


def test_corrupt_memory_is_refused_and_disk_used(tmp_path):
    """A byte flipped in every slot of the learner's segment: it goes on from its checkpoint."""
    free = EXTRA.replace("deterministic = true", "").replace("replay_ratio = 1.0", "")
    with daemon(tmp_path, TRAINER.format("td3-0"), free) as one:
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(200, 4))
        until("updates", lambda: updates(one, "td3-0") > 150)
        assert one.stop() == 0
        (path,) = one.mesh_path.glob("*learner*td3-0*")
        stored = int(learner(one, "td3-0")["updates"])
        data = bytearray(path.read_bytes())
        for at in range(len(data) // 8, len(data), len(data) // 64):
            data[at] ^= 0xFF
        with path.open("r+b") as file:
            file.write(data)
        one.start()
        until("going on", lambda: updates(one, "td3-0") > stored)
        resumed = one.mesh.attach("status/td3-0").read()[1]["resumed_from"]
        assert resumed == f"disk: checkpoint-{stored:012d}"
        ring.close()


def test_another_network_begins_anew(tmp_path):
    """Other hidden sizes over the same mesh and checkpoints: segments replaced, learning begins."""
    free = EXTRA.replace("deterministic = true", "").replace("replay_ratio = 1.0", "")
    with daemon(tmp_path, TRAINER.format("td3-0"), free) as one:
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(200, 4))
        until("updates", lambda: updates(one, "td3-0") > 120)
        policy = one.mesh.attach("policy/td3-0")
        assert one.stop() == 0
        profile = one.profile.read_text()
        one.profile.write_text(profile.replace("hidden = [32, 16]", "hidden = [8, 8]"))
        one.start()
        until("learning", lambda: one.mesh.attach("policy/td3-0").read()[1]["w0"].shape[0] == 8)
        assert one.mesh.attach("status/td3-0").read()[1]["resumed_from"] == ""
        with pytest.raises(SegmentMissing):
            policy.wait_newer(policy.version, 60.0)
        ring.close()


def test_another_network_is_not_measured_by_the_scores_of_the_last(tmp_path):
    """Behind a gate: what another network scored withholds nothing, and its trainer lives."""
    gated = EXTRA.replace("deterministic = true", "gate = true").replace(
        "evaluate_every = 0",
        'evaluate_every = 20\nevaluate_on = "known_optimum"\n'
        "evaluate_lanes = 2\nevaluate_steps = 4",
    )
    with daemon(tmp_path, TRAINER.format("td3-0"), gated) as one:
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(200, 4))
        until("policy", lambda: one.mesh.attach("status/td3-0").read()[1]["version"] > 0)
        assert one.stop() == 0
        cell = one.mesh.cell("status/td3-0", TrainerStatus, create=True)
        _, status = cell.read()
        status.best_score = 1e9
        cell.write(status)
        cell.close()
        profile = one.profile.read_text()
        one.profile.write_text(profile.replace("hidden = [32, 16]", "hidden = [8, 8]"))
        one.start()
        until("published", lambda: shape(one) == (8,))
        assert one.worker("td3-0")["restarts"] == 0
        ring.close()


def test_weights_that_are_no_numbers_are_rolled_back_or_quarantined(tmp_path):
    """A learning rate that explodes: rolled back, slower, at last quarantined; nothing published
    that is not finite, and the batch is kept for the report."""
    explosive = EXTRA.replace("deterministic = true", "learning_rate = 1.0").replace(
        "replay_ratio = 1.0", "reward_scale = 1e6\ngamma = 1.0\ntau = 1.0\npolicy_delay = 1"
    )
    spec = TRAINER.format("td3-0").replace("intensity = 100", "intensity = 3")
    with daemon(tmp_path, spec, explosive) as one:
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        records = steps(200, 4)
        records["reward"] *= 1e30  # finite each, their squares are not
        ring.publish(records)
        until("given up", lambda: one.worker("td3-0")["state"] == "quarantined")
        status = one.mesh.attach("status/td3-0").read()[1]
        assert status["skipped"] > 0
        assert status["rollbacks"] > 0
        assert "batch" in status["lost_batch"]
        with np.load(status["lost_batch"]) as kept:
            assert np.abs(kept["rewards"]).max() > 1e30
        arrays = learner(one, "td3-0")
        assert all(np.isfinite(a).all() for n, a in arrays.items() if n.endswith("values"))
        reports = list((tmp_path / "run" / "crashes").glob("td3-0-*.json"))
        assert any("NumbersLost" in path.read_text() for path in reports)
        (spool,) = spool_files(tmp_path / "run" / "tracking", "td3-0")
        entries = [json.loads(line) for line in spool.read_text().splitlines()]
        assert {entry["run"] for entry in entries} == {status["run_id"]}
        ends = [entry["end"] for entry in entries if "end" in entry]
        assert set(ends) == {"FAILED"}
        assert len(ends) >= 3
        ring.close()
    shutil.rmtree(tmp_path / "run")
