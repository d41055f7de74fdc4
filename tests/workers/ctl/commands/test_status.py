"""`meshctl status`: the screen, one worker, the exit code."""

from __future__ import annotations

import json

import msgspec
import pytest

from tests.workers.ctl.conftest import DEAD


def test_the_screen_of_a_healthy_loop(meshctl):
    """State, workers, the sum of the messages, who acts, what happened."""
    code, out, err = meshctl("status")
    assert (code, err) == (0, "")
    assert out.startswith("tradingmesh healthy, meshd 1.2.3 pid ")
    assert "11 consumed = 9 published + 1 dead-lettered + 1 dropped" in out
    assert "td3-0: version 2, 40 updates (9/s), acting with version 2" in out
    assert "td3-0 exited, running again after 50ms: SIGKILL" in out
    assert f"unmanaged   notebook (pid {DEAD.pid}) dead, holds policy/mine" in out


@pytest.mark.parametrize(
    ("state", "code"),
    [("healthy", 0), ("degraded", 1), ("starting", 1), ("stopping", 1), ("down", 2)],
)
def test_the_exit_code_is_the_state(loop, meshctl, state, code):
    """0 healthy, 1 degraded, 2 down."""
    loop.status.state = state
    loop.publish_status()
    assert meshctl("status")[0] == code


def test_a_dead_daemon_is_said_and_the_rest_is_shown(loop, meshctl):
    """The last word of a dead daemon, marked as such."""
    loop.status = msgspec.structs.replace(loop.status, pid=DEAD.pid, start_time=DEAD.start_time)
    loop.publish_status()
    code, out, _ = meshctl("status")
    assert code == 2
    assert "is dead; this is its last status" in out.splitlines()[0]
    assert "11 consumed" in out


def test_a_worker_whose_process_is_gone_is_dead(loop, meshctl):
    """With nobody to notice a death, the processes themselves are asked."""
    loop.status = msgspec.structs.replace(loop.status, pid=DEAD.pid, start_time=DEAD.start_time)
    loop.status.workers[1].pid, loop.status.workers[1].start_time = DEAD.pid, DEAD.start_time
    loop.publish_status()
    (line,) = [each for each in meshctl("status")[1].splitlines() if each.startswith("feeder")]
    assert line.split()[1] == "dead"


def test_one_worker_in_full(meshctl):
    """Everything about one worker, its own status with it; the code is its state."""
    code, out, _ = meshctl("status", "td3-0")
    assert code == 0
    assert "updates_per_s" in out
    code, out, _ = meshctl("status", "td3-0", "--format", "json")
    report = json.loads(out)
    assert report["status"]["updates"] == 40
    assert [incident["evidence"] for incident in report["incidents"]] == ["SIGKILL"]


def test_a_worker_that_does_not_run_is_code_1(loop, meshctl):
    """A quarantined worker is told with its reason."""
    loop.status.workers[0].state, loop.status.workers[0].reason = "quarantined", "7 deaths"
    loop.publish_status()
    code, out, _ = meshctl("status", "ingest")
    assert code == 1
    assert "7 deaths" in out


def test_waiting_ends_at_its_time(loop, meshctl):
    """--wait-ready gives the state that it found when the time was over."""
    loop.status.ready = False
    loop.status.state = "starting"
    loop.publish_status()
    assert meshctl("status", "--wait-ready", "0.1")[0] == 1
