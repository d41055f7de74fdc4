"""Hung or only starved: the verdict, without a process and without a clock."""

from __future__ import annotations

import os
import signal
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from tests.processes import child
from workers.supervision.hang_detection import (
    MIN_WATCHED_SHARE,
    SUSPICIOUS_SHARE,
    Activity,
    Suspicion,
    activity_of,
    is_hung,
)

ALLOWED = 0.2


def activity(ran_s=0.0, waited_s=0.0, state="S"):
    """What the kernel would say."""
    return Activity(int(ran_s * 1e9), int(waited_s * 1e9), state, "")


def first_hung(step_s, waited_share, late=False):
    """Silence at which a worker that waits this share of the time is called hung; 100 s: never."""
    silence = 2 * ALLOWED if late else SUSPICIOUS_SHARE * ALLOWED
    suspicion = Suspicion(silence, silence, activity())
    while silence < 100.0:
        silence += step_s
        waited = (silence - suspicion.silence_s) * waited_share
        if is_hung(suspicion, activity(waited_s=waited), silence, ALLOWED, silence):
            return silence
    return silence


@given(st.floats(0.001, 0.05))
def test_idle_and_stopped_processes_are_hung_at_the_deadline(step):
    """Who neither runs nor waits for a processor had all the time: the deadline holds exactly."""
    assert ALLOWED <= first_hung(step, 0.0) <= ALLOWED + step + 1e-9


@given(st.floats(0.0, 0.95))
def test_waiting_for_a_processor_is_taken_off(share):
    """With a share of the time spent waiting the verdict comes later by as much."""
    expected = SUSPICIOUS_SHARE * ALLOWED + (1 - SUSPICIOUS_SHARE) * ALLOWED / (1 - share)
    assert abs(first_hung(0.001, share) - expected) < 0.003


def test_who_never_gets_a_processor_is_never_hung():
    """All of the silence was waiting: no verdict."""
    assert first_hung(0.1, 1.0) >= 100.0


@given(st.floats(ALLOWED, 100.0))
def test_who_is_runnable_and_did_not_run_is_never_hung(silence):
    """The kernel shows a wait for a processor when it ends: until then nothing is shown at all."""
    suspicion = Suspicion(SUSPICIOUS_SHARE * ALLOWED, SUSPICIOUS_SHARE * ALLOWED, activity())
    assert not is_hung(suspicion, activity(state="R"), silence, ALLOWED, silence)


@given(st.floats(0.0, 0.95))
def test_a_loop_is_hung_when_it_has_run_for_the_time_allowed(share):
    """An endless loop on a busy host: found as soon as it had the processor for long enough."""
    silence, suspicion = (
        0.0,
        Suspicion(SUSPICIOUS_SHARE * ALLOWED, SUSPICIOUS_SHARE * ALLOWED, activity()),
    )
    used = (1 - SUSPICIOUS_SHARE) * ALLOWED
    for silence in (suspicion.silence_s + used / (1 - share) * part for part in (0.98, 1.02)):
        ran = (silence - suspicion.silence_s) * (1 - share)
        looping = activity(ran_s=ran, state="R")
        hung = is_hung(suspicion, looping, max(silence, ALLOWED), ALLOWED, silence)
        assert hung == (ran > used)


def test_a_late_watcher_watches_for_a_whole_deadline():
    """The silence was too long at the first look (the watcher was away): no verdict from that."""
    assert first_hung(0.001, 0.0, late=True) >= 3 * ALLOWED - 0.002


@given(st.floats(SUSPICIOUS_SHARE * ALLOWED, ALLOWED))
def test_there_is_always_some_watching(silence):
    """However late the first look within the deadline: it takes more than one look."""
    suspicion = Suspicion(silence, silence, activity())
    assert not is_hung(
        suspicion, activity(), ALLOWED, ALLOWED, silence + MIN_WATCHED_SHARE * ALLOWED / 2
    )


def test_the_kernel_is_asked():
    """A live process has times and a state, one that is gone has none."""
    mine = activity_of(os.getpid())
    assert mine.ran_ns > 0
    assert mine.state == "R"
    assert "running" in mine.describe(mine)
    assert activity_of(2**22 - 1) is None


def test_who_waits_for_a_starved_thread_of_its_own_is_not_hung():
    """The main thread sleeps until a helper has done its part, and that gets no processor."""
    suspicion = Suspicion(SUSPICIOUS_SHARE * ALLOWED, SUSPICIOUS_SHARE * ALLOWED, activity())
    starved = Activity(0, 0, "S", "futex_wait", helper_runs=True)
    assert not is_hung(suspicion, starved, 10.0, ALLOWED, 10.0)
    busy = Activity(int(ALLOWED * 1e9), 0, "S", "futex_wait", helper_runs=True)
    assert is_hung(suspicion, busy, 10.0, ALLOWED, 10.0)


def test_all_threads_of_a_process_are_asked():
    """A helper that computes is seen, and its time counts; the state is the main thread's."""

    def body(tell):
        threading.Thread(target=_compute, daemon=True).start()
        tell()
        while True:
            signal.pause()

    with child(body) as process:
        process.started()
        deadline = time.monotonic() + 30.0
        while not (seen := activity_of(process.pid)).helper_runs:
            assert time.monotonic() < deadline
        before = seen
        while (seen := activity_of(process.pid)).ran_ns == before.ran_ns:
            assert time.monotonic() < deadline


def _compute():
    while True:
        pass
