"""Ways to do one job from one process to another, taking turns in the same two processes.

Two processes on two processors of their own, busy all the time, so that all ways have the same way
from one processor to the other: where it runs is the host's choice, and it may change any moment.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
BEGUN, DONE, CURSOR = 0, 16, 32  # words of the shared page, on lines of their own
WATCHDOG_S = 60.0


def limits(directory: str) -> Any:
    """Compile the C functions and load them; None where there is no compiler."""
    library = Path(directory) / "limits.so"
    flags = ["-O3", "-std=gnu11", *(["-mcx16"] if os.uname().machine == "x86_64" else [])]
    source = ROOT / "bench/mesh_limits.c"
    command = ["cc", *flags, "-shared", "-fPIC", f"-I{ROOT}/mesh/_core", source, "-o", library]
    try:
        subprocess.run(command, check=True)
    except FileNotFoundError:
        print("limits in C: skipped, apt-get install gcc", file=sys.stderr)
        return None
    return ctypes.CDLL(str(library))


def address(segment: Any) -> ctypes.c_void_p:
    """Where a segment is mapped, for C."""
    return pointer(np.frombuffer(memoryview(segment._file.mapping), np.uint8))  # noqa: SLF001 - for C


def pointer(array: np.ndarray[Any, Any]) -> ctypes.c_void_p:
    """Where an array lies, for C."""
    return ctypes.c_void_p(array.ctypes.data)


def pin(processor: int) -> None:
    """Stay on one processor, where there are two."""
    if (os.cpu_count() or 1) > processor:
        os.sched_setaffinity(0, {processor})


class Turn:
    """What the two sides of a turn share: its number, its end, a cursor and the delays."""

    def __init__(self, page: mmap.mmap, delays: np.ndarray[Any, Any]) -> None:
        """Begin with turn 0."""
        self.words = memoryview(page).cast("Q")
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(page))
        self.delays = delays
        self.number = 0

    def over(self) -> bool:
        """Tell the writer whether the reader has all it wanted."""
        return self.words[DONE] > self.number

    def word(self, at: int) -> ctypes.c_void_p:
        """Where a shared word lies, for C."""
        return ctypes.c_void_p(self.base + 8 * at)


class Way:
    """One way to do the job. The sides are opened in the process that uses them."""

    name = "C"

    def open_writer(self) -> None:
        """Open in the writing process, first."""

    def open_reader(self) -> None:
        """Open in the reading process."""

    def begin(self, turn: Turn) -> None:
        """Prepare a turn in the writing process, before the reading one knows of it."""

    def write(self, turn: Turn) -> None:
        """Do the writer's part of a turn."""
        raise NotImplementedError

    def read(self, turn: Turn) -> None:
        """Do the reader's part of a turn."""
        raise NotImplementedError

    def close(self) -> None:
        """Take away what it made."""


@dataclass
class Taken:
    """The turns of one way: seconds of each, and its sorted delays in microseconds."""

    name: str
    seconds: list[float]
    delays: list[np.ndarray[Any, Any]]


def take_turns(ways: Sequence[Way], rounds: int, samples: int = 0) -> list[Taken]:
    """Let all ways do their job `rounds` times, one after the other; `samples` delays a turn."""
    turn = Turn(mmap.mmap(-1, mmap.PAGESIZE), shared_delays(samples))
    taken = [Taken(way.name, [], []) for way in ways]
    for way in ways:
        way.open_writer()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            read_turns(ways, rounds, turn)
            code = 0
        except BaseException:  # noqa: BLE001 - printed, and the exit code says it
            traceback.print_exc()
        finally:
            os._exit(code)
    pin(0)
    gc.disable()
    wait_for(turn, DONE, 1)  # the reader is open
    for turn.number in range(1, rounds * len(ways) + 1):
        at = (turn.number - 1) % len(ways)
        ways[at].begin(turn)
        start = time.perf_counter()
        turn.words[BEGUN] = turn.number
        ways[at].write(turn)
        wait_for(turn, DONE, turn.number + 1)
        taken[at].seconds.append(time.perf_counter() - start)
        taken[at].delays.append(np.sort(turn.delays) / 1e3)
    gc.enable()
    _, status = os.waitpid(child, 0)
    for way in ways:
        way.close()
    if status != 0:
        raise RuntimeError(f"the reading process ended with {status}")
    return taken


def shared_delays(samples: int) -> np.ndarray[Any, Any]:
    """Room for the delays of a turn, nanoseconds, shared with the child."""
    return np.frombuffer(mmap.mmap(-1, 8 * max(samples, 1)), np.int64)[:samples]


def read_turns(ways: Sequence[Way], rounds: int, turn: Turn) -> None:
    """Read as the writing process begins turns."""
    gc.disable()
    pin(1)
    for way in ways:
        way.open_reader()
    turn.words[DONE] = 1
    for turn.number in range(1, rounds * len(ways) + 1):
        wait_for(turn, BEGUN, turn.number)
        ways[(turn.number - 1) % len(ways)].read(turn)
        turn.words[DONE] = turn.number + 1


def wait_for(turn: Turn, at: int, number: int) -> None:
    """Spin until a shared word is `number`: who sleeps gives its processor away."""
    words, until = turn.words, time.perf_counter() + WATCHDOG_S
    while words[at] < number:
        if time.perf_counter() > until:
            raise TimeoutError(f"turn {number}: the other process does not come")
