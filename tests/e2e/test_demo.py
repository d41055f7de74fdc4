"""`meshctl demo`: the whole loop from nothing to nothing, and what it says when it cannot."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

from mesh import Mesh
from tests.daemons import ROOT, until

pytestmark = pytest.mark.e2e
WATCHDOG_S = 150.0


class Place:
    """A mesh path and a temporary directory of one demo's own."""

    def __init__(self, directory):
        self.mesh = Path("/dev/shm") / f"demo-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.temporary = directory
        self.environ = {**os.environ, "TMPDIR": str(directory), "DEMO_SECONDS": "40"}

    def command(self, *words):
        """The command line of a demo here."""
        return [sys.executable, "-m", "workers.ctl.cli", "--mesh", str(self.mesh), "demo", *words]

    def run(self, *words):
        """Run a demo to its end, without a terminal."""
        return subprocess.run(
            self.command(*words),
            cwd=ROOT,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=WATCHDOG_S,
        )

    def processes(self):
        """Everything that maps or names this mesh."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if str(self.mesh) in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def assert_nothing_left(self):
        """No process, no segment, no temporary file."""
        assert self.processes() == []
        assert not self.mesh.exists()
        assert list(self.temporary.iterdir()) == []


@pytest.fixture
def place(tmp_path):
    """A place that is clean afterwards, however the test ends."""
    one = Place(tmp_path)
    yield one
    for process in one.processes():
        process.kill()
    shutil.rmtree(one.mesh, ignore_errors=True)


def test_without_a_terminal_it_judges_and_leaves_nothing(place):
    """Synthetic data flows through the whole loop in time: exit 0, and nothing is left behind."""
    ended = place.run()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "data flowed through the whole loop" in ended.stdout
    assert "acting" in ended.stdout
    place.assert_nothing_left()


@pytest.mark.stress
def test_recorded_data_goes_round_too(place, data):
    """The recorded chain, of which hours before the opening are skipped: a policy acts in time."""
    place.environ["DEMO_SECONDS"] = "50"
    ended = place.run("--data", str(data / "lean"))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    place.assert_nothing_left()


@pytest.mark.stress
def test_too_short_a_time_is_said_and_left_clean(place):
    """A demo that ends before a policy acted names what is missing and ends with 1."""
    place.environ["DEMO_SECONDS"] = "0"
    ended = place.run("--set", "trainer.learning_starts=100000000")
    assert ended.returncode == 1
    assert "missing: the feeder does not act with a published policy" in ended.stdout
    place.assert_nothing_left()


def test_killed_itself_it_takes_the_daemon_with_it(place):
    """kill -9 of the demo: the daemon stops everything in order; the next demo sweeps the rest."""
    with subprocess.Popen(
        place.command(),
        cwd=ROOT,
        env=place.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as child:
        mesh = Mesh(place.mesh)
        until("a worker", lambda: mesh.attach("supervisor").read()[1]["workers"][0]["pid"])
        child.kill()
    until("no process", lambda: not place.processes())
    until("no mesh", lambda: not place.mesh.exists())
    place.run("--data", str(place.temporary))
    place.assert_nothing_left()


class Screen:
    """A demo on a terminal."""

    def __init__(self, place):
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.chdir(ROOT)
            environ = {**place.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "30"}
            os.execve(sys.executable, place.command(), environ)
        self.text = ""

    def until(self, *wanted):
        """Read until all of `wanted` have been seen, or the program has ended."""
        deadline = time.monotonic() + WATCHDOG_S
        while time.monotonic() < deadline and not self.shows(wanted):
            if select.select([self._fd], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self._fd, 65536).decode("utf-8", "replace")
                except OSError:
                    return
        assert self.shows(wanted), self.text[-3000:]

    def shows(self, wanted):
        """Whether all of `wanted` were seen, whatever columns lie between their words."""
        return all(word in " ".join(self.text.split()) for word in wanted)

    def press(self, text):
        """Type."""
        os.write(self._fd, text.encode())

    def hang_up(self):
        """Close the terminal, as a broken connection does, and wait for the end."""
        os.close(self._fd)
        os.waitpid(self.pid, 0)

    def end(self):
        """Read to the end and give the exit code."""
        with contextlib.suppress(AssertionError):
            self.until("never shown by anything")
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._fd)
        return code


def test_on_a_terminal_it_heals_and_q_stops_everything(place):
    """top is shown, a killed daemon is started again, `q` takes everything away."""
    screen = Screen(place)
    screen.until("waiting for", "q stops the demo", "EVENTS")
    daemon = Mesh(place.mesh).attach("supervisor").read()[1]["pid"]
    os.kill(daemon, signal.SIGKILL)
    screen.until("it adopts the workers", "adopted")
    screen.press("q")
    assert screen.end() == 0
    place.assert_nothing_left()


def test_ctrl_c_stops_everything(place):
    """Ctrl-C while it starts: everything that was started ends, exit 130."""
    screen = Screen(place)
    screen.until("broker ready")
    screen.press("\x03\x03")
    assert screen.end() == 130
    place.assert_nothing_left()


def test_a_broken_connection_stops_everything(place):
    """The terminal goes away: everything ends in order as with `q`."""
    screen = Screen(place)
    screen.until("ingest ready")
    screen.hang_up()
    place.assert_nothing_left()


def one_line(ended, code, *said):
    """Whether it ended with `code` and one line on stderr that says all of `said`."""
    assert ended.returncode == code, ended.stdout + ended.stderr
    assert ended.stderr.count("\n") == 1
    assert all(each in ended.stderr for each in said), ended.stderr


@pytest.fixture
def mangled(tmp_path_factory):
    """Data of the right name that is no zip."""
    path = tmp_path_factory.mktemp("data") / "20151224_quote_american.zip"
    path.write_text("no zip")
    return path


def test_data_that_is_not_there(place):
    """Refused before anything starts."""
    one_line(place.run("--data", "/no/such/path"), 78, "/no/such/path", "name a Lean")
    place.assert_nothing_left()


def test_data_that_is_no_zip(place, mangled):
    """The worker that cannot read it is not started again and again: its reason ends the demo."""
    one_line(place.run("--data", str(mangled)), 1, "replayer cannot start", str(mangled), "zip")
    place.assert_nothing_left()


def test_a_time_that_is_none(place):
    """DEMO_SECONDS that is no number is refused before anything starts."""
    place.environ["DEMO_SECONDS"] = "soon"
    one_line(place.run(), 64, "DEMO_SECONDS=soon")
    place.assert_nothing_left()


def test_a_value_that_is_none(place):
    """The daemon's report of the configuration, with its exit code."""
    ended = place.run("--set", "feeder.lanes=many")
    assert ended.returncode == 78
    assert "feeder.lanes" in ended.stderr
    assert "whole number" in ended.stderr
    place.assert_nothing_left()


def test_a_mesh_directory_that_cannot_be(place, tmp_path_factory):
    """A file where the mesh should be is told and left as it is."""
    place.mesh = tmp_path_factory.mktemp("mesh") / "file"
    place.mesh.write_text("mine")
    one_line(place.run(), 73, str(place.mesh))
    assert place.mesh.read_text() == "mine"
    assert list(place.temporary.iterdir()) == []


def test_a_port_that_is_taken(place):
    """The broker's reason names the port and the setting."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = place.run("--set", f"broker.registry_port={port}")
    one_line(ended, 1, "broker cannot start", str(port), "broker.registry_port")
    place.assert_nothing_left()


def test_a_second_demo_on_the_same_mesh(place):
    """Refused in one line; the first one runs on undisturbed."""
    with subprocess.Popen(
        place.command(),
        cwd=ROOT,
        env=place.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as first:
        mesh = Mesh(place.mesh)
        until("the first daemon", lambda: mesh.attach("supervisor").read()[1]["pid"])
        one_line(place.run(), 75, "another daemon", str(place.mesh))
        assert first.poll() is None
        assert mesh.attach("supervisor").read()[1]["state"] in {"starting", "healthy", "degraded"}
        first.terminate()
        assert first.wait(WATCHDOG_S) == 130
    place.assert_nothing_left()
