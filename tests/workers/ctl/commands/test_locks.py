"""`meshctl locks`."""

from __future__ import annotations

import json
import os
import signal

from mesh import Mesh
from tests.processes import child


def test_locks_and_leases(loop, meshctl):
    """Held locks name their owner, leases the process that writes."""
    with loop.lock:
        rows = json.loads(meshctl("locks", "--format", "json")[1])
    (lock,) = [row for row in rows if row["kind"] == "lock"]
    assert (lock["name"], lock["owner"], lock["alive"]) == ("journal", "keeper", True)
    assert {row["name"] for row in rows if row["kind"] == "lease"} >= {"ticks", "supervisor"}
    assert {row["pid"] for row in rows} == {os.getpid()}


def test_a_dead_owner_is_told_with_the_remedy(loop, meshctl):
    """A lock whose owner was killed is listed with the command that frees it."""

    def hold(tell):
        Mesh(loop.mesh.path).lock("journal", create=True, owner_name="victim").acquire(1.0)
        tell()
        signal.pause()

    with child(hold) as process:
        process.started()
        process.kill()
        out = meshctl("locks")[1]
    assert "victim" in out
    assert "dead; free it: meshctl break-lock journal" in out
