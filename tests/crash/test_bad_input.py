"""What an operator gets wrong: one line with the remedy, a code that says so, nothing left."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.daemons import ROOT, daemon, until

pytestmark = pytest.mark.crash


def meshd(*arguments):
    """Run the daemon to its end."""
    return subprocess.run(
        [sys.executable, "-m", "supervisor", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_mesh_that_is_no_directory(tmp_path):
    """A file where the mesh should be: exit 73 with one line, and the file untouched."""
    (tmp_path / "mesh").write_text("mine")
    ended = meshd("--set", f"mesh.path={tmp_path}/mesh", "--set", f"run_directory={tmp_path}/run")
    assert ended.returncode == 73
    assert ended.stderr.count("\n") == 1
    assert str(tmp_path / "mesh") in ended.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mesh"]


def test_configuration_problems_are_listed_together(tmp_path):
    """Several wrong values: every one is named with its remedy, exit 78, nothing started."""
    ended = meshd("--set", "mesh.mode=9999", "--set", "supervisor.events=1", "--set", "no.such=1")
    assert ended.returncode == 78
    assert "3 problems" in ended.stderr
    for key in ("mesh.mode", "supervisor.events", "no.such"):
        assert key in ended.stderr
    assert not list(tmp_path.iterdir())


def test_dependencies_in_a_circle_are_refused(tmp_path):
    """Two workers that wait for each other are a configuration problem."""
    profile = tmp_path / "circle.toml"
    profile.write_text(
        '[workers.a]\nworker = "tests.sample_workers:Counting"\ndepends_on = ["b"]\n'
        '[workers.b]\nworker = "tests.sample_workers:Counting"\ndepends_on = ["a"]\n'
    )
    ended = meshd("--profile", str(profile), "--check")
    assert ended.returncode == 78
    assert "in a circle: a, b" in ended.stderr


def test_unknown_worker_class_is_readable_in_the_status(tmp_path):
    """A class that is not there: the worker is quarantined and its reason names the module."""
    workers = """
[workers.ghost]
worker = "tests.no_such_module:Ghost"
restart = { base_delay_s = 0.01, intensity = 2 }
"""
    with daemon(tmp_path, workers) as one:
        until("quarantine", lambda: one.worker("ghost")["state"] == "quarantined")
        assert "No module named 'tests.no_such_module'" in one.worker("ghost")["reason"]
        assert one.status()["state"] == "starting"
        assert one.stop() == 0


def test_check_says_what_would_be_started(tmp_path):
    """--check starts nothing and lists the workers with their dependencies."""
    profile = tmp_path / "fine.toml"
    profile.write_text(
        '[workers.a]\nworker = "tests.sample_workers:Counting"\n'
        '[workers.b]\nworker = "tests.sample_workers:Counting"\ndepends_on = ["a"]\n'
    )
    ended = meshd("--profile", str(profile), "--check")
    assert ended.returncode == 0
    assert "b: tests.sample_workers:Counting after a" in ended.stdout
