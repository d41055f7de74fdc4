"""Calls that wait for somebody else: their results, their errors, and a stop in their middle."""

from __future__ import annotations

import contextlib
import os
import signal
import threading

import pytest

from workers.runtime.interruptible import CallStopped, InterruptibleCalls

pytestmark = pytest.mark.usefixtures("_stop_flag")


class Flag:
    """What a worker's signal handler sets."""

    stopped = False


@pytest.fixture(name="_stop_flag")
def stop_flag():
    """SIGUSR1 sets the flag, as SIGTERM does in a worker."""
    Flag.stopped = False
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: setattr(Flag, "stopped", True))
    yield
    signal.signal(signal.SIGUSR1, before)


def calls():
    """Calls that end when the flag is set."""
    return InterruptibleCalls(lambda: Flag.stopped)


def test_a_call_returns_or_raises_as_if_made_directly():
    """Arguments, result and error pass through, and the thread is another one."""
    one = calls()
    assert one.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        one.run(divmod, 7, 0)
    with pytest.raises(SystemExit):
        one.run(lambda: (_ for _ in ()).throw(SystemExit(3)).__next__())
    assert one.run(threading.get_ident) != threading.get_ident()


def test_posted_actions_run_in_the_loop_before_the_call_returns():
    """What a call posts is run by the thread that waits, in order."""
    one = calls()
    seen = []

    def work():
        one.post(lambda: seen.append(threading.get_ident()))
        one.post(lambda: seen.append(0))

    one.run(work)
    assert seen == [threading.get_ident(), 0]


def test_a_signal_leaves_a_call_that_hangs():
    """The loop raises at its own place; no signal is lost, whenever it comes."""
    one = calls()
    never, poke = os.pipe()

    def hang():
        os.kill(os.getpid(), signal.SIGUSR1)
        os.read(never, 1)

    with pytest.raises(CallStopped, match="during"):
        one.run(hang)
    with pytest.raises(CallStopped, match="before"):
        one.run(hang)
    os.write(poke, b"x")
    for fd in (never, poke):
        os.close(fd)


def test_a_stop_at_any_instant_of_a_call_is_seen():
    """A signal from another thread at a random instant: the call ends one way or the other."""
    one = calls()
    stopped = 0
    for _ in range(200):
        Flag.stopped = False
        sender = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
        release = threading.Event()
        sender.start()
        try:
            one.run(release.wait, 0.001)
        except CallStopped:
            stopped += 1
        release.set()
        sender.join()
        with contextlib.suppress(CallStopped):
            Flag.stopped = False
            one.run(int)
    assert 0 <= stopped <= 200
    assert signal.set_wakeup_fd(-1) == -1
