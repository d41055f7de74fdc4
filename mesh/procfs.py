"""The one place that reads /proc: typed answers, with units, about processes of this host.

A process that ended, or that /proc hides from this user (hidepid), is None or empty here; whether
a hidden process still lives is for `mesh.process_identity` to decide. Formats: proc(5).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_GONE_OR_HIDDEN = (FileNotFoundError, ProcessLookupError, PermissionError)


class Stat(NamedTuple):
    """Fields of /proc/PID/stat (proc_pid_stat(5)).

    `start_time` is in clock ticks since boot, `processor_s` is user and system time in seconds,
    `resident_bytes` counts shared pages too.
    """

    name: str
    state: str  # one letter: R, S, D, T, t, Z, X, I
    parent: int
    processor_s: float
    threads: int
    start_time: int
    resident_bytes: int


class SchedStat(NamedTuple):
    """Fields of /proc/PID/schedstat, in nanoseconds since the thread began."""

    ran_ns: int
    waited_ns: int  # runnable, but without a processor


class MemoryStatus(NamedTuple):
    """Memory of a process as /proc/PID/status counts it, in bytes."""

    anonymous: int  # RssAnon: resident, neither shared nor backed by a file
    shared: int  # RssShmem: resident pages of shared memory, the mesh's among them
    file: int  # RssFile
    swapped: int  # VmSwap

    @property
    def private(self) -> int:
        """Anonymous memory, resident and swapped."""
        return self.anonymous + self.swapped


class SmapsRollup(NamedTuple):
    """Sums over the mappings of a process (/proc/PID/smaps_rollup), in bytes."""

    resident: int  # Rss
    proportional: int  # Pss: a page that n processes map counts 1/n
    private: int  # Private_Clean and Private_Dirty
    anonymous: int
    swapped: int  # Swap


def exists(pid: int) -> bool:
    """Whether /proc shows a process with this pid, a zombie included."""
    return Path(f"/proc/{pid}").exists()


def read_stat(pid: int, thread: int | None = None) -> Stat | None:
    """Read the stat of a process, or of one of its threads."""
    text = _read(pid, "stat", thread)
    return parse_stat(text) if text else None


def parse_stat(text: str) -> Stat:
    """Parse a line of /proc/PID/stat; the name may hold spaces and parentheses."""
    opening, closing = text.index("("), text.rindex(")")
    fields = text[closing + 2 :].split()  # the first is field 3
    return Stat(
        name=text[opening + 1 : closing],
        state=fields[0],
        parent=int(fields[1]),
        processor_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
        threads=int(fields[17]),
        start_time=int(fields[19]),
        resident_bytes=int(fields[21]) * _PAGE_BYTES,
    )


def read_schedstat(pid: int, thread: int | None = None) -> SchedStat | None:
    """Read the scheduler times of the main thread of a process, or of another of its threads."""
    fields = _read(pid, "schedstat", thread).split()
    return SchedStat(int(fields[0]), int(fields[1])) if fields else None


def read_memory(pid: int) -> MemoryStatus | None:
    """Read the memory of a process; None too for one without memory (zombie, kernel thread)."""
    found = _sizes(_read(pid, "status"))
    if "RssAnon" not in found:
        return None
    return MemoryStatus(
        found["RssAnon"], found["RssShmem"], found["RssFile"], found.get("VmSwap", 0)
    )


def read_smaps_rollup(pid: int) -> SmapsRollup | None:
    """Read the sums over a process's mappings; takes milliseconds where there are many pages."""
    found = _sizes(_read(pid, "smaps_rollup"))
    if "Rss" not in found:
        return None
    private = found["Private_Clean"] + found["Private_Dirty"]
    return SmapsRollup(found["Rss"], found["Pss"], private, found["Anonymous"], found["Swap"])


def read_command_line(pid: int) -> tuple[bytes, ...]:
    """Read the arguments of a process, or the title it gave itself; empty for a zombie."""
    text = _read(pid, "cmdline").encode("latin-1")
    return tuple(text.removesuffix(b"\0").split(b"\0")) if text else ()


def read_wait_channel(pid: int) -> str:
    """Read the kernel function in which the main thread sleeps; empty where it runs."""
    text = _read(pid, "wchan")
    return "" if text == "0" else text


def thread_ids(pid: int) -> tuple[int, ...]:
    """Thread ids of a process, the main thread's (equal to the pid) among them."""
    return _numbers(f"/proc/{pid}/task")


def child_pids(pid: int) -> tuple[int, ...] | None:
    """Children that the main thread of a process started or inherited.

    Returns:
        Their pids; None where the kernel keeps no such list (no CONFIG_PROC_CHILDREN), or the
        process is gone.
    """
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except _GONE_OR_HIDDEN:
        return None
    return tuple(map(int, text.split()))


def open_descriptors() -> int:
    """Count the file descriptors that this process has open, without the one used to count.

    Raises:
        OSError: None is left to read the directory with (EMFILE, ENFILE).
    """
    return len(os.listdir("/proc/self/fd")) - 1  # noqa: PTH208 - the names are all that counts


def data_bytes() -> int:
    """Size of this process's data and stack: what RLIMIT_DATA limits, about, in bytes."""
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[5]) * _PAGE_BYTES


def boot_id() -> bytes:
    """Read the 16 random bytes that change with every boot."""
    text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return bytes.fromhex(text.strip().replace("-", ""))


def _read(pid: int, name: str, thread: int | None = None) -> str:
    """Text of a file of a process or thread; empty when it is gone or hidden."""
    where = f"/proc/{pid}" if thread is None else f"/proc/{pid}/task/{thread}"
    try:
        return Path(f"{where}/{name}").read_text(encoding="latin-1")
    except _GONE_OR_HIDDEN:
        return ""


def _numbers(directory: str) -> tuple[int, ...]:
    try:
        return tuple(int(name) for name in os.listdir(directory))  # noqa: PTH208 - names alone
    except _GONE_OR_HIDDEN:
        return ()


def _sizes(text: str) -> dict[str, int]:
    """Sizes by name, in bytes, of lines `Name:   123 kB`."""
    found = {}
    for line in text.splitlines():
        if line.endswith(" kB"):
            name, _, value = line.partition(":")
            found[name] = int(value.removesuffix(" kB")) * 1024
    return found
