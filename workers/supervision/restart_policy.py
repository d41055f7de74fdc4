"""When a dead worker comes back, or that it does not. Pure; `now` is monotonic seconds.

The restart intensity (more than N deaths in T seconds: stop trying) is Erlang/OTP's; the backoff
is exponential, capped and jittered so that workers that died together do not return together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class RestartLimits(Protocol):
    """The fields of `config.worker_spec.RestartConfig`; delays and periods in seconds."""

    @property
    def first_delay_s(self) -> float:
        """Delay after a first death."""

    @property
    def base_delay_s(self) -> float:
        """Delay after a second death."""

    @property
    def max_delay_s(self) -> float:
        """Cap of the delay."""

    @property
    def jitter(self) -> float:
        """Random share of the delay, 0 to 1."""

    @property
    def healthy_s(self) -> float:
        """Running this long forgets earlier deaths."""

    @property
    def intensity(self) -> int:
        """Deaths allowed within the period."""

    @property
    def period_s(self) -> float:
        """Length of that period."""


@dataclass(frozen=True, slots=True)
class Death:
    """One unplanned end: when (monotonic seconds), and for how long the worker had been ready."""

    at: float
    ready_s: float
    hopeless: bool = False  # the worker itself said that starting again does not help


@dataclass(frozen=True, slots=True)
class Restart:
    """Start it again after `delay_s` seconds."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Do not start it again; `reason` says why in a line."""

    reason: str


def decide(
    deaths: Sequence[Death], limits: RestartLimits, now: float, uniform: float
) -> Restart | Quarantine:
    """Decide whether and when a worker that died is started again.

    Args:
        deaths: Its deaths, oldest first; the newest is the one to act on.
        limits: Delays and the allowed intensity.
        now: Monotonic seconds.
        uniform: A random number in [0, 1); it shortens the delay by up to `jitter` of it.
    """
    if deaths[-1].hopeless:
        return Quarantine("starting it again does not help")
    recent = [death for death in deaths if now - death.at <= limits.period_s]
    if len(recent) > limits.intensity:
        return Quarantine(
            f"{len(recent)} deaths in {limits.period_s:g} s, {limits.intensity} are allowed"
        )
    in_a_row = 0
    for death in reversed(deaths):
        in_a_row += 1
        if death.ready_s >= limits.healthy_s:
            break
    if in_a_row <= 1:
        return Restart(limits.first_delay_s)
    doublings = min(in_a_row - 2, 60)
    delay = min(limits.base_delay_s * 2**doublings, limits.max_delay_s)
    return Restart(delay * (1.0 - limits.jitter * uniform))


def remembered(deaths: Sequence[Death], limits: RestartLimits, now: float) -> list[Death]:
    """Return the deaths that can still matter to `decide`, oldest first.

    Those before a healthy spell are forgotten, except for those that the intensity still counts.
    """
    healthy = max((i for i, d in enumerate(deaths) if d.ready_s >= limits.healthy_s), default=0)
    recent = next((i for i, d in enumerate(deaths) if now - d.at <= limits.period_s), len(deaths))
    return list(deaths[min(healthy, recent) :])
