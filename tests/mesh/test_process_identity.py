"""Identity: pid and start time."""

from __future__ import annotations

import os

from mesh import ProcessIdentity


def test_i3_same_pid_with_another_start_is_another_process():
    """A pid that was used again is not the process that was meant."""
    me = ProcessIdentity.current()
    assert me.is_alive()
    assert not ProcessIdentity(me.pid, me.start_time + 1).is_alive()


def test_zombie_is_dead():
    """A process that ended but was not reaped executes nothing any more."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert not ProcessIdentity.of(pid).is_alive()
    os.waitpid(pid, 0)
