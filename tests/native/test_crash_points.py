"""The core's write paths, stopped and killed at every single instruction."""

from __future__ import annotations

import platform
import re
import sys

import pytest

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the driver sets x86-64 registers"),
]
DRIVER = "tests/native/crash_driver.c"


def points(text):
    """(good, all) of every scenario that the driver printed."""
    return {
        m[1]: (int(m[2]), int(m[3]))
        for m in re.finditer(r"^(.*): (\d+) of (\d+)$", text, re.MULTILINE)
    }


def report(capsys, title, found):
    """Print N of N past pytest's capture: it is what the reader of a test run wants to see."""
    lines = [f"  {name}: {good} of {every}" for name, (good, every) in found.items()]
    good, every = (sum(column) for column in zip(*found.values(), strict=True))
    with capsys.disabled():
        sys.stdout.write("\n".join(["", title, *lines, f"  all: {good} of {every}", ""]))


def test_i2_writer_killed_at_every_instruction_costs_nothing(compiled, run, capsys):
    """SIGKILL at each instruction of each write: the last published or the new value is whole at
    the first attempt, the next writer goes on, a lock can be broken."""
    ended = run(compiled(DRIVER), "kill")
    found = points(ended.stdout)
    report(capsys, "SIGKILL at every instruction", found)
    assert ended.returncode == 0, ended.stdout
    assert len(found) == 19


def test_i3_writer_fenced_at_every_instruction_publishes_nothing(compiled, run, capsys):
    """Stopped at each instruction, its lease taken, let go again: readers see no change; and one
    that reads a heartbeat while its row gets another name is told of one of both."""
    ended = run(compiled(DRIVER), "fence")
    found = points(ended.stdout)
    report(capsys, "lease taken at every instruction", found)
    assert ended.returncode == 0, ended.stdout
    assert len(found) == 12
