"""`meshctl events`."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.daemons import ROOT


def test_the_newest_events(meshctl):
    """In order, with their worker; -n limits, WORKER chooses."""
    code, out, _ = meshctl("events")
    assert code == 0
    assert [line.split()[1:3] for line in out.splitlines()] == [
        ["meshd", "started"],
        ["td3-0", "died"],
    ]
    assert meshctl("events", "-n", "1")[1].count("\n") == 1
    assert "started" not in meshctl("events", "td3-0")[1]
    assert json.loads(meshctl("events", "td3-0", "--format", "json")[1])["severity"] == "warning"


def test_incidents_in_full(meshctl):
    """Evidence, times and what was freed of each failure."""
    out = meshctl("events", "--incidents")[1]
    assert "SIGKILL" in out
    assert "running after" in out
    assert "no incidents" in meshctl("events", "ingest", "--incidents")[1]


def test_following(loop):
    """--follow prints what happens from then on."""
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "workers.ctl.cli",
            "--mesh",
            str(loop.mesh.path),
            "events",
            "-f",
            "-n",
            "1",
        ],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as child:
        assert child.stdout is not None
        assert "died" in child.stdout.readline()
        loop.event("ready", "info", "td3-0", "again")
        assert child.stdout.readline().split()[1:] == ["td3-0", "ready", "again"]
        child.terminate()
