"""The daemon: forks the workers, watches them through shared memory, heals what dies.

One thread, and never another: it forks. The loop turns everything that happens (exits by pidfd,
signals, timers, heartbeats, requests) into events of one table
(`workers/supervision/state_machine.py`), whose actions `workers/supervision/executor.py` performs.
It may be killed at any time: the workers run on, and the next daemon, or the same one after an
upgrade, adopts them from the mesh by pid, start time and pidfd (I7).
"""

# ruff: noqa: E402 - no collection while modules are loaded: workers wait for the next daemon
from __future__ import annotations

import gc

gc.disable()

import argparse
import faulthandler
import os
import selectors
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import cast

from setproctitle import setproctitle

from config import EXIT_CONFIGURATION, ConfigProblems, Settings, load_settings
from mesh import LeaseHeld, MeshError, ProcessIdentity, SegmentMissing
from mesh.control import ControlReply, ControlRequest
from workers.runtime.logging import limit_output
from workers.runtime.systemd import Systemd, sd_notify
from workers.supervision.config_diff import changes, fixed_fault
from workers.supervision.daemon_parts import Parts, open_parts
from workers.supervision.daemon_segments import find_lost_segment
from workers.supervision.fd_budget import raise_limit
from workers.supervision.safe_state import why_unsafe
from workers.supervision.spawn import end_children
from workers.supervision.state_machine import State
from workers.supervision.upgrade import Upgrade, execute, release_signals
from workers.supervision.worker_requests import answer_worker_request, refusal
from workers.supervision.worker_status import acting_trainer

gc.enable()

__all__ = ["Supervisor", "main", "sd_notify"]

EXIT_USAGE = 64  # EX_USAGE
EXIT_HELD = 75  # EX_TEMPFAIL: another daemon has the mesh
EXIT_MESH = 73  # EX_CANTCREAT
SAFETY_CHECK_INTERVAL_S = 0.5
MESH_CHECK_INTERVAL_S = 2.0  # whether the mesh is still ours
FAULT_CHARACTERS = 8000
END_CHILDREN_S = 5.0  # patience with the fork servers at the daemon's own end
PUBLISH_INTERVAL_S = 0.5  # of what changes without a transition: memory, a flood of output


class Supervisor:
    """The loop; deciding is in pure modules, performing in the executor."""

    def __init__(
        self,
        settings: Settings,
        parts: Parts,
        *,
        clock: Callable[[], float],
        load: Callable[[], Settings],
    ) -> None:
        """Keep the parts; `Supervisor.open` makes them.

        Args:
            settings: The configuration in force.
            parts: Opened on its mesh, with the workers of an earlier daemon adopted.
            clock: Monotonic seconds.
            load: Reads the configuration again when a reload is asked for.
        """
        self.settings = settings
        self.parts = parts
        self.executor = parts.executor
        self.clock = clock
        self._load = load
        self._was_ready = parts.was_ready
        self._manager = Systemd()
        self._upgrade: Upgrade | None = None
        self._lost = ""  # why the mesh is no longer ours
        self._safety_at = self._mesh_at = self._publish_at = 0.0
        self._ready_deadline = clock() + settings.supervisor.ready_timeout_s

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        profile: str = "",
        load: Callable[[], Settings] | None = None,
    ) -> Supervisor:
        """Take the mesh, adopt the workers that run on it, and return the complete daemon.

        Args:
            settings: The configuration.
            clock: Monotonic seconds.
            profile: Name of the profile, for the status.
            load: Reads the configuration again for a reload.
        """
        parts = open_parts(settings, clock, profile)
        return cls(settings, parts, clock=clock, load=load or (lambda: settings))

    # --- the loop -------------------------------------------------------------------------

    def run(self) -> int:
        """Live until an orderly stop.

        Returns:
            The exit code.

        Raises:
            SegmentMissing: The mesh was damaged or removed meanwhile.
        """
        parts = self.parts
        wake, poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        parts.selector.register(wake, selectors.EVENT_READ, self._drain_signals)
        signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _ignore)
        release_signals()
        parts.server.serve(self.handle)
        self._emit_event("started", "info", f"daemon pid {os.getpid()}")
        self._publish(self.clock())  # adopted workers are shown before logging is loaded
        parts.event_log.flush()
        self.executor.start_ready()
        self._publish(self.clock())
        parts.status.replace(version=_version())
        try:
            while not (self.executor.stopping and self.executor.ended()):
                self._turn()
        finally:
            parts.event_log.flush()
            signal.set_wakeup_fd(-1)
        self._close()
        if self._lost:
            raise SegmentMissing(f"the mesh was damaged or taken away meanwhile: {self._lost}")
        return 0

    def _turn(self) -> None:
        parts, executor, workers = self.parts, self.executor, self.executor.workers
        limits = self.settings.supervisor
        selector = parts.selector
        wait = parts.watcher.next_check_s(workers.values(), limits, self.clock())
        happened = selector.select(wait)
        for key, _ in happened:
            if selector.get_map().get(key.fd) is key:  # an earlier one may have ended it
                key.data(key.fileobj)
        now = self.clock()
        for observation in parts.watcher.observe(workers.values(), limits, now):
            executor.observe(observation)
        for name, size in parts.logs.rotate(now):
            executor.output_flooded(name, size)
        for worker, timer in parts.watcher.expired(workers.values(), now):
            executor.expire(worker, timer, now)
        parts.fork_servers.maintain()
        if parts.rolling.advance():
            parts.status.replace(rolling=dict(parts.rolling.remaining))
        executor.start_ready()
        parts.reports.write_deferred()
        parts.event_log.flush()
        self._check_surroundings(now)
        parts.server.maintain(now)
        if executor.take_changed() or happened or now >= self._publish_at:
            self._publish(now)
        self._manager.feed(now)
        if self._upgrade is not None and self._upgrade.finished(now) and not executor.stopping:
            self._finish_upgrade(self._upgrade)

    def _drain_signals(self, fd: object) -> None:
        for number in set(os.read(cast("int", fd), 512)):
            if number == signal.SIGCHLD:
                self.executor.end_strays()
            elif number == signal.SIGHUP:
                self.reload()
            elif not self.executor.stopping:
                self.shutdown()

    def _check_surroundings(self, now: float) -> None:
        """Check what may wait a little: unmanaged processes, the mesh itself, the safe state."""
        parts, executor = self.parts, self.executor
        own = executor.identities() | {ProcessIdentity.current()}
        parts.unmanaged.scan(parts.watcher.rows.values(), own, now)
        if now < self._safety_at:
            return
        self._safety_at = now + SAFETY_CHECK_INTERVAL_S
        if now >= self._mesh_at and not executor.stopping:
            self._mesh_at = now + MESH_CHECK_INTERVAL_S
            if lost := find_lost_segment(parts.mesh, parts.segments):
                self._lost = lost
                self._emit_event("mesh lost", "error", f"everything is stopped: {lost}")
                self.shutdown()
        workers = executor.workers.values()
        acting = acting_trainer(parts.mesh, workers)
        unsafe = why_unsafe(workers, acting, self.settings.supervisor, now)
        if bool(unsafe) != bool(parts.status.current.safe_state):
            severity = "error" if unsafe else "info"
            self._emit_event("safe state", severity, unsafe or "acting again")
        parts.status.replace(safe_state=unsafe)

    def _publish(self, now: float) -> None:
        """Publish the state of everything, where it changed."""
        parts = self.parts
        self._publish_at = now + PUBLISH_INTERVAL_S
        workers = self.executor.workers.values()
        required = [w for w in workers if w.spec.required]
        running = sum(w.state is State.RUNNING for w in required)
        self._was_ready = self._was_ready or running == len(required)
        state = "starting"
        if self._was_ready:
            state = "healthy" if running == len(required) else "degraded"
        elif now >= self._ready_deadline:
            state = "degraded"
            if parts.status.current.state == "starting":
                limit = self.settings.supervisor.ready_timeout_s
                text = f"required workers do not run after {limit:g} s"
                self._emit_event("not ready", "error", text)
        if self.executor.stopping:
            state = "stopping"
        parts.status.replace(
            workers=[worker.status() for worker in workers],
            incidents=list(parts.event_log.incidents),
            unmanaged=parts.unmanaged.statuses(),
            rolling=dict(parts.rolling.remaining),
            state=state,
            ready=self._was_ready,
        )
        self._manager.status(f"{state}: {running} of {len(required)} required workers run")
        if self._was_ready:
            self._manager.ready()

    def _emit_event(self, kind: str, severity: str, text: str) -> None:
        self.parts.event_log.emit(kind, severity, text)

    # --- planned changes ------------------------------------------------------------------

    def shutdown(self) -> None:
        """Begin the orderly end: dependants first."""
        self.executor.stop_all()
        self._emit_event("stopping", "info", "")
        self._manager.stopping()

    def reload(self) -> None:
        """Put a changed configuration into force: changed workers are restarted, others left alone.

        An invalid configuration changes nothing; the status and an event say why.
        """
        self._manager.reloading()
        try:
            new = self._load()
            fault = fixed_fault(self.settings, new)
        except ConfigProblems as error:
            new, fault = self.settings, str(error)
        self.parts.status.replace(reload_error=fault[:FAULT_CHARACTERS])
        if fault:
            self._emit_event("reload refused", "error", fault)
            return
        todo = changes(self.settings, new)
        self.settings = new
        self.executor.reconfigure(new, todo)
        self.parts.status.replace(configuration=new.fingerprint())
        self._emit_event(
            "reloaded",
            "info",
            f"added {list(todo.added)}, removed {list(todo.removed)}, changed {list(todo.changed)}",
        )

    def _finish_upgrade(self, upgrade: Upgrade) -> None:
        """The new program has checked itself: become it, or report why not."""
        fault = upgrade.fault()
        self._upgrade = None
        self.executor.remove_child(upgrade.pid)
        self.parts.status.replace(reload_error=fault)
        if fault:
            self._emit_event("upgrade refused", "error", fault)
            self._manager.ready()
            return
        version = self.parts.status.current.version
        self._emit_event("upgrading", "info", f"from version {version}")
        self.parts.event_log.flush()
        execute()

    # --- control --------------------------------------------------------------------------

    def handle(self, request: ControlRequest) -> ControlReply:
        """Carry out one request; an unknown worker or command is an answer, not an error."""
        commands = {
            "ping": self._ping,
            "shutdown": self._request_shutdown,
            "reload": self._request_reload,
            "upgrade": self._request_upgrade,
        }
        if request.command in commands:
            return commands[request.command]()
        parts = self.parts
        return answer_worker_request(
            request, parts.executor, parts.rolling, parts.unmanaged, commands
        )

    def _ping(self) -> ControlReply:
        status = self.parts.status.current
        return ControlReply(ok=True, text=f"{status.version}, pid {status.pid}, {status.state}")

    def _request_shutdown(self) -> ControlReply:
        self.shutdown()
        return ControlReply(ok=True, text="stopping")

    def _request_reload(self) -> ControlReply:
        self.reload()
        fault = self.parts.status.current.reload_error
        return refusal(fault) if fault else ControlReply(ok=True, text="reloaded")

    def _request_upgrade(self) -> ControlReply:
        if self._upgrade is None:
            try:
                self._upgrade = Upgrade(self.parts.selector, self.clock())
            except OSError as error:
                return refusal(f"the new program cannot be checked now: {error}")
            self._manager.reloading()
            self.executor.add_child(self._upgrade.pid)
        return ControlReply(ok=True, text="the new program is checked, and taken if it starts")

    def _close(self) -> None:
        parts = self.parts
        self._emit_event("ended", "info", "")
        parts.fork_servers.close()
        end_children(END_CHILDREN_S)
        parts.event_log.flush()
        parts.status.replace(state="down")
        parts.server.close()
        parts.selector.close()
        if self.settings.supervisor.remove_at_stop and not self._lost:
            shutil.rmtree(self.settings.mesh.path)


def _ignore(_number: int, _frame: object) -> None:
    """Signals arrive through the wake-up descriptor; the handler only has to exist."""


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 - slow to import, and nothing waits for it

    return metadata.version("tradingmesh")


def main(argv: Sequence[str] | None = None) -> int:
    """Run `meshd`.

    Returns:
        The exit code: 0; 64 usage; 73 mesh; 75 second daemon; 78 configuration.
    """
    parser = argparse.ArgumentParser(prog="meshd", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--profile", default=None, help="shipped name or TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--check", action="store_true", help="print what would be started, and end")
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as ended:  # argparse's 2 for wrong usage means "down" among our codes
        return EXIT_USAGE if ended.code else 0

    def load() -> Settings:
        return load_settings(arguments.profile, arguments.set)

    try:
        settings = load()
    except ConfigProblems as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    if arguments.check:
        for spec in settings.workers:
            needs = f" after {', '.join(spec.depends_on)}" if spec.depends_on else ""
            sys.stdout.write(f"{spec.name}: {spec.worker}{needs}\n")
        return 0
    setproctitle("tradingmesh: meshd")
    raise_limit()
    limit_output(settings.logging)
    gc.freeze()  # what was loaded stays: collections skip it, here and after a fork
    faulthandler.enable(2)  # the watchdog's SIGABRT shows where the loop hung
    try:
        profile = str(arguments.profile or "")
        return Supervisor.open(settings, profile=profile, load=load).run()
    except LeaseHeld as error:
        sys.stderr.write(f"meshd: another daemon runs on this mesh: {error}\n")
        return EXIT_HELD
    except (MeshError, OSError) as error:
        sys.stderr.write(f"meshd: {error}\n")
        return EXIT_MESH


if __name__ == "__main__":
    sys.exit(main())
