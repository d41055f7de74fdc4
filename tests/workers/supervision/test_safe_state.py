"""Safe state: from workers and who acts to a reason, without a process."""

from __future__ import annotations

import pytest

from config.supervisor import SupervisorConfig
from config.worker_spec import WorkerSpec
from workers.supervision.managed_worker import ManagedWorker
from workers.supervision.restart_policy import Death
from workers.supervision.safe_state import why_unsafe
from workers.supervision.state_machine import State

LIMITS = SupervisorConfig(unsafe_deaths=2, unsafe_period_s=10.0, stale_after_s=3.0)


def worker(name, role, state=State.RUNNING, deaths=(), left=0.0):
    """One worker in a state."""
    spec = WorkerSpec(name=name, worker="a:B", role=role)
    return ManagedWorker(
        spec, 0.0, state, deaths=[Death(at, 0.0) for at in deaths], left_running_at=left
    )


@pytest.mark.parametrize(
    ("workers", "acting", "reason"),
    [
        ([worker("p", "policy"), worker("d", "data")], "p", ""),
        ([worker("p", "policy", State.BACKOFF)], "p", ""),
        ([worker("p", "policy", State.QUARANTINED)], "p", "policy of p: quarantined"),
        ([worker("p", "policy", State.QUARANTINED), worker("q", "policy")], "q", ""),
        ([worker("p", "policy", State.QUARANTINED)], "", "policy of p"),
        ([worker("p", "policy", deaths=(95.0, 99.0))], "p", "died 2 times in 10 s"),
        ([worker("p", "policy", deaths=(50.0, 99.0))], "p", ""),
        ([worker("d", "data", State.BACKOFF, left=98.0)], "p", ""),
        ([worker("d", "data", State.BACKOFF, left=90.0)], "p", "stale: d is backoff"),
        ([worker("x", "", State.QUARANTINED)], "p", ""),
    ],
)
def test_reasons(workers, acting, reason):
    """The acting policy's learner and the data source count, nobody else does."""
    why = why_unsafe(workers, acting, LIMITS, 100.0)
    assert reason in why if reason else why == ""
