"""A silence is no permission to act."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from config.feeder import FeederConfig
from mesh import Mesh
from tests.processes import child
from workers.contract.dtypes import MARKET_DTYPE
from workers.contract.names import SUPERVISOR
from workers.contract.statuses import SupervisorStatus
from workers.feeder.safety import DAEMON_CHECK_INTERVAL_S, Safety


class Clock:
    """Monotonic seconds of the test's own."""

    now = 0.0

    def __call__(self):
        return self.now


def state(lag_s=0.0):
    """A market state that was published this long after its newest event."""
    record = np.zeros((), MARKET_DTYPE)
    record["ts_event"], record["ts_published"] = 10**18, 10**18 + int(lag_s * 1e9)
    return record


def daemon_says(mesh, word):
    """A daemon's status, written by this process."""
    cell = mesh.cell(SUPERVISOR, SupervisorStatus, create=True, max_bytes=1 << 17)
    cell.write(
        SupervisorStatus(
            pid=1,
            start_time=1,
            since=0.0,
            version="0",
            profile="",
            state="healthy",
            safe_state=word,
        )
    )
    return cell


@pytest.fixture
def mesh(mesh_directory):
    """A mesh of the test's own."""
    return Mesh(mesh_directory)


def test_the_daemons_word_counts_and_stands(mesh):
    """Its safe state is the reason; unreadable afterwards, the last word holds."""
    clock = Clock()
    safety = Safety(mesh, FeederConfig(), clock)
    assert safety.why_not(state()) == ""
    daemon_says(mesh, "policy quarantined")
    clock.now += DAEMON_CHECK_INTERVAL_S
    assert safety.why_not(state()) == "policy quarantined"
    (mesh.path / SUPERVISOR).write_bytes(b"garbage" * 1000)
    clock.now += DAEMON_CHECK_INTERVAL_S
    assert safety.why_not(state()) == "policy quarantined"


def test_late_data_is_not_acted_on_where_configured(mesh):
    """A backlog after an outage lags the clock: held in production, a replay is let through."""
    strict = Safety(mesh, FeederConfig(live_max_lag_s=10.0), Clock())
    assert strict.why_not(state(lag_s=9.0)) == ""
    assert strict.why_not(state(lag_s=1200.0)).startswith("data lags the clock by 1200.0 s")
    assert Safety(mesh, FeederConfig(), Clock()).why_not(state(lag_s=1e8)) == ""


def test_a_dead_daemon_ends_acting_after_a_while(mesh):
    """Its status stays behind, its process does not: after the time allowed nobody acts."""

    def body(tell):
        daemon_says(mesh, "")
        tell()
        import signal  # noqa: PLC0415 - in the child alone

        signal.pause()

    clock = Clock()
    safety = Safety(mesh, FeederConfig(daemon_absence_s=60.0), clock)
    with child(body) as process:
        process.started()
        clock.now = 100.0
        assert safety.why_not(state()) == ""
        process.kill()
    clock.now = 159.0
    assert safety.why_not(state()) == ""
    clock.now = 161.0
    assert safety.why_not(state()) == "no daemon for 61 s, 60 s are allowed"
    shutil.rmtree(mesh.path)
    clock.now = 170.0
    assert safety.why_not(state()).startswith("no daemon")
