"""A disk without room: what was not written is counted and said, learning goes on."""

from __future__ import annotations

import contextlib
import subprocess

import pytest

from tests.daemons import daemon, until
from tests.workers.trainer.batches import batch, learners
from tests.workers.trainer.experience import steps
from workers.contract.dtypes import EXPERIENCE_DTYPE
from workers.runtime.atomic_file import write_whole
from workers.trainer.state.divergence_guard import DivergenceGuard

WORKERS = """
[workers.td3-0]
worker = "workers.trainer.worker:TrainerWorker"
nursery = "learner"
heartbeat_deadline_s = 20.0
"""
EXTRA = """
[trainer]
hidden = [32, 16]
batch = 32
learning_starts = 400
state_every = 10
checkpoint_every = 20
evaluate_every = 40
evaluate_on = "known_optimum"
evaluate_lanes = 2
evaluate_steps = 4
"""


@contextlib.contextmanager
def small_disk(directory, room):
    """A file system of `room` bytes, as a function that changes its size."""
    directory.mkdir(parents=True)

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount(f"size={room}"):
        pytest.skip("no file system can be mounted here: needs root")
    try:
        yield lambda room: mount(f"remount,size={room}")
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@pytest.mark.crash
@pytest.mark.root
def test_a_full_disk_costs_files_and_no_updates(tmp_path):
    """Neither checkpoint nor best policy fits: counted, named, no restart; with room again they
    are written."""
    run = tmp_path / "run"
    with (
        small_disk(run / "checkpoints", "64k") as checkpoints_have,
        small_disk(run / "models", "64k") as models_have,
        daemon(tmp_path, WORKERS, EXTRA) as one,
    ):
        one.running("td3-0")
        ring = one.mesh.ring("experience", EXPERIENCE_DTYPE, capacity=1 << 13, create=True)
        ring.publish(steps(200, 4))

        def status():
            return one.mesh.attach("status/td3-0").read()[1]

        until("refused files", lambda: status()["unwritten"] >= 4 and status()["updates"] > 100)
        assert "No space left on device" in status()["disk_error"]
        assert not list(run.glob("checkpoints/td3-0/*"))
        assert not list(run.glob("models/td3-0/*"))
        assert checkpoints_have("64m")
        assert models_have("64m")
        until("a checkpoint", lambda: list(run.glob("checkpoints/td3-0/checkpoint-*")))
        assert one.worker("td3-0")["restarts"] == 0
        assert one.stop() == 0
        ring.close()


@pytest.mark.root
def test_a_lost_batch_that_finds_no_room_is_counted(tmp_path):
    """The guard says why there is no file and goes on; half a file does not stay."""
    ours, _ = learners()
    with small_disk(tmp_path / "crashes", "4k"):
        guard = DivergenceGuard(ours.update, tmp_path / "crashes", "td3-0", 3)
        guard.store_batch(batch(0))
        assert guard.not_kept == 1
        assert "No space left on device" in guard.batch
        assert not list((tmp_path / "crashes").iterdir())


def test_a_file_is_there_whole_or_as_it_was(tmp_path):
    """Written again it is the new one; under a name that cannot be made, nothing is left over."""
    path = write_whole(tmp_path / "new" / "file", b"a", b"b", temporary=".new")
    assert path.read_bytes() == b"ab"
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "new", b"c", temporary="other")
    write_whole(path, b"d", temporary=".new")
    assert path.read_bytes() == b"d"
    assert [found.name for found in tmp_path.rglob("*")] == ["new", "file"]
