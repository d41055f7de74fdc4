"""`meshctl demo`: which loops count as complete."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest

from workers.ctl.commands.demo import TEMPORARY, missing, run_directory
from workers.ctl.report import read_report

FEEDER = {"acting_trainer": "td3-0", "acting_version": 2}


@pytest.fixture
def circle(loop):
    """A report of a full circle, and the flow of an earlier moment."""
    report = read_report(loop.mesh)
    before = {**report["flow"], "experience": report["flow"]["experience"] - 1}
    return report, before


def test_a_full_circle_misses_nothing(circle):
    """Counts add up, experience grew, each trainer published, the feeder acts with it."""
    assert list(missing(*circle, FEEDER)) == []


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"consumed": 0, "published": 0, "dead_lettered": 0, "dropped": 0}, "no message"),
        ({"consumed": 12}, "12 messages in, but 11 accounted for"),
        ({"produced": 12}, "12 messages were sent, but 11 were consumed"),
        ({"experience": 7}, "no new experience"),
        ({"policies": {}}, "no trainer with a status"),
    ],
)
def test_each_gap_is_named(circle, change, expected):
    """Each missing part of the loop gets its own line."""
    report, before = circle
    report["flow"].update(change)
    assert any(expected in line for line in missing(report, before, FEEDER))


def test_a_trainer_without_weights_is_named(circle):
    """Every trainer must have published."""
    report, before = circle
    report["flow"]["policies"]["td3-1"] = {**report["flow"]["policies"]["td3-0"], "version": 0}
    assert list(missing(report, before, FEEDER)) == ["td3-1 published no policy"]


@pytest.mark.parametrize(
    "acting",
    [
        {},
        {"acting_trainer": "td3-0", "acting_version": 3},
        {"acting_trainer": "", "acting_version": 0},
    ],
)
def test_acting_at_random_is_not_enough(circle, acting):
    """The feeder must act with a version that was published."""
    assert any("does not act" in line for line in missing(*copy.deepcopy(circle), acting))


def test_the_temporary_directory_is_taken_away_and_leftovers_too(tmp_path, monkeypatch):
    """A run directory of one's own stays; a temporary one goes, and those of killed demos."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile  # noqa: PLC0415 - its directory is decided at its first use

    before, tempfile.tempdir = tempfile.tempdir, None
    try:
        dead = tmp_path / f"{TEMPORARY}{2**22 + 7}-x"
        alive = tmp_path / f"{TEMPORARY}{os.getpid()}-x"
        dead.mkdir()
        alive.mkdir()
        with run_directory(None) as directory:
            assert directory.is_dir()
            assert not dead.exists()
        assert not directory.exists()
        assert alive.exists()
        with run_directory(tmp_path / "mine") as directory:
            directory.mkdir()
        assert directory == Path(tmp_path / "mine")
        assert directory.exists()
    finally:
        tempfile.tempdir = before
