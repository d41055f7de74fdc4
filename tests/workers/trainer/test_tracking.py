"""The spool: bounded, never an exception, whole lines after a kill."""

from __future__ import annotations

import json

from workers.trainer.tracking import Spool, spool_files


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


def test_full_disk_costs_points_and_no_exception():
    """A device that takes no byte: counted with its reason, and training goes on."""
    spool = Spool.__new__(Spool)
    spool.run, spool.dropped, spool.error = "run", 0, ""
    spool._trainer, spool._limit, spool._others, spool._cut = "td3-0", 1 << 20, 0, False
    with open("/dev/full", "ab", buffering=0) as spool._file:  # noqa: PTH123 - a device
        spool.point(1, {"loss": 1.0})
        spool.end("FAILED")
    assert spool.dropped == 2
    assert "No space left" in spool.error


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
