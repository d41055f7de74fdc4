"""Restarts: backoff grows, is capped and forgotten; too many deaths end in quarantine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from config.worker_spec import RestartConfig
from workers.supervision.restart_policy import Death, Quarantine, Restart, decide, remembered

LIMITS = RestartConfig(
    base_delay_s=1.0, max_delay_s=10.0, jitter=0.0, healthy_s=5.0, intensity=8, period_s=100.0
)


def test_backoff_doubles_up_to_its_cap():
    """The first restart is at once; then base, twice base, ... and never more than the cap."""
    deaths = [Death(float(n), 0.0) for n in range(8)]
    delays = [decide(deaths[: n + 1], LIMITS, float(n), 0.0).delay_s for n in range(8)]
    assert delays == [0.0, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_healthy_spell_forgets_earlier_deaths():
    """A death after a long enough run counts as a first one."""
    deaths = [Death(0.0, 0.0), Death(1.0, 0.0), Death(50.0, 40.0)]
    assert decide(deaths, LIMITS, 50.0, 0.0) == Restart(0.0)


def test_too_many_deaths_in_the_period_are_quarantined():
    """One more than the intensity within the period: the verdict names both numbers."""
    deaths = [Death(n * 1.0, 0.0) for n in range(9)]
    verdict = decide(deaths, LIMITS, 8.0, 0.0)
    assert verdict == Quarantine("9 deaths in 100 s, 8 are allowed")
    assert isinstance(decide(deaths, LIMITS, 105.0, 0.0), Restart)


@given(
    st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 100)), min_size=1, max_size=30),
    st.floats(0, 0.999),
)
def test_delay_is_always_within_its_bounds(raw, uniform):
    """Whatever the history: a delay between 0 and the cap, or a quarantine."""
    deaths = [Death(at, ready) for at, ready in sorted(raw)]
    verdict = decide(deaths, RestartConfig(), deaths[-1].at, uniform)
    assert isinstance(verdict, Quarantine) or 0.0 <= verdict.delay_s <= 30.0


@given(
    st.lists(st.tuples(st.floats(0, 1e3), st.floats(0, 20)), min_size=1, max_size=40),
    st.floats(0, 300),
)
def test_what_is_forgotten_does_not_matter(raw, later):
    """The verdict on the remembered deaths is the verdict on all of them, now and at the next."""
    deaths = [Death(at, ready) for at, ready in sorted(raw)]
    now = deaths[-1].at
    kept = remembered(deaths, LIMITS, now)
    assert decide(kept, LIMITS, now, 0.0) == decide(deaths, LIMITS, now, 0.0)
    another = Death(now + later, 1.0)
    verdicts = [decide([*d, another], LIMITS, another.at, 0.0) for d in (kept, deaths)]
    assert verdicts[0] == verdicts[1]


def test_a_hopeless_death_is_quarantined_at_once():
    """Where the worker itself says that a restart does not help, none is tried."""
    assert isinstance(decide([Death(0.0, 100.0, hopeless=True)], LIMITS, 0.0, 0.0), Quarantine)
