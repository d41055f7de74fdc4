"""What the one reader of /proc tells of real processes."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mesh import procfs
from tests.processes import child


@pytest.fixture
def zombie():
    """The pid of a child that ended and is not reaped."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    yield pid
    os.waitpid(pid, 0)


@pytest.fixture
def gone():
    """A pid that no process has: its child was reaped."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_a_name_with_spaces_and_parentheses_does_not_shift_the_fields():
    """The name of a process ends at the last parenthesis, whatever it holds."""
    fields = [str(number) for number in range(4, 53)]
    found = procfs.parse_stat(f"7 (a) R (b c) S {' '.join(fields)}\n")
    assert (found.name, found.state, found.parent) == ("a) R (b c", "S", 4)
    assert found.processor_s == (14 + 15) / os.sysconf("SC_CLK_TCK")
    assert (found.threads, found.start_time) == (20, 22)
    assert found.resident_bytes == 24 * os.sysconf("SC_PAGE_SIZE")


def test_this_process():
    """It runs, has this parent, and used some processor time and memory."""
    found = procfs.read_stat(os.getpid())
    assert (found.state, found.parent) == ("R", os.getppid())
    assert found.processor_s > 0
    assert found.resident_bytes > 2**20
    assert procfs.exists(os.getpid())
    assert procfs.data_bytes() > 2**20


def test_a_stopped_process_has_the_state_t():
    """The letter of the state is the kernel's."""
    with child(lambda tell: (tell(), signal.pause())) as process:
        process.started()
        os.kill(process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert procfs.read_stat(process.pid).state == "T"


def test_scheduler_times_grow():
    """The time on a processor is counted in nanoseconds, also while the process runs."""
    before = procfs.read_schedstat(os.getpid())
    while procfs.read_schedstat(os.getpid()).ran_ns < before.ran_ns + 1_000_000:
        pass
    assert procfs.read_schedstat(os.getpid()).waited_ns >= before.waited_ns


def test_threads_are_read_one_by_one():
    """Each thread has a stat and scheduler times of its own."""
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert {os.getpid(), thread.native_id} <= set(procfs.thread_ids(os.getpid()))
        assert procfs.read_stat(os.getpid(), thread.native_id).state in "SR"
        assert procfs.read_schedstat(os.getpid(), thread.native_id).ran_ns >= 0
    finally:
        done.set()
        thread.join()


def test_private_memory_grows_with_what_is_written():
    """Anonymous memory counts in bytes, and both sources agree about it."""
    before = procfs.read_memory(os.getpid())
    # a mapping of its own: an allocation may come from memory that was freed before
    with mmap.mmap(-1, 2**25, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as block:
        block.write(b"\1" * len(block))
        after, sums = procfs.read_memory(os.getpid()), procfs.read_smaps_rollup(os.getpid())
        assert after.private - before.private > 0.9 * len(block)
        assert sums.resident > sums.anonymous > 0.9 * len(block)
        assert sums.proportional <= sums.resident


def test_command_line_and_children():
    """A child is found with the arguments that it was started with."""
    line = [sys.executable, "-c", "input()", "", "a b"]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert procfs.read_command_line(process.pid) == tuple(map(os.fsencode, line))
        assert process.pid in procfs.child_pids(os.getpid())
        process.communicate(b"\n")


def test_descriptors_are_counted_without_the_one_that_counts():
    """One more open file is one more descriptor."""
    before = procfs.open_descriptors()
    with Path(os.devnull).open("rb"):
        assert procfs.open_descriptors() == before + 1
    assert procfs.open_descriptors() == before


def test_a_zombie_is_shown_but_has_no_memory(zombie):
    """It has a state, and nothing else worth reading."""
    assert procfs.exists(zombie)
    assert procfs.read_stat(zombie).state == "Z"
    assert procfs.read_memory(zombie) is None
    assert procfs.read_smaps_rollup(zombie) is None
    assert procfs.read_command_line(zombie) == ()


def test_a_process_that_is_gone_is_none(gone):
    """No reader raises for a process that ended in between."""
    assert not procfs.exists(gone)
    assert procfs.read_stat(gone) is None
    assert procfs.read_schedstat(gone) is None
    assert procfs.read_memory(gone) is None
    assert procfs.read_smaps_rollup(gone) is None
    assert procfs.child_pids(gone) is None
    assert procfs.thread_ids(gone) == ()
    assert procfs.read_command_line(gone) == ()
    assert procfs.read_wait_channel(gone) == ""


def test_the_boot_has_an_id():
    """It is the same for everyone until the next boot."""
    assert len(procfs.boot_id()) == 16
    assert procfs.boot_id() == procfs.boot_id()


def test_nothing_heavy_is_imported():
    """The daemon and `meshctl status` read /proc without NumPy."""
    code = "import sys, mesh.procfs; sys.exit('numpy' in sys.modules or 'json' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0
