"""The parser, the exit codes, which mesh is meant, and what a command loads."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from mesh import Mesh
from tests.processes import child
from workers.ctl import cli
from workers.ctl.failure import CommandFailed

HEAVY = ("torch", "pydantic", "mlflow", "confluent_kafka", "scipy", "pyarrow", "structlog")


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name)
def test_every_command_of_the_table_is_there(command):
    """The function that the table names can be called, and --help answers."""
    module, _, function = command.where.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    with pytest.raises(SystemExit) as ended:
        cli.main([command.name, "--help"])
    assert ended.value.code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["bogus"],
        ["status", "--format", "xml"],
        ["show"],
        ["tail", "ticks", "-n", "many"],
        ["show", "no-such-segment"],
        ["tail", "quotes"],
        ["status", "no-such-worker"],
        ["top"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line_and_64(meshctl, words):
    """Wrong usage ends with EX_USAGE and one line that says what there is."""
    code, out, err = meshctl(*words)
    assert (code, out) == (64, "")
    assert err.count("\n") == 1
    assert err.startswith("meshctl")


def test_without_a_command_the_commands_are_listed(capsys):
    """`meshctl` alone shows what there is; what is not for people is not shown."""
    assert cli.main([]) == 64
    listed = capsys.readouterr().out
    assert all(f"  {command.name}" in listed for command in cli.COMMANDS if command.help)
    assert "words" not in listed


def test_a_mesh_that_is_named_wins(monkeypatch, tmp_path):
    """--mesh, then the daemon's own variable, then what the command means by itself."""
    monkeypatch.setenv(cli.MESH_VARIABLE, "/named/by/variable")
    assert cli.find_mesh(tmp_path) == tmp_path
    assert cli.find_mesh(None, Path("/own")) == Path("/named/by/variable")
    monkeypatch.delenv(cli.MESH_VARIABLE)
    assert cli.find_mesh(None, Path("/own")) == Path("/own")


def test_of_several_meshes_none_is_guessed(monkeypatch):
    """Two meshes of the usual name and none named: refused, both told."""
    monkeypatch.delenv(cli.MESH_VARIABLE, raising=False)
    made = [Path(tempfile.mkdtemp(prefix="tradingmesh-", dir="/dev/shm")) for _ in range(2)]
    try:
        for path in made:
            (path / "supervisor").touch()
        if (cli.DEFAULT / "supervisor").exists():
            pytest.skip("a mesh of this host's own is at the default path")
        with pytest.raises(CommandFailed, match="several meshes") as refused:
            cli.find_mesh(None)
        assert refused.value.code == 64
        assert all(str(path) in str(refused.value) for path in made)
    finally:
        for path in made:
            shutil.rmtree(path)


def loaded(words, mesh):
    """Modules that a command has loaded at its end, and its output."""
    program = (
        "import sys\nfrom workers.ctl.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit:\n    pass\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program, "--mesh", str(mesh.path), *words],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return {name.partition(".")[0] for name in ended.stderr.split()}


def test_reading_commands_load_nothing_heavy(loop):
    """What `status`, `show` and the like load has no torch, no pydantic, no rich in it."""
    for words in (["status"], ["show", "ticks"], ["events"], ["doctor"]):
        assert not loaded(words, loop.mesh) & {*HEAVY, "rich"}, words


def test_no_command_waits_for_numpy(loop):
    """Reading the mesh, --help and wrong usage load no numpy: it takes longer than they do."""
    for words in (
        "--help",
        "bogus",
        "completion bash",
        "status",
        "status ingest",
        "status --format json",
        "segments",
        "show ticks",
        "show quotes",
        "show supervisor",
        "show heartbeats",
        "tail ticks --no-follow",
        "locks",
        "events",
        "doctor",
        "words workers",
    ):
        assert not loaded(words.split(), loop.mesh) & {*HEAVY, "rich", "numpy"}, words


def test_a_reader_that_leaves_is_no_error(loop):
    """`meshctl tail ticks | head -1` ends quietly with 0 when its reader is gone."""
    loop.publish(60)
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "workers.ctl.cli",
            "--mesh",
            str(loop.mesh.path),
            "tail",
            "ticks",
            "-n",
            "60",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        child.stdout.close()
        while child.poll() is None:  # a pipe breaks at the next write: give it some
            loop.publish(1)
            select.select([], [], [], 0.01)
        assert child.returncode == 0
        assert child.stderr is not None
        assert child.stderr.read() == b""


def test_an_unreadable_mesh_is_one_line(meshctl, tmp_path):
    """A file where the mesh should be: down, and nothing but a line."""
    (tmp_path / "file").write_text("mine")
    code, out, err = meshctl("status", "--mesh", str(tmp_path / "file"))
    assert (code, err) == (2, "")
    assert "no daemon" in out
    assert Mesh(tmp_path / "file").path.read_text() == "mine"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("words", [["status"], ["segments"], ["show", "ticks"], ["locks"]], ids=str)
def test_another_user_is_told_in_one_line(loop, words):
    """A private mesh refuses others: one line with the remedy, code 1."""

    def nobody(tell):
        os.setresgid(65534, 65534, 65534)
        os.setgroups([])
        os.setresuid(65534, 65534, 65534)
        err = io.StringIO()
        with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
            code = cli.main(["--mesh", str(loop.mesh.path), *words])
        tell(f"{code} {err.getvalue()}")

    with child(nobody) as process:
        output = process.started()
        assert process.wait() == 0
    assert output.startswith("1 meshctl")
    assert output.count("\n") == 1
    assert "join the mesh's group" in output
