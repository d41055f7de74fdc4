"""A worker from a package that the project does not know needs one edit outside: its profile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import psutil
import pytest

from mesh.control import ControlRequest, ask
from tests.daemons import ROOT, daemon, until

pytestmark = pytest.mark.crash

#: The whole package, file by file.
PACKAGE = {
    "__init__.py": '''
"""Counts probes."""
from config.declaration import PLAIN, Refusal, StatusSummary, WorkerDeclaration

WORKER = WorkerDeclaration(
    sections=("trading",),
    settings="probing.settings:ProbingConfig",
    fork_server=PLAIN,
    refuses=(
        Refusal("trading.cost_rate", lambda rate: rate == 0, "trading costs", "set it"),
    ),
    status=StatusSummary(
        "ProbingStatus",
        totals={"probes": "probes"},
        tables={"probes_by_kind": "kinds"},
        maxima={"probe_depth": "depth"},
        describe=lambda status: f"{status['probes']} probes of depth {status['depth']}",
    ),
)
''',
    "settings.py": '''
"""Its settings."""
from pydantic import BaseModel, Field

class ProbingConfig(BaseModel, extra="forbid"):
    depth: int = Field(default=1, ge=1, description="Depth of a probe.")
''',
    "worker.py": '''
"""Its worker."""
import signal
import msgspec
from probing.settings import ProbingConfig
from workers.contract.names import status_segment
from workers.runtime.worker import Worker

class ProbingStatus(msgspec.Struct):
    probes: int = 0
    depth: int = 0
    kinds: dict[str, int] = {}

class ProbingWorker(Worker):
    def setup(self):
        own = ProbingConfig.model_validate(self.context.spec.settings)
        self.status = ProbingStatus(depth=own.depth)
        self.cell = self.context.mesh.cell(
            status_segment(self.context.name), ProbingStatus, create=True, max_bytes=1024
        )

    def step(self):
        self.status.probes += 1
        self.status.kinds["deep"] = self.status.probes
        self.cell.write(self.status)
        signal.sigtimedwait([signal.SIGURG], 0.005)
        return 1
''',
}
ENTRY = """
[workers.probe]
worker = "probing.worker:ProbingWorker"
settings = { depth = 3 }
"""


@pytest.fixture
def package(tmp_path):
    """The directory in which the package lies."""
    (tmp_path / "probing").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "probing" / name).write_text(text.lstrip())
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
        pid = one.running("probe")
        names = [child.cmdline()[:1] for child in psutil.Process(one.process.pid).children()]
        assert ["tradingmesh: fork server plain"] in names
        os.kill(pid, signal.SIGKILL)
        again = one.running("probe", other_than=pid)
        report = until(
            "probes in the report",
            lambda: (found := status(one, package))["flow"]["probes"] and found,
        )
        (worker,) = report["workers"]
        assert (worker["name"], worker["kind"], worker["pid"]) == ("probe", "probing", again)
        assert (worker["state"], worker["restarts"]) == ("running", 1)
        assert worker["doing"].endswith("probes of depth 3")
        assert report["flow"]["probe_depth"] == 3
        assert report["flow"]["probes_by_kind"] == {"deep": report["flow"]["probes"]}
        assert [each["worker"] for each in report["incidents"]] == ["probe"]
        _, text, _ = run(package, "workers.ctl.cli", "--mesh", str(one.mesh_path), "status")
        assert "probes of depth 3" in text
        assert one.stop() == 0


def test_a_reload_restarts_it_for_the_sections_that_it_declares(package):
    """A section of others changes nothing for it; its own does."""
    with daemon(package, ENTRY, path=package) as one:
        pid = one.running("probe")
        profile = one.profile.read_text()
        one.profile.write_text(profile + "[ingest]\nbatch = 17\n")
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        assert one.running("probe") == pid
        assert one.worker("probe")["restarts"] == 0
        one.profile.write_text(profile + "[trading]\ncost_rate = 0.01\n")
        assert ask(one.mesh_path, ControlRequest("reload")).ok
        assert one.running("probe", other_than=pid) != pid
        assert one.stop() == 0


@pytest.mark.parametrize(
    ("more", "key", "remedy"),
    [
        ("workers.probe.settings.depht=2", "workers.probe.settings.depht", "'depth'?"),
        ("workers.probe.settings.depth=0", "workers.probe.settings.depth", "give 1 or more"),
        ("workers.probe.nursery=plian", "workers.probe.nursery", "'', 'learner', 'plain'"),
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
