"""The units: verified, hardened, installed where asked, and run by a real systemd."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from mesh import Mesh
from tests.daemons import ROOT, until

pytestmark = pytest.mark.crash

SYSTEMD = Path("/lib/systemd/systemd")
UNITS = ("tradingmesh.service", "tradingmesh-broker.service")
needs_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="needs systemd-analyze (apt install systemd)"
)
needs_systemd = pytest.mark.skipif(
    os.getuid() != 0 or not SYSTEMD.exists() or shutil.which("unshare") is None,
    reason="needs root, systemd and unshare (apt install systemd util-linux)",
)


def installed(directory):
    """The files of an installation below `directory`, with this environment as the prefix.

    Links are not among them.
    """
    subprocess.run(
        [ROOT / "systemd" / "install.sh", directory, sys.prefix, sys.executable],
        env={**os.environ, "UNITS_ONLY": "1"},
        check=True,
        capture_output=True,
        timeout=60,
    )
    found = [p for p in Path(directory).rglob("*") if p.is_file() and not p.is_symlink()]
    return {path.relative_to(directory).as_posix() for path in found}


def test_install_and_uninstall_touch_their_own_files_alone(tmp_path):
    """DESTDIR holds everything; a changed configuration is kept by both; nothing else is left."""
    before = installed(tmp_path)
    assert before == {
        f"{sys.prefix[1:]}/share/tradingmesh/installed",
        "usr/share/bash-completion/completions/meshctl",
        "usr/share/zsh/vendor-completions/_meshctl",
        "usr/share/fish/vendor_completions.d/meshctl.fish",
        "usr/lib/systemd/system/tradingmesh.service",
        "usr/lib/systemd/system/tradingmesh-broker.service",
        "usr/lib/sysusers.d/tradingmesh.conf",
        "usr/lib/tmpfiles.d/tradingmesh.conf",
        "etc/tradingmesh/tradingmesh.toml",
        "etc/tradingmesh/broker.toml",
    }
    config = tmp_path / "etc/tradingmesh/tradingmesh.toml"
    config.write_text("# mine")
    assert installed(tmp_path) == before
    assert config.read_text() == "# mine"
    unit = (tmp_path / "usr/lib/systemd/system/tradingmesh.service").read_text()
    assert f"ExecStart={sys.prefix}/bin/meshd " in unit
    for command in ("meshd", "meshctl"):
        link = tmp_path / "usr/local/bin" / command
        assert str(link.readlink()) == f"{sys.prefix}/bin/{command}"
    theirs = tmp_path / "usr/share/zsh/vendor-completions/_other"
    theirs.write_text("of another program")
    uninstall = [ROOT / "systemd" / "uninstall.sh", tmp_path]
    refused = subprocess.run([*uninstall, "/nowhere"], check=False, timeout=60)
    assert refused.returncode == 1
    subprocess.run([*uninstall, sys.prefix], check=True, timeout=60)
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if not p.is_dir()}
    assert left == {
        "etc/tradingmesh/tradingmesh.toml",
        "etc/tradingmesh/broker.toml",
        "usr/share/zsh/vendor-completions/_other",
    }
    assert not (tmp_path / "usr/lib").exists()  # made for us alone


def test_a_command_of_another_program_is_left_alone(tmp_path):
    """What stands at the commands' place already is neither replaced nor taken away."""
    mine = tmp_path / "usr/local/bin/meshctl"
    mine.parent.mkdir(parents=True)
    mine.write_text("another program")
    installed(tmp_path)
    subprocess.run(
        [ROOT / "systemd" / "uninstall.sh", tmp_path, sys.prefix], check=True, timeout=60
    )
    assert mine.read_text() == "another program"
    assert not (mine.parent / "meshd").is_symlink()


@needs_analyze
def test_units_verify_without_a_word(tmp_path):
    """`systemd-analyze verify` prints nothing."""
    installed(tmp_path)
    units = [tmp_path / "usr/lib/systemd/system" / unit for unit in UNITS]
    done = subprocess.run(
        ["systemd-analyze", "verify", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_analyze
@pytest.mark.parametrize("unit", UNITS)
def test_units_are_hardened(unit):
    """The exposure is at most 1.5, and stays there."""
    done = subprocess.run(
        [
            "systemd-analyze",
            "security",
            "--offline=true",
            "--threshold=15",
            ROOT / "systemd" / unit,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout.splitlines()[-1]


class PrivateSystemd:
    """A systemd of its own, with our unit installed by our installer and a drop-in for the test."""

    def __init__(self, directory, profile, credentials=None):
        self.state = Path(directory)
        self.shared = Path(tempfile.mkdtemp(prefix="systemd-test-", dir="/dev/shm"))
        self.mesh_path = self.shared / "mesh"
        self.mesh = Mesh(self.mesh_path)
        tree = self.state / "tree"
        tree.mkdir()
        installed(tree)
        (self.state / "units").mkdir()
        for unit in UNITS:
            shutil.copy(tree / "usr/lib/systemd/system" / unit, self.state / "units")
        (self.state / "units" / "test.target").write_text(
            "[Unit]\nDefaultDependencies=no\nWants=tradingmesh.service\n"
        )
        python = os.path.realpath(sys.executable).split("/bin/")[0]
        places = " ".join({python, sys.prefix, str(ROOT), *_package_places()})
        drop_in = self.state / "units" / "tradingmesh.service.d"
        drop_in.mkdir()
        (drop_in / "test.conf").write_text(
            "[Unit]\nDefaultDependencies=no\nAfter=\n"
            "[Service]\nProtectHome=tmpfs\n"
            f"BindReadOnlyPaths={places}\n"
            f"Environment=PYTHONPATH={ROOT}\n"  # the sample workers are not installed
            "StandardOutput=append:/run/tradingmesh.log\nStandardError=inherit\n"
            + "".join(
                f"LoadCredential={name}:/etc/tradingmesh/{name}\n" for name in credentials or {}
            )
        )
        self._etc(tree)
        (self.state / "etc" / "tradingmesh" / "tradingmesh.toml").write_text(
            profile.format(mesh=self.mesh_path)
        )
        for name, text in (credentials or {}).items():
            secret = self.state / "etc" / "tradingmesh" / name
            secret.write_text(text)
            secret.chmod(0o400)  # root's: the daemon's user cannot read the file itself
        self.boot = self.state / "boot.log"
        with self.boot.open("wb") as log:
            self.process = subprocess.Popen(
                [ROOT / "tests" / "private_systemd.sh", self.state],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _etc(self, tree):
        """/etc with the user that our sysusers file asks for."""
        etc = self.state / "etc"
        etc.mkdir()
        users = self.state / "users"
        (users / "etc").mkdir(parents=True)
        for name in ("passwd", "group"):
            shutil.copy(f"/etc/{name}", users / "etc")
        subprocess.run(
            ["systemd-sysusers", f"--root={users}", tree / "usr/lib/sysusers.d/tradingmesh.conf"],
            check=True,
            capture_output=True,
            timeout=60,
        )
        for name in ("passwd", "group"):
            shutil.copy(users / "etc" / name, etc)
        (etc / "tradingmesh").mkdir()
        line = re.search(r"^tradingmesh:x:(\d+):(\d+):", (etc / "passwd").read_text(), re.MULTILINE)
        self.uid, self.gid = map(int, line.groups())
        self.shared.chmod(0o755)
        self.mesh_path.mkdir(mode=0o700)
        os.chown(self.mesh_path, self.uid, self.gid)

    def pid1(self):
        """The systemd itself, seen from here."""
        for child in psutil.Process(self.process.pid).children():
            if child.name() == "systemd":
                return child.pid
        return 0

    def systemctl(self, *arguments):
        """Ask that systemd."""
        pid = until("systemd runs", self.pid1)
        done = subprocess.run(
            ["nsenter", "-t", str(pid), "-m", "-p", "-C", "systemctl", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout.strip()

    def property(self, name):
        """One property of our unit."""
        return self.systemctl("show", "tradingmesh", "-P", name)

    def status(self):
        """The daemon's status."""
        return self.mesh.attach("supervisor").read()[1]

    def daemon(self):
        """The daemon's pid as seen from here (the status has the one inside)."""
        for process in psutil.Process(self.pid1()).children():
            with contextlib.suppress(psutil.Error):  # it ends
                if process.cmdline()[:1] == ["tradingmesh: meshd"]:
                    return process.pid
        return 0

    def workers(self):
        """Names of the worker processes by their pids as seen from here."""
        found = {}
        for process in psutil.Process(self.pid1()).children(recursive=True):
            with contextlib.suppress(psutil.Error, IndexError):
                title = process.cmdline()[0]
                if title.startswith("tradingmesh: ") and not title.endswith("meshd"):
                    found[process.pid] = title.removeprefix("tradingmesh: ")
        return {pid: name for pid, name in found.items() if not name.startswith("fork server")}

    def log(self):
        """What the daemon wrote, and what systemd said."""
        with contextlib.suppress(OSError):
            inside = Path("/proc", str(self.pid1()), "root", "run", "tradingmesh.log")
            return inside.read_text() + self.boot.read_text()
        return self.boot.read_text()

    def close(self):
        """End everything of it."""
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    process.kill()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.shared, ignore_errors=True)
        cgroup = Path((self.state / "cgroup").read_text().strip())

        def removed():
            for path in sorted(cgroup.rglob("*"), reverse=True):
                if path.is_dir():
                    with contextlib.suppress(OSError):
                        path.rmdir()
            with contextlib.suppress(OSError):
                cgroup.rmdir()
            return not cgroup.exists()

        until("cgroup removed", removed)


def _package_places():
    return {str(Path(module.__file__).parents[1]) for module in (psutil, pytest)}


@contextlib.contextmanager
def private_systemd(directory, profile, credentials=None):
    """A private systemd that leaves nothing behind."""
    one = PrivateSystemd(directory, profile, credentials)
    try:
        yield one
    except BaseException:
        sys.stderr.write(one.log())
        raise
    finally:
        one.close()


LIGHT = """
run_directory = "/var/lib/tradingmesh"
[mesh]
path = "{mesh}"
[workers.first]
worker = "tests.sample_workers:Counting"
nice = 1
cpu_affinity = [0]
memory_limit_bytes = 500_000_000
[workers.second]
worker = "tests.sample_workers:Counting"
depends_on = ["first"]
"""


def play(one, names, healed):
    """Ready, worker killed, reload, daemon killed, watchdog, stop: as an operator sees them."""
    until("active", lambda: one.property("ActiveState") == "active", 240.0)
    assert "required workers run" in one.property("StatusText")
    assert int(one.property("MainPID")) == one.status()["pid"]
    until("all run", lambda: set(one.workers().values()) >= names)
    before = one.workers()
    os.kill(next(pid for pid, name in before.items() if name == healed), signal.SIGKILL)
    until("healed", lambda: healed in dict(one.workers().items() - before.items()).values())
    until("healthy", lambda: one.status()["state"] == "healthy")
    workers = one.workers()
    one.systemctl("reload", "tradingmesh")
    until("active again", lambda: one.property("ActiveState") == "active")
    first = one.daemon()
    os.kill(first, signal.SIGKILL)
    second = until("the next daemon", lambda: one.daemon() not in {0, first} and one.daemon())
    until("healthy", lambda: one.status()["state"] == "healthy", 240.0)
    until("active", lambda: one.property("ActiveState") == "active", 240.0)
    assert one.workers() == workers  # none lost, doubled or restarted
    os.kill(second, signal.SIGSTOP)  # it hangs: the watchdog ends it, and the next one adopts
    until("watchdog", lambda: one.daemon() not in {0, second})
    assert "Fatal Python error: Aborted" in one.log()  # with the stack of the loop
    assert one.property("NRestarts") == "2"
    until("active", lambda: one.property("ActiveState") == "active", 240.0)
    assert one.workers() == workers
    one.systemctl("stop", "tradingmesh")
    assert one.property("ActiveState") == "inactive"
    assert one.property("Result") == "success"
    assert one.workers() == {}
    assert one.status()["state"] == "down"


@needs_systemd
def test_real_systemd_runs_replaces_and_stops_the_daemon(tmp_path):
    """The shipped unit, under a real systemd, with light workers: ready to clean stop."""
    with private_systemd(tmp_path, LIGHT) as one:
        play(one, {"first", "second"}, "first")


SECRETS = {
    "kafka.options.sasl.password": "hunter2-of-kafka",
    "kafka.registry_password": "hunter2-of-the-registry",
    "workers.first.env.MLFLOW_TRACKING_TOKEN": "hunter2-of-mlflow",
}
TRUSTING = """
run_directory = "/var/lib/tradingmesh"
[mesh]
path = "{mesh}"
[workers.first]
worker = "tests.sample_workers:SecretReader"
"""


def quoting(one, secret):
    """What an operator, or who gets their files, can read that has the secret in it."""
    root = Path("/proc", str(one.pid1()), "root")
    files = [path for path in (root / "var/lib/tradingmesh").rglob("*") if path.is_file()]
    files += [root / "run/tradingmesh.log", one.boot, *one.mesh_path.iterdir()]
    found = {str(path) for path in files if path.is_file() and secret in path.read_bytes()}
    for process in psutil.Process(one.pid1()).children(recursive=True):
        if secret.decode() in " ".join(process.cmdline()):
            found.add(str(process))
    return found


@needs_systemd
def test_credentials_reach_the_settings_and_nothing_else(tmp_path):
    """LoadCredential= gives Kafka's and MLflow's secrets to the worker alone.

    They stand in no log, status, crash report, segment or command line, although the worker
    prints, logs and fails with its settings; nor in the list of problems of a wrong configuration.
    """
    with private_systemd(tmp_path, TRUSTING, SECRETS) as one:
        until("active", lambda: one.property("ActiveState") == "active", 240.0)
        published = until("secrets", lambda: one.mesh.attach("secrets/first").read()[1])
        wanted = [hashlib.sha256(secret.encode()).hexdigest() for secret in SECRETS.values()]
        assert published["secrets"] == wanted
        crashes = Path("/proc", str(one.pid1()), "root/var/lib/tradingmesh/crashes")
        (report,) = until("crash report", lambda: list(crashes.glob("first-*.json")))
        assert "cannot use" in report.read_text()
        until("healed", lambda: one.status()["workers"][0]["state"] == "running")
        assert "***" in report.read_text()
        toml = Path("/proc", str(one.pid1()), "root/etc/tradingmesh/tradingmesh.toml")
        toml.write_text(toml.read_text() + "\n[kafka]\nno_such_key = 1\n")
        one.systemctl("reload", "tradingmesh")
        until("refused", lambda: "no_such_key" in one.status()["reload_error"])
        logs = Path("/proc", str(one.pid1()), "root/var/lib/tradingmesh/logs/first.log")
        until("printed", lambda: "printed: " in logs.read_text())
        for secret in SECRETS.values():
            assert quoting(one, secret.encode()) == set()
        one.systemctl("stop", "tradingmesh")
        for secret in SECRETS.values():
            assert quoting(one, secret.encode()) == set()


@needs_systemd
@pytest.mark.stress
@pytest.mark.timeout(900)
def test_real_systemd_runs_the_full_demo(tmp_path):
    """The whole learning loop, hardened: broker, replayer, ingest, feeder, two learners, MLflow."""
    demo = (ROOT / "config" / "demo.toml").read_text()
    demo = re.sub(r'run_directory = ".*"', 'run_directory = "/var/lib/tradingmesh"', demo)
    demo = demo.replace("remove_at_stop = true", "remove_at_stop = false").replace("{", "{{")
    demo = re.sub(r'path = ".*"', 'path = "{mesh}"', demo.replace("}", "}}"), count=1)
    with private_systemd(tmp_path, demo) as one:
        play(one, {"broker", "replayer", "ingest", "feeder", "td3-0", "td3-1"}, "td3-0")
