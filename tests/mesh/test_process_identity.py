"""Identity: pid and start time."""

from __future__ import annotations

import ctypes
import os
import subprocess

import pytest

from mesh import ProcessIdentity
from tests.processes import child


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


CLONE_NEWNS = 0x00020000  # sched.h


def hide(how):
    """Let /proc show this process nothing of other users; False: this host does not allow it."""
    if os.getuid() != 0 or ctypes.CDLL(None).unshare(CLONE_NEWNS) != 0:
        return False
    mounts = (["--make-rprivate", "/"], ["-t", "proc", "-o", f"hidepid={how}", "proc", "/proc"])
    for words in mounts:
        if subprocess.run(["mount", *words], capture_output=True, check=False).returncode != 0:
            return False
    os.setgroups([])
    os.setgid(61234)
    os.setuid(61234)
    return True


@pytest.mark.parametrize("how", [1, 2])
def test_i3_hidden_process_is_not_taken_for_dead(how):
    """Where /proc hides other users' processes, one that lives keeps its lock and its lease."""
    root = ProcessIdentity.current()
    free = os.fork()
    if free == 0:
        os._exit(0)
    os.waitpid(free, 0)

    def ask(tell):
        if not hide(how):
            return tell("skip")
        asked = [root, ProcessIdentity.current()]
        asked += [ProcessIdentity(pid, 1) for pid in (0, free, 2**32 - 1)]
        return tell(" ".join(str(each.is_alive()) for each in asked))

    with child(ask) as process:
        said = process.started()
    if said == "skip":
        pytest.skip("needs root and a mount namespace of its own")
    assert said == "True True False False False"
