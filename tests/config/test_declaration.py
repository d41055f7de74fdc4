"""What the workers' packages declare, and how the configuration reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from config import ConfigProblems, Settings, load_settings
from config.declaration import (
    declaration_of,
    declaring_package,
    fork_server_groups,
    kind_of,
    shipped,
)
from config.production import value_at
from workers.contract import statuses

ROOT = Path(__file__).parents[2]
HEADER = "from config.declaration import *\nfrom config.declaration import WorkerDeclaration\n"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write a package with this `__init__.py` where Python finds it; returns its name."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        directory = tmp_path.joinpath(*name.split("."))
        directory.mkdir(parents=True)
        (directory / "__init__.py").write_text(text)
        return name

    yield write
    for name in [name for name in sys.modules if name.startswith("declaring_")]:
        del sys.modules[name]


def settings(**spec):
    """Settings with one worker."""
    return Settings.model_validate({"workers": [{"name": "one", **spec}]})


def problems(tmp_path, profile):
    """The report on a profile with this text."""
    file = tmp_path / "host.toml"
    file.write_text(profile)
    with pytest.raises(ConfigProblems) as refused:
        load_settings(file, environ={}, directory=tmp_path)
    return {problem.key: str(problem) for problem in refused.value.problems}


def test_every_shipped_worker_declares_itself():
    """A package with a worker has a declaration, and nothing else has one."""
    assert set(shipped()) == {
        path.parent.name for path in (ROOT / "workers").glob("*/worker.py")
    } - {
        "runtime"  # the base class of all workers
    }


@pytest.mark.parametrize("worker", sorted(shipped()))
def test_what_is_declared_exists(worker):
    """Sections, keys that production refuses, status type and fields are real ones."""
    declared = shipped()[worker]
    assert set(declared.sections) <= set(Settings.model_fields)
    for refusal in declared.refuses:
        value_at(Settings(), refusal.key)
    if (status := declared.status) is not None:
        fields = {each.name for each in msgspec.structs.fields(getattr(statuses, status.struct))}
        named = {*status.totals.values(), *status.tables.values(), *status.maxima.values()}
        assert named <= fields


def test_declarations_load_nothing_but_the_standard_library():
    """`meshctl status` and the daemon read all of them: neither may pay for a library."""
    program = (
        "import sys; before = set(sys.modules)\n"
        "from config.declaration import fork_server_groups; fork_server_groups()\n"
        "ours = {'config', 'workers'}; new = set(sys.modules) - before\n"
        "print(*{name.partition('.')[0] for name in new} - set(sys.stdlib_module_names) - ours)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert ended.stdout.split() == []


def test_a_package_without_a_declaration_is_not_imported(package):
    """Its defaults hold, whatever its `__init__.py` would do; so do they for no package."""
    package("declaring_nothing", "raise RuntimeError('imported')\n")
    for where in ("declaring_nothing.worker:Mine", "declaring_elsewhere.worker:Mine", "mine:Mine"):
        declared = declaration_of(where)
        assert (declared.sections, declared.fork_server, declared.status) == (None, None, None)
        assert kind_of(where) == "Mine"
    assert settings(worker="declaring_nothing.worker:Mine").workers[0].nursery == ""


def test_the_innermost_package_counts(package):
    """A class deep in a package belongs to the nearest package that declares."""
    package("declaring_outer", HEADER + "WORKER = WorkerDeclaration(sections=())\n")
    package("declaring_outer.inner", HEADER + "WORKER = WorkerDeclaration(sections=('mesh',))\n")
    package("declaring_outer.other", "")
    assert declaring_package("declaring_outer.inner.worker:Mine") == "declaring_outer.inner"
    assert declaration_of("declaring_outer.inner.worker:Mine").sections == ("mesh",)
    assert declaration_of("declaring_outer.other.worker:Mine").sections == ()
    assert kind_of("declaring_outer.inner.deep.down:Mine") == "inner"


def test_groups_of_one_name_import_what_both_need(package):
    """A user's package may put more into the fork server that a shipped worker declares."""
    package(
        "declaring_more",
        HEADER + "from config.declaration import ForkServerGroup\n"
        "WORKER = WorkerDeclaration(fork_server=ForkServerGroup('learner', ('zlib',)))\n",
    )
    known = fork_server_groups()["learner"]
    groups = fork_server_groups(["declaring_more.worker:Mine"])
    assert groups["learner"].imports == (*known.imports, "zlib")
    assert groups["learner"].warm_up == known.warm_up
    assert set(groups) == set(fork_server_groups())


def test_the_profile_overrides_the_declared_fork_server():
    """Not given: the declared one; given, also as empty: what the profile says."""
    ingest = "workers.ingest.worker:IngestWorker"
    assert settings(worker=ingest).workers[0].nursery == "plain"
    assert settings(worker=ingest, nursery="").workers[0].nursery == ""
    assert settings(worker="mine:Mine", nursery="learner").workers[0].nursery == "learner"
    many = settings(worker=ingest, instances=2, nursery="").workers
    assert [spec.nursery for spec in many] == ["", ""]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("WORKER = 1\n", "must be a WorkerDeclaration"),
        ("WORKER = undefined\n", "NameError"),
        (HEADER + "WORKER = WorkerDeclaration(sections=('nowhere',))\n", "'nowhere'"),
    ],
)
def test_a_wrong_declaration_is_a_problem_of_the_configuration(package, tmp_path, text, reason):
    """It is reported with the others, and nothing starts."""
    package("declaring_wrong", text)
    for group in ("", 'nursery = "plain"\n'):
        found = problems(tmp_path, f'[workers.x]\nworker = "declaring_wrong.worker:Mine"\n{group}')
        assert reason in next(iter(found.values()))


def test_settings_model_that_is_not_there_is_a_problem(package, tmp_path):
    """A declaration names the model of its settings by a path that must lead somewhere."""
    package(
        "declaring_model", HEADER + "WORKER = WorkerDeclaration(settings='declaring_model.x:Y')\n"
    )
    found = problems(tmp_path, '[workers.x]\nworker = "declaring_model.worker:Mine"\n')
    assert "declaring_model.x:Y cannot be imported" in found["workers.x.settings"]
