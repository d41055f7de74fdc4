"""`meshctl demo`: run the whole loop on this host and remove everything afterwards.

Starts the daemon with the profile `demo` on its own mesh and in its own run directory, waits until
every worker runs, shows `top`, then stops and removes everything. Without a terminal it checks the
counters: the exit code is 0 only if data flowed through the whole loop.
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
DEATHS = 3  # of a worker that was never ready: it is given up
PR_SET_PDEATHSIG = 1
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TEMPORARY = "tradingmesh-demo-"


def demo(mesh: Mesh, options: argparse.Namespace) -> int:
    """Run the demo.

    Returns:
        0; 1 if data did not flow through the whole loop; 130 after a signal.

    Raises:
        CommandFailed: `--data` cannot be read, or the loop did not start; the code is the daemon's
            own where it ended by itself.
    """
    if options.data is not None and not os.access(options.data, os.R_OK):
        raise CommandFailed(
            f"{options.data}: cannot be read; name a Lean minute zip or a directory of them, or "
            "leave out --data for a synthetic market",
            Exit.CONFIGURATION,
        )
    for number in ENDINGS:
        signal.signal(number, _interrupt)
    with run_directory(options.run_directory) as directory:
        run = Demo(mesh, directory, options)
        try:
            run.start()
            run.wait_ready()
            return run.show() if sys.stdin.isatty() and sys.stdout.isatty() else run.watch()
        except KeyboardInterrupt:
            return 130
        finally:
            run.stop()


def _interrupt(_number: int, _frame: object) -> None:
    """End the demo; later signals are ignored, because they would interrupt the clean-up."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    for number in ENDINGS:
        signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def run_directory(wanted: Path | None) -> Iterator[Path]:
    """Return the run directory as a context: `wanted`, which is kept, or a temporary one."""
    if wanted is not None:
        yield wanted.absolute()
        return
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY}{os.getpid()}-") as name:
        yield Path(name)


def _sweep(directory: Path) -> None:
    """Remove the directories of demos that were killed before they could clean up."""
    for path in directory.glob(f"{TEMPORARY}*"):
        pid = path.name.removeprefix(TEMPORARY).partition("-")[0]
        if pid.isdigit() and not procfs.exists(int(pid)) and path.stat().st_uid == os.getuid():
            shutil.rmtree(path, ignore_errors=True)


class Demo:
    """The daemon of a demo, and the processes it started."""

    def __init__(self, mesh: Mesh, directory: Path, options: argparse.Namespace) -> None:
        """Prepare the command line of the daemon; `start` runs it.

        Args:
            mesh: The demo's own mesh.
            directory: Its run directory.
            options: The parsed arguments of `meshctl demo`.
        """
        self.mesh = mesh
        self.directory = directory
        self.log = directory / "meshd.log"
        settings = [f"mesh.path={mesh.path}", f"run_directory={directory}", *options.set]
        if options.data is not None:
            settings.append(f"replayer.data={options.data.absolute()}")
        pairs = [word for each in settings for word in ("--set", each)]
        # -P: modules in the current directory must not hide ours
        command = [sys.executable, "-P", "-m", "supervisor", "--profile", "demo"]
        self.command: Sequence[str] = [*command, *pairs]
        self.daemon: subprocess.Popen[bytes] | None = None
        self.began = time.monotonic()
        self.seconds = _seconds(os.environ.get("DEMO_SECONDS") or str(SECONDS))
        self.seen_ready: set[str] = set()
        self.owned = False  # our daemon created the mesh, so that we may remove it

    # --- start and stop ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon. The kernel stops it when this process ends for any reason."""
        temporary = self.directory / "tmp"  # for libraries too; removed with the rest
        temporary.mkdir(parents=True, exist_ok=True)
        libc = ctypes.CDLL(None)
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(  # noqa: S603 - our own module
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(temporary)},
                start_new_session=True,  # Ctrl-C goes to this process only, which stops the daemon
                preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM),  # noqa: PLW1509 - one thread
            )

    def wait_ready(self) -> None:
        """Wait until every required worker runs, and print the progress.

        Raises:
            CommandFailed: The daemon ended, a worker cannot start, or time is over.
        """
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            self._check_daemon()
            report = read_report(self.mesh)
            if self._is_ours(report):
                self.owned = True
                self._report_ready(report)
                self._check_workers(report)
                if report["ready"]:
                    return
            time.sleep(POLL_INTERVAL_S)
        waiting = [w["name"] for w in report["workers"] if w["state"] != "running"]
        raise CommandFailed(f"not ready within {READY_S:g} s: {', '.join(waiting)} did not start")

    def stop(self) -> None:
        """Stop the daemon and the workers and remove the mesh, if our daemon created it."""
        _ignore_signals()
        if self.daemon is None:
            return
        pids = [row for row in heartbeat_rows(self.mesh) if self.owned and row.identity.is_alive()]
        if self.daemon.poll() is None:
            if self.owned:
                with contextlib.suppress(OSError):  # the terminal may be closed
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

    # --- output ------------------------------------------------------------------------

    def show(self) -> int:
        """Show `top` until `q` is pressed."""
        from workers.ctl.commands.top import run_screen  # noqa: PLC0415 - rich is for terminals

        run_screen(self.mesh, 1.0, title="q stops the demo", before_refresh=self.revive_daemon)
        return Exit.HEALTHY

    def watch(self) -> int:
        """Print a line every few seconds for DEMO_SECONDS, then evaluate the run.

        Returns:
            0 if data flowed through the whole loop, else 1.
        """
        early = read_report(self.mesh)["flow"]
        ends = self.began + self.seconds
        while (now := time.monotonic()) < ends:
            if message := self.revive_daemon():
                self._print(message)
            self._print(flow_line(read_report(self.mesh)))
            time.sleep(max(0.0, min(LINES_S, ends - now)))
        missing = self.evaluate(early)
        for line in missing:
            print(f"missing: {line}", flush=True)
        if not missing:
            self._print("data flowed through the whole loop")
        return Exit.DEGRADED if missing else Exit.HEALTHY

    def revive_daemon(self) -> str:
        """Start the daemon again if it was killed; the new one adopts the workers.

        Returns:
            A message about the restart; empty while the daemon runs.

        Raises:
            CommandFailed: The daemon ended by itself with an error.
        """
        if self.daemon is None or self.daemon.poll() is None:
            return ""
        code = self.daemon.returncode
        if code > 0:
            raise CommandFailed(self._last_words(code), code)
        self.start()
        return f"meshd ended with {code}; started a new one: it adopts the workers"

    # --- evaluation ------------------------------------------------------------------------------

    def evaluate(self, before: dict[str, Any]) -> list[str]:
        """Stop the replayer, wait until its messages are processed, and return what is missing.

        Args:
            before: The flow of an earlier report.

        Returns:
            One line for each link of the loop that did not work; empty if all did.
        """
        with contextlib.suppress(ControlUnavailable):
            ask(self.mesh.path, ControlRequest("stop", "replayer"))
        deadline = time.monotonic() + SETTLE_S
        report = read_report(self.mesh)
        while not _settled(report) and time.monotonic() < deadline:
            time.sleep(POLL_INTERVAL_S)
            report = read_report(self.mesh)
        return list(missing(report, before, read_cell(self.mesh, status_segment("feeder"))))

    # --- failures --------------------------------------------------------------------

    def _is_ours(self, report: dict[str, Any]) -> bool:
        return self.daemon is not None and report["daemon"]["pid"] == self.daemon.pid

    def _check_daemon(self) -> None:
        assert self.daemon is not None  # noqa: S101 - started before
        if (code := self.daemon.poll()) is not None:
            raise CommandFailed(self._last_words(code), code if code > 0 else Exit.DEGRADED)

    def _last_words(self, code: int) -> str:
        """Return the last plain lines of the daemon: its problems, without its JSON log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        plain = [line for line in lines if line and not line.startswith("{")]
        return "\n".join(plain[-20:]) or f"meshd ended with {code}; its log is empty"

    def _check_workers(self, report: dict[str, Any]) -> None:
        """Fail if a required worker died repeatedly and was never ready."""
        for worker in report["workers"]:
            failed = worker["state"] == "quarantined" or worker["restarts"] >= DEATHS
            if worker["required"] and worker["name"] not in self.seen_ready and failed:
                reason = " ".join(worker["reason"].split())
                raise CommandFailed(f"{worker['name']} cannot start: {reason}")

    def _report_ready(self, report: dict[str, Any]) -> None:
        fresh = [
            worker["name"]
            for worker in report["workers"]
            if worker["state"] == "running" and worker["name"] not in self.seen_ready
        ]
        if fresh:
            self.seen_ready.update(fresh)
            waiting = [w["name"] for w in report["workers"] if w["name"] not in self.seen_ready]
            left = ", ".join(waiting) if len(waiting) < 3 else f"{len(waiting)} more"
            self._print(f"{', '.join(fresh)} ready" + (f"; waiting for {left}" if left else ""))

    def _print(self, text: str) -> None:
        print(f"[{time.monotonic() - self.began:5.1f} s] {text}", flush=True)


def _seconds(text: str) -> float:
    """Parse DEMO_SECONDS."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise CommandFailed(f"DEMO_SECONDS={text}: must be a number of seconds", Exit.USAGE)
    return seconds


def flow_line(report: dict[str, Any]) -> str:
    """Return one line with the counters of the flow."""
    flow = report["flow"]
    policies = ", ".join(
        f"{name} v{policy['version']}{' acting' if policy['acting'] else ''}"
        for name, policy in flow["policies"].items()
    )
    return (
        f"{report['state']}: {flow['consumed']:,} messages in, {flow['published']:,} published, "
        f"{flow['dead_lettered']:,} dead-lettered; {flow['experience']:,} experience records; "
        f"{policies}"
    )


def _accounted(flow: dict[str, Any]) -> int:
    return sum(
        int(flow[key]) for key in ("published", "dead_lettered", "dropped", "conflated", "skipped")
    )


def _settled(report: dict[str, Any]) -> bool:
    """Whether every message that was sent has been consumed and accounted for."""
    flow = report["flow"]
    return bool(flow["consumed"] == _accounted(flow) and flow["consumed"] >= flow["produced"])


def missing(
    report: dict[str, Any], before: dict[str, Any], feeder: dict[str, Any]
) -> Iterator[str]:
    """Return one line for each part of the loop that did not work.

    Args:
        report: The report at the end.
        before: The flow of an earlier report.
        feeder: The status of the feeder.
    """
    flow = report["flow"]
    if flow["consumed"] == 0:
        yield "no message was consumed; see the logs of replayer and ingest"
    if flow["consumed"] != _accounted(flow):
        yield f"{flow['consumed']:,} messages in, but {_accounted(flow):,} accounted for"
    broker = [w for w in report["workers"] if w["kind"] == "broker"]
    broker_kept_running = all(worker["restarts"] == 0 for worker in broker)
    if broker_kept_running and flow["consumed"] < flow["produced"]:
        yield f"{flow['produced']:,} messages were sent, but {flow['consumed']:,} were consumed"
    if flow["experience"] <= before["experience"]:
        yield "no new experience was recorded"
    for name, policy in flow["policies"].items():
        if policy["version"] == 0:
            yield f"{name} published no policy"
    if not flow["policies"]:
        yield "there is no trainer with a status"
    acting = flow["policies"].get(feeder.get("acting_trainer", ""), {"version": 0})
    if not 0 < feeder.get("acting_version", 0) <= acting["version"]:
        yield "the feeder does not act with a published policy"
