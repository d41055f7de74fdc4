"""`meshctl demo`: the whole loop on this machine, from nothing to nothing.

Starts the daemon with the profile `demo` on a mesh and in a run directory of its own, waits until
everything runs, shows it, and takes everything away again. Without a terminal it evaluates what it
saw: the exit code is 0 only if data flowed all the way round.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mesh import procfs
from mesh.control import ControlRequest, ControlUnavailable, ask
from workers.contract.names import status_segment
from workers.ctl.failure import CommandFailed, Exit
from workers.ctl.report import heartbeat_rows, read_cell, read_report

if TYPE_CHECKING:
    from mesh import Mesh

SECONDS = 60.0
READY_S = 120.0
STOP_S = 40.0
SETTLE_S = 20.0
LINES_S = 5.0
POLL_INTERVAL_S = 0.1
DEATHS = 3  # of one worker before it ever was ready: it will not be
PR_SET_PDEATHSIG = 1
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TEMPORARY = "tradingmesh-demo-"


def demo(mesh: Mesh, options: argparse.Namespace) -> int:
    """Run the demo; gives 0, 1 when data did not flow all the way, or the daemon's own code."""
    if options.data is not None and not os.access(options.data, os.R_OK):
        raise CommandFailed(
            f"{options.data}: nothing is there that may be read; give a Lean minute zip or a "
            "folder of such, or nothing for a synthetic market",
            Exit.CONFIGURATION,
        )
    for number in ENDINGS:
        signal.signal(number, _interrupt)
    with run_directory(options.run_directory) as directory:
        one = Demo(mesh, directory, options)
        try:
            one.start()
            one.wait_ready()
            return one.show() if sys.stdin.isatty() and sys.stdout.isatty() else one.watch()
        except KeyboardInterrupt:
            return 130
        finally:
            one.stop()


def _interrupt(_number: int, _frame: object) -> None:
    """End in order, once: a second Ctrl-C would leave half of it."""
    _deaf()
    raise KeyboardInterrupt


def _deaf() -> None:
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def run_directory(wanted: Path | None) -> Iterator[Path]:
    """Lend the directory of this run: the one that is wanted, which stays, or a temporary one."""
    if wanted is not None:
        yield wanted.absolute()
        return
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{os.getpid()}-") as name:
        yield Path(name)


def _sweep(directory: Path) -> None:
    """Remove the directories of demos that were killed before they could do it."""
    for path in directory.glob(f"{TEMPORARY}*"):
        pid = path.name.removeprefix(TEMPORARY).partition("-")[0]
        if pid.isdigit() and not procfs.exists(int(pid)) and path.stat().st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)


class Demo:
    """One daemon and what it started."""

    def __init__(self, mesh: Mesh, directory: Path, options: argparse.Namespace) -> None:
        """Note where everything goes; nothing is started yet."""
        self.mesh = mesh
        self.directory = directory
        self.log = directory / "meshd.log"
        settings = [f"mesh.path={mesh.path}", f"run_directory={directory}", *options.set]
        if options.data is not None:
            settings.append(f"replayer.data={options.data.absolute()}")
        pairs = [word for each in settings for word in ("--set", each)]
        # -P: a folder named like one of our modules where this is run must not be imported
        command = [sys.executable, "-P", "-m", "supervisor", "--profile", "demo"]
        self.command: Sequence[str] = [*command, *pairs]
        self.daemon: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic()
        self.seconds = _seconds(os.environ.get("DEMO_SECONDS") or str(SECONDS))
        self.seen_ready: set[str] = set()
        self.owned = False  # the mesh was made by our daemon: nobody else's is taken away

    # --- its life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon; it ends with this process, however this one ends."""
        temporary = self.directory / "tmp"  # of libraries too: it goes with the rest
        temporary.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None)
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(  # noqa: S603 - our own module
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(temporary)},
                start_new_session=True,  # Ctrl-C is for this process, which stops the daemon
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - one thread
            )

    def wait_ready(self) -> None:
        """Wait until every required worker runs, and tell the progress."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self._check_daemon()
            report = read_report(self.mesh)
            if self._is_ours(report):
                self.owned = True
                self._tell_ready(report)
                self._check_workers(report)
                if report["ready"]:
                    return
            time.sleep(POLL_INTERVAL_S)
        waiting = [w["name"] for w in report["workers"] if w["state"] != "running"]
        raise CommandFailed(f"not ready within {READY_S:g} s: {', '.join(waiting)} did not start")

    def stop(self) -> None:
        """Stop everything and take away what is left; only what is ours."""
        _deaf()
        if self.daemon is None:
            return
        pids = [row for row in heartbeat_rows(self.mesh) if self.owned and row.identity.is_alive()]
        if self.daemon.poll() is None:
            if self.owned:
                with contextlib.suppress(OSError):  # the terminal may be gone
                    print("stopping", flush=True)
            self.daemon.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.daemon.wait(STOP_S)
            if self.daemon.poll() is None:
                self.daemon.kill()
                self.daemon.wait()
        for row in pids:
            if row.identity.is_alive():
                os.kill(row.pid, signal.SIGKILL)
        if self.owned:
            shutil.rmtree(self.mesh.path, ignore_errors=True)

    # --- what is shown ------------------------------------------------------------------------

    def show(self) -> int:
        """Show `top` until `q`."""
        from workers.ctl.commands.top import run_screen  # noqa: PLC0415 - rich is for terminals

        run_screen(self.mesh, 1.0, title="q stops the demo", tend=self.tend)
        return Exit.HEALTHY

    def watch(self) -> int:
        """Print lines for DEMO_SECONDS, then evaluate the run."""
        early = read_report(self.mesh)["flow"]
        ends = self.began + self.seconds
        while (now := time.monotonic()) < ends:
            if message := self.tend():
                self._say(message)
            self._say(flow_line(read_report(self.mesh)))
            time.sleep(max(0.0, min(LINES_S, ends - now)))
        missing = self.evaluate(early)
        for line in missing:
            print(f"missing: {line}", flush=True)
        if not missing:
            self._say("data flowed all the way round")
        return Exit.DEGRADED if missing else Exit.HEALTHY

    def tend(self) -> str:
        """Start a daemon that was killed again: it adopts the workers. Gives what was done."""
        if self.daemon is None or self.daemon.poll() is None:
            return ""
        code = self.daemon.returncode
        if code > 0:
            raise CommandFailed(self._last_words(code), code)
        self.start()
        return f"meshd ended with {code}; started again: it adopts the workers"

    # --- evaluating ------------------------------------------------------------------------------

    def evaluate(self, before: dict[str, Any]) -> list[str]:
        """Return what is missing of a full circle since `before`; nothing: all the way round."""
        with contextlib.suppress(ControlUnavailable):
            ask(self.mesh.path, ControlRequest("stop", "replayer"))
        deadline = time.monotonic() + SETTLE_S
        report = read_report(self.mesh)
        while not _settled(report) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
            report = read_report(self.mesh)
        return list(missing(report, before, read_cell(self.mesh, status_segment("feeder"))))

    # --- what can go wrong --------------------------------------------------------------------

    def _is_ours(self, report: dict[str, Any]) -> bool:
        return self.daemon is not None and report["daemon"]["pid"] == self.daemon.pid

    def _check_daemon(self) -> None:
        assert self.daemon is not None  # noqa: S101 - started before
        if (code := self.daemon.poll()) is not None:
            raise CommandFailed(self._last_words(code), code if code > 0 else Exit.DEGRADED)

    def _last_words(self, code: int) -> str:
        """Return what the daemon wrote for people, else the end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        plain = [line for line in lines if line and not line.startswith("{")]
        return "\n".join(plain[-20:]) or f"meshd ended with {code}; its log is empty"

    def _check_workers(self, report: dict[str, Any]) -> None:
        """Fail for a required worker that dies repeatedly before it was ever ready."""
        for worker in report["workers"]:
            hopeless = worker["state"] == "quarantined" or worker["restarts"] >= DEATHS
            if worker["required"] and worker["name"] not in self.seen_ready and hopeless:
                reason = " ".join(worker["reason"].split())
                raise CommandFailed(f"{worker['name']} cannot start: {reason}")

    def _tell_ready(self, report: dict[str, Any]) -> None:
        fresh = [
            worker["name"]
            for worker in report["workers"]
            if worker["state"] == "running" and worker["name"] not in self.seen_ready
        ]
        if fresh:
            self.seen_ready.update(fresh)
            waiting = [w["name"] for w in report["workers"] if w["name"] not in self.seen_ready]
            left = ", ".join(waiting) if len(waiting) < 3 else f"{len(waiting)} more"
            self._say(f"{', '.join(fresh)} ready" + (f"; waiting for {left}" if left else ""))

    def _say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.1f} s] {text}", flush=True)


def _seconds(text: str) -> float:
    """Read DEMO_SECONDS. Raises CommandFailed for what is no number."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise CommandFailed(f"DEMO_SECONDS={text}: give a number of seconds", Exit.USAGE)
    return seconds


def flow_line(report: dict[str, Any]) -> str:
    """One line for a log: where the data is."""
    flow = report["flow"]
    policies = ", ".join(
        f"{name} v{policy['version']}{' acting' if policy['acting'] else ''}"
        for name, policy in flow["policies"].items()
    )
    return (
        f"{report['state']}: {flow['consumed']:,} messages in, {flow['published']:,} published, "
        f"{flow['dead_lettered']:,} dead-lettered; {flow['experience']:,} experience; {policies}"
    )


def _accounted(flow: dict[str, Any]) -> int:
    return sum(
        int(flow[key]) for key in ("published", "dead_lettered", "dropped", "conflated", "skipped")
    )


def _settled(report: dict[str, Any]) -> bool:
    """Whether everything that was sent has been taken in and accounted for."""
    flow = report["flow"]
    return bool(flow["consumed"] == _accounted(flow) and flow["consumed"] >= flow["produced"])


def missing(
    report: dict[str, Any], before: dict[str, Any], feeder: dict[str, Any]
) -> Iterator[str]:
    """Compare with a full circle; `before` is the flow of an earlier look."""
    flow = report["flow"]
    if flow["consumed"] == 0:
        yield "no message was consumed; see the logs of replayer and ingest"
    if flow["consumed"] != _accounted(flow):
        yield f"{flow['consumed']:,} messages in, but {_accounted(flow):,} accounted for"
    broker = [w for w in report["workers"] if w["kind"] == "broker"]
    undisturbed = all(worker["restarts"] == 0 for worker in broker)
    if undisturbed and flow["consumed"] < flow["produced"]:
        yield f"{flow['produced']:,} messages were sent, {flow['consumed']:,} came in"
    if flow["experience"] <= before["experience"]:
        yield "experience did not grow"
    for name, policy in flow["policies"].items():
        if policy["version"] == 0:
            yield f"{name} published no weights in this time"
    if not flow["policies"]:
        yield "no trainer reported"
    acting = flow["policies"].get(feeder.get("acting_trainer", ""), {"version": 0})
    if not 0 < feeder.get("acting_version", 0) <= acting["version"]:
        yield "the feeder does not act with a published policy"
