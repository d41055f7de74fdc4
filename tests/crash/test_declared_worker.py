"""The package of docs/own-worker.md, unknown to the project: its profile is all that it needs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from mesh.control import ControlRequest, ask
from tests.daemons import ROOT, daemon, until

pytestmark = pytest.mark.crash

PAGE = (ROOT / "docs" / "own-worker.md").read_text()
#: The whole package by the name of the file, and its entry in a profile.
FILES = dict(re.findall(r"## `costs/(\w+\.py)`.*?```python\n(.*?)```", PAGE, re.DOTALL))
ENTRY = re.search(r"```toml\n(.*?)```", PAGE, re.DOTALL)[1]


@pytest.fixture
def package(tmp_path):
    """The directory in which the package lies."""
    (tmp_path / "costs").mkdir()
    for name, text in FILES.items():
        (tmp_path / "costs" / name).write_text(text)
    return tmp_path


def run(package, *words):
    """Run a module of the project with the package on its path: (exit code, stdout, stderr)."""
    ended = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return ended.returncode, ended.stdout, ended.stderr


def status(one, package):
    """What `meshctl status --format json` prints."""
    _, out, _ = run(
        package, "workers.ctl.cli", "--mesh", str(one.mesh_path), "status", "--format", "json"
    )
    return json.loads(out)


def test_an_unknown_package_declares_its_worker(package):
    """It comes from its fork server, is replaced after a kill -9, and `meshctl` sums it up."""
    with daemon(package, ENTRY, path=package) as one:
        pid = one.running("costs")
        names = [child.cmdline()[:1] for child in psutil.Process(one.process.pid).children()]
        assert ["tradingmesh: fork server plain"] in names
        os.kill(pid, signal.SIGKILL)
        again = one.running("costs", other_than=pid)
        report = until(
            "estimates in the report",
            lambda: (found := status(one, package))["flow"]["estimates"] and found,
        )
        (worker,) = report["workers"]
        assert (worker["name"], worker["kind"], worker["pid"]) == ("costs", "costs", again)
        assert (worker["state"], worker["restarts"]) == ("running", 1)
        assert worker["doing"].endswith("estimates, highest 6")
        assert report["flow"]["highest_cost"] == pytest.approx(6.0)
        assert report["flow"]["estimates_by_kind"] == {"commission": report["flow"]["estimates"]}
        assert [each["worker"] for each in report["incidents"]] == ["costs"]
        _, text, _ = run(package, "workers.ctl.cli", "--mesh", str(one.mesh_path), "status")
        assert "estimates, highest 6" in text
        assert one.stop() == 0


def test_a_reload_restarts_it_for_the_sections_that_it_declares(package):
    """A section of others changes nothing for it; its own does."""
    with daemon(package, ENTRY, path=package) as one:
        pid = one.running("costs")
        profile = one.profile.read_text()
        one.profile.write_text(profile + "[ingest]\nbatch = 17\n")
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        assert one.running("costs") == pid
        assert one.worker("costs")["restarts"] == 0
        one.profile.write_text(profile + "[trading]\ncost_rate = 0.01\n")
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        assert one.running("costs", other_than=pid) != pid
        assert one.stop() == 0


@pytest.mark.parametrize(
    ("more", "key", "remedy"),
    [
        ("workers.costs.settings.valeu=2", "workers.costs.settings.valeu", "'value'?"),
        ("workers.costs.settings.value=0", "workers.costs.settings.value", "give more than 0"),
        ("workers.costs.nursery=plian", "workers.costs.nursery", "'', 'learner', 'plain'"),
        ("trading.cost_rate=0", "trading.cost_rate", "refused in production"),
    ],
)
def test_its_configuration_is_checked_like_any_other(package, more, key, remedy):
    """Its settings, its fork server and what it refuses are in the one report of all problems."""
    profile = package / "host.toml"
    profile.write_text(ENTRY)
    words = ["--check", "--profile", str(profile), "--set", "environment=production", "--set", more]
    code, _, report = run(package, "supervisor", *words)
    lines = [each for each in report.splitlines() if each.strip().startswith(f"{key} =")]
    assert len(lines) == 1, report
    assert code == 78
    assert remedy in lines[0]
