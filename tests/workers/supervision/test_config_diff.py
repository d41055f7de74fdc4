"""What a changed configuration changes: compared as settings, checked against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from config import Settings
from config.declaration import shipped
from workers.supervision.config_diff import Changes, changes, fixed_fault

ROOT = Path(__file__).parents[3]
#: Read by everybody, and fixed while the daemon runs.
FIXED = {"mesh", "run_directory", "environment", "logging", "supervisor", "workers", "debug"}


def settings(**more):
    """Settings with three workers."""
    workers = [
        {"name": "feeder", "worker": "workers.feeder.worker:FeederWorker"},
        {"name": "ingest", "worker": "workers.ingest.worker:IngestWorker"},
        {"name": "own", "worker": "somewhere.else:Worker"},
    ]
    return Settings.model_validate({"workers": workers, **more})


def test_nothing_changed_is_no_change():
    """Two equal configurations: nobody is touched."""
    assert changes(settings(), settings()) == Changes((), (), ())


def test_a_section_restarts_those_who_read_it():
    """The feeder's section restarts the feeder, and a worker of unknown needs; ingest stays."""
    assert changes(settings(), settings(feeder={"lanes": 3})).changed == ("feeder", "own")
    assert changes(settings(), settings(supervisor={"events": 99})).changed == ()


def test_workers_come_and_go():
    """Added, removed, disabled and changed workers are told apart."""
    before = settings()
    after = Settings.model_validate(
        {
            "workers": [
                {"name": "feeder", "worker": "workers.feeder.worker:FeederWorker", "nice": 3},
                {"name": "own", "worker": "somewhere.else:Worker", "enabled": False},
                {"name": "new", "worker": "somewhere.else:Worker"},
            ]
        }
    )
    assert changes(before, after) == Changes(("new",), ("ingest", "own"), ("feeder",))


@pytest.mark.parametrize(
    "more", [{"mesh": {"path": "/dev/shm/x"}}, {"run_directory": "x"}, {"environment": "demo"}]
)
def test_what_cannot_change_is_named(more):
    """Another mesh, run directory or environment: refused with both values."""
    assert "stop the daemon" in fixed_fault(settings(), settings(**more))


@pytest.mark.parametrize("worker", sorted(shipped()))
def test_sections_are_those_that_the_code_reads(worker):
    """Every section that a worker's package reads is in its declaration."""
    text = "".join(path.read_text() for path in (ROOT / "workers" / worker).rglob("*.py"))
    known = set(Settings.model_fields) - FIXED
    read = set(re.findall(r"\bsettings\.([a-z_]+)\b", text)) & known
    assert read <= set(shipped()[worker].sections), f"declare them in workers/{worker}/__init__.py"
