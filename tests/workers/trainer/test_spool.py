"""The spool: bounded, never an exception, whole lines after a kill."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from workers.trainer.spool import Spool, spool_files


def lines(directory, trainer="td3-0"):
    """Every whole line of a trainer's spool."""
    found = []
    for path in spool_files(directory, trainer):
        found += [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return found


def test_spool_is_bounded_and_counts_what_it_drops(tmp_path):
    """Full: points are counted; once the shipper removed files there is room again."""
    spool = Spool(tmp_path, "td3-0", "run", 8192)
    for step in range(200):
        spool.point(step, {"loss": 1.0})
    kept = len(lines(tmp_path))
    assert 0 < kept < 200
    assert spool.dropped == 200 - kept
    assert "8192" in spool.error
    assert sum(path.stat().st_size for path in spool_files(tmp_path, "td3-0")) <= 8192
    spool_files(tmp_path, "td3-0")[0].unlink()
    spool.point(200, {"loss": 1.0})
    assert lines(tmp_path)[-1]["step"] == 200
    spool.close()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB of its own; its size can be changed."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    where = tmp_path / "disk"
    where.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(where)]
    made = subprocess.run(command, capture_output=True, check=False, text=True)
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    yield where
    subprocess.run(["umount", str(where)], check=True)


def test_full_disk_costs_points_and_no_exception(small_disk):
    """Full in the midst of a line, in the midst of a file, and before the first one: counted with
    the reason; with room again points are kept, each in a line of its own."""
    spool = Spool(small_disk, "td3-0", "run", 4 * 20_000)  # several files
    for step in range(2000):
        spool.point(step, {"loss": 1.0})
    assert spool.dropped > 500
    assert "No space left" in spool.error
    late = Spool(small_disk / "deeper", "td3-1", "run", 1 << 20)
    late.point(1, {"loss": 1.0})
    assert late.dropped == 1
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    dropped = spool.dropped
    spool.point(5000, {"loss": 1.0})
    late.point(2, {"loss": 1.0})
    assert spool.dropped == dropped
    found = []
    for path in spool_files(small_disk, "td3-0"):
        for line in path.read_text().splitlines():
            with suppress(ValueError):  # the one that the disk took a part of
                found.append(json.loads(line)["step"])
    assert found == [*range(2000 - dropped), 5000]
    assert [entry["step"] for entry in lines(small_disk / "deeper", "td3-1")] == [2]
    spool.close()
    late.close()


@pytest.mark.parametrize("where", ["/dev/null/spool", "/proc/spool"])
def test_spool_that_cannot_be_made_costs_points_alone(where):
    """No directory, no file: nothing is raised at the start, at a point, or at the end."""
    spool = Spool(Path(where), "td3-0", "run", 1 << 20)
    spool.begin("")
    spool.point(1, {"loss": 1.0})
    spool.end("KILLED")
    spool.close()
    assert spool.dropped == 3
    assert where.rpartition("/")[2] in spool.error


def test_spools_of_trainers_with_like_names_stay_apart(tmp_path):
    """`td3` and `td3-1` write files of their own."""
    for name in ("td3", "td3-1"):
        spool = Spool(tmp_path, name, name, 1 << 20)
        spool.begin("")
        spool.close()
    assert [entry["run"] for entry in lines(tmp_path, "td3")] == ["td3"]
    assert [entry["run"] for entry in lines(tmp_path, "td3-1")] == ["td3-1"]


def test_line_cut_by_a_kill_is_closed_first(tmp_path):
    """The next process begins on a new line, in the same file."""
    spool = Spool(tmp_path, "td3-0", "run", 1 << 20)
    spool.point(1, {"loss": 1.0})
    with spool.path.open("ab") as file:
        file.write(b'{"half": ')
    spool.close()
    again = Spool(tmp_path, "td3-0", "run", 1 << 20)
    again.point(2, {"loss": 1.0})
    again.close()
    text = again.path.read_text().splitlines()
    assert [json.loads(text[0])["step"], json.loads(text[2])["step"]] == [1, 2]
