"""Crash reports: whole, bounded in number, with what is asked of them."""

from __future__ import annotations

import json
import os

import pytest

from mesh import Mesh, ProcessIdentity
from tests.processes import child
from workers.contract.dtypes import EVENT_DTYPE
from workers.runtime.crash_report import (
    held_by,
    keep_newest,
    last_lines,
    own_report,
    stack_file,
    take_stacks,
    write_report,
)


def test_report_is_found_again_by_worker_and_pid(tmp_path):
    """Written whole; the error line is found by the process; a broken file is passed over."""
    path = write_report(tmp_path, "w", 7, {"error": "ValueError: x"})
    assert json.loads(path.read_text())["pid"] == 7
    assert own_report(tmp_path, "w", 7) == (str(path), "ValueError: x")
    assert own_report(tmp_path, "w", 8) == ("", "")
    (tmp_path / "w-99999999T000000-7.json").write_text("{half")
    assert own_report(tmp_path, "w", 7) == (str(path), "ValueError: x")


def test_the_newest_reports_are_kept(tmp_path):
    """No more than asked for, the oldest go."""
    for number in range(10):
        path = write_report(tmp_path, "w", number, {})
        os.utime(path, (number, number))
    keep_newest(tmp_path, 3)
    assert sorted(int(p.stem.split("-")[-1]) for p in tmp_path.iterdir()) == [7, 8, 9]


def test_stacks_are_taken_once(tmp_path):
    """What a worker dumped is read and removed; nothing dumped is an empty text."""
    stack_file(tmp_path, "w", 1).write_text("Thread ...")
    assert take_stacks(tmp_path, "w", 1) == "Thread ..."
    assert take_stacks(tmp_path, "w", 1) == ""


@pytest.mark.parametrize("lines", [0, 3, 5000])
def test_last_lines_of_a_log(tmp_path, lines):
    """The end of a log, bounded; a missing log has none."""
    log = tmp_path / "w.log"
    assert last_lines(log) == []
    log.write_text("".join(f"line {n}\n" for n in range(lines)))
    found = last_lines(log)
    assert len(found) <= 40
    assert found[-1:] == ([f"line {lines - 1}"] if lines else [])


def test_locks_and_leases_of_a_process(mesh_directory):
    """Held by another process: found by its identity; not those of this one."""
    mesh = Mesh(mesh_directory)
    mesh.ring("mine", EVENT_DTYPE, capacity=16, create=True)

    def body(tell):
        Mesh(mesh_directory).ring("theirs", EVENT_DTYPE, capacity=16, create=True)
        Mesh(mesh_directory).lock("held", create=True).acquire(1.0)
        tell()
        os.read(os.pipe()[0], 1)

    with child(body) as other:
        other.started()
        assert held_by(mesh, ProcessIdentity.of(other.pid)) == (["held"], ["theirs"])
