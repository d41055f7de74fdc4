"""Locks: mutual exclusion between processes, and an owner that is always known."""

from __future__ import annotations

import os
import random
import select
import signal

import numpy as np
import pytest

from mesh import LeaseHeld, LeaseLost, LockTimeout, ProcessIdentity
from tests.processes import child


def hold(mesh):
    """What a child runs that takes the lock and keeps it."""

    def body(tell):
        lock = mesh.lock("experience", create=True, owner_name="trainer td3-0")
        lock.acquire(1.0)
        tell()
        signal.pause()

    return body


def test_i3_live_owner_is_never_broken(mesh):
    """While its owner lives, even stopped, a lock can be neither taken nor broken."""
    lock = mesh.lock("experience", create=True)
    with child(hold(mesh)) as owner:
        owner.started()
        owner.kill(signal.SIGSTOP)
        with pytest.raises(LockTimeout, match=r"trainer td3-0.*pid \d+.*wait or stop it"):
            lock.acquire(0.05)
        assert lock.break_stale() is None
        found = lock.owner()
        assert found.identity == ProcessIdentity.of(owner.pid)
        with pytest.raises(LeaseHeld):
            mesh.break_leases(found.identity)


def test_i3_dead_owner_is_handed_to_the_breaker(mesh):
    """The dead owner is named to whoever waits; one breaker gets it, the next one nothing."""
    lock = mesh.lock("experience", create=True)
    with child(hold(mesh)) as owner:
        owner.started()
        identity = ProcessIdentity.of(owner.pid)
        owner.kill()
    with pytest.raises(LockTimeout, match="it is dead"):
        lock.acquire(0.01)
    assert lock.break_stale().identity == identity
    assert lock.break_stale() is None
    with lock:
        assert lock.owner().identity == ProcessIdentity.current()
    with pytest.raises(LeaseLost):
        lock.release()
    assert lock.lock_counters() == (2, 1)


def test_entries_of_the_dead_are_used_again(mesh):
    """More processes than owner entries may use a lock one after the other."""

    def use(_report):
        with mesh.lock("busy", create=True):
            pass

    for _ in range(40):
        with child(use) as process:
            assert process.wait() == 0


def test_fork_does_not_inherit_the_lock(mesh):
    """A forked child is another owner: it can neither release nor hold what its parent took."""
    lock = mesh.lock("experience", create=True)
    with lock:

        def body(_report):
            with pytest.raises(LeaseLost):
                lock.release()
            with pytest.raises(LockTimeout):
                lock.acquire(0.01)

        with child(body) as process:
            assert process.wait() == 0
        assert lock.owner().identity.pid == os.getpid()


@pytest.mark.crash
def test_i3_killed_owners_cost_one_break_and_no_exclusion(mesh):
    """Three processes count under the lock, one is killed again and again: no count is lost."""
    dtype = np.dtype("<i8")
    mesh.ring("counts", dtype, capacity=4, create=True).close()

    def count(tell):
        lock = mesh.lock("sum", create=True)
        tell()
        while True:
            try:
                lock.acquire(0.02)
            except LockTimeout:
                lock.break_stale()
                continue
            ring = mesh.ring("counts", dtype, capacity=4, create=True)  # LeaseHeld if two are in
            ring.publish(np.array([ring.published], dtype))
            ring.close()
            lock.release()

    rng = random.Random(4)  # a fixed seed: the points differ by scheduling anyway
    with child(count) as first, child(count) as second:
        first.started()
        second.started()
        for _ in range(15):
            with child(count) as victim:
                victim.started()
                select.select([], [], [], rng.uniform(0, 0.02))
                victim.kill()
        published = mesh.ring("counts", dtype)
        before = published.published
        assert published._file.mapping.wait(before + 5, 30.0, 0.0)
        for process in (first, second):
            assert os.waitpid(process.pid, os.WNOHANG) == (0, 0)
    last = published.reader("oldest").read()
    assert last.tolist() == list(range(published.published - last.size, published.published))
