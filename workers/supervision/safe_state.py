"""Decides whether acting is safe. Pure: from the workers and the acting learner to a reason.

When what acts is not trustworthy, acting stops: the feeder holds or flattens its positions, as
configured, and the last good policy stays where it is. Not trustworthy is a learner that is
quarantined or dies too often while its policy acts, and market data whose source does not run.
(Whether a quote is too old the feeder decides itself, state by state.)
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from workers.supervision.state_machine import State

if TYPE_CHECKING:
    from config.supervisor import SupervisorConfig
    from workers.supervision.managed_worker import ManagedWorker


def why_unsafe(
    workers: Iterable[ManagedWorker], acting: str, limits: SupervisorConfig, now: float
) -> str:
    """Return why acting is not safe; empty: it is safe.

    Args:
        workers: All managed workers.
        acting: Name of the learner whose policy acts; empty: not known, every learner counts.
        limits: How many deaths in how long, and how long data may be without a source.
        now: Monotonic seconds.
    """
    for worker in workers:
        if worker.spec.role == "policy" and acting in {"", worker.name}:
            reason = _why_not_trusted(worker, limits, now)
        elif worker.spec.role == "data":
            reason = _why_stale(worker, limits, now)
        else:
            continue
        if reason:
            return reason
    return ""


def _why_not_trusted(worker: ManagedWorker, limits: SupervisorConfig, now: float) -> str:
    if worker.state is State.QUARANTINED:
        return f"policy of {worker.name}: quarantined: {worker.reason}"
    deaths = sum(now - death.at <= limits.unsafe_period_s for death in worker.deaths)
    if deaths < limits.unsafe_deaths:
        return ""
    return (
        f"policy of {worker.name}: its learner died {deaths} times in {limits.unsafe_period_s:g} s"
    )


def _why_stale(worker: ManagedWorker, limits: SupervisorConfig, now: float) -> str:
    if worker.state is State.RUNNING or now - worker.left_running_at < limits.stale_after_s:
        return ""
    return f"market data is stale: {worker.name} is {worker.state}"
