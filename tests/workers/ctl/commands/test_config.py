"""`meshctl config check`: what the daemon says, with its exit code."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.daemons import ROOT


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--profile", "demo"], 0, "ingest: workers.ingest.worker:IngestWorker after broker"),
        (["--set", "feeder.lanes=many"], 78, "feeder.lanes"),
    ],
)
def test_a_configuration_is_checked(words, code, expected):
    """Fine: what would be started; else every problem and 78."""
    ended = subprocess.run(
        [sys.executable, "-m", "workers.ctl.cli", "config", "check", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == code
    assert expected in ended.stdout + ended.stderr
