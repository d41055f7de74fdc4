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
from typing import TYPE_CHECKING, cast

import msgspec
from setproctitle import setproctitle

from config import EXIT_CONFIGURATION, ConfigProblems, Settings, load_settings
from mesh import LeaseHeld, Mesh, MeshError, ProcessIdentity, SegmentMissing
from mesh.control import SOCKET, ControlReply, ControlRequest
from workers.contract.statuses import SupervisorStatus
from workers.runtime.logging import configure_logging, limit_output
from workers.runtime.systemd import Systemd, sd_notify
from workers.supervision.adoption import (
    STATUS_BYTES,
    claim_events,
    claim_status,
    find_lost_segment,
    open_heartbeats,
    shortened,
)
from workers.supervision.config_diff import changes, fixed_fault
from workers.supervision.control_server import ControlServer
from workers.supervision.event_log import EventLog
from workers.supervision.executor import WorkerExecutor
from workers.supervision.fd_budget import raise_limit
from workers.supervision.fork_server import become_subreaper
from workers.supervision.safe_state import why_unsafe
from workers.supervision.spawn import end_children, end_strays
from workers.supervision.state_machine import ALIVE, Event, State
from workers.supervision.unmanaged_processes import UnmanagedProcesses
from workers.supervision.upgrade import Upgrade, execute, take_signals

gc.enable()

if TYPE_CHECKING:
    from config.worker_spec import WorkerSpec
    from workers.supervision.managed_worker import ManagedWorker

__all__ = ["Supervisor", "main", "sd_notify"]

EXIT_USAGE = 64  # EX_USAGE
EXIT_HELD = 75  # EX_TEMPFAIL: another daemon has the mesh
EXIT_MESH = 73  # EX_CANTCREAT
SAFETY_LOOK_S = 0.5
MESH_LOOK_S = 2.0  # between two looks whether the mesh is still ours
FAULT_CHARACTERS = 8000
CHILDREN_S = 5.0  # for the end of fork servers, at the daemon's own
PUBLISH_S = 0.5  # at the latest: what is no transition (memory, a flood of lines) is told by then

#: What a request asks of each worker that it names.
_EVENTS = {"start": Event.START, "stop": Event.STOP, "restart": Event.RESTART, "reset": Event.RESET}


class Supervisor:
    """The loop and its wiring; deciding is in pure modules, performing in the fleet."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], float] = time.monotonic,
        profile: str = "",
        load: Callable[[], Settings] | None = None,
    ) -> None:
        """Take the mesh (LeaseHeld while another daemon has it) and adopt what runs on it.

        `load` reads the configuration again when that is asked for (SIGHUP).
        """
        self.settings = settings
        self.clock = clock
        self.load = load if load is not None else lambda: settings
        self.mesh = Mesh(settings.mesh.path, mode=settings.mesh.permissions)
        self.manager = Systemd()
        faults: list[str] = []
        self.status, told = claim_status(self.mesh, faults)
        self.run_directory = settings.run_directory.resolve()
        self.logs = settings.logging.directory or self.run_directory / "logs"
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # workers run without
            faults.append(f"no logs: {error}")
        self.mesh.sweep()
        limits = settings.supervisor
        self.heartbeats = open_heartbeats(self.mesh, limits.rows, faults)
        events = claim_events(self.mesh, limits.events, faults)
        self.event_log = EventLog(
            events,
            limits.incidents,
            lambda: configure_logging(settings.logging, worker="supervisor", pid=os.getpid()),
        )
        self.selector = selectors.DefaultSelector()
        self.upgrade: Upgrade | None = None
        self.was_ready = False
        self.lost = ""  # why the mesh is ours no more
        self.safety_at = self.mesh_at = self.publish_at = 0.0
        self.late_at = clock() + limits.ready_timeout_s
        self.published = b""
        me = ProcessIdentity.current()
        self.me = me
        self.now_status = SupervisorStatus(
            me.pid,
            me.start_time,
            time.time(),
            "",
            profile,
            "starting",
            control=str(settings.mesh.path / SOCKET),
            logs=str(self.logs),
            configuration=settings.fingerprint(),
        )
        become_subreaper()
        self.executor = WorkerExecutor(
            settings,
            self.mesh,
            self.heartbeats,
            self.event_log,
            self.selector,
            self.logs,
            clock,
            time.time,
        )
        self.unmanaged = UnmanagedProcesses(self.mesh, self._emit_event)
        self._take_over(told)
        self.server = ControlServer(
            settings.mesh.path, self.selector, limits, self.handle, self.clock
        )
        for fault in faults + self.server.faults:
            self._emit_event("fault", "warning", fault)

    def _take_over(self, told: SupervisorStatus | None) -> None:
        """Go on where an earlier daemon, or this one before an upgrade, was interrupted."""
        if told is None:
            self.executor.adopt([])
            return
        self.event_log.take_over(told.incidents, self.executor.workers)
        self.was_ready = told.ready and told.pid == self.me.pid
        self.now_status.rolling = dict(told.rolling)
        if told.pid == self.me.pid:
            self.now_status.since = told.since
        self.executor.adopt(told.workers)
        # After an upgrade the earlier program's fork servers are still our children: end them.
        end_strays(self.executor.pids(), self.executor.fork_servers.groups())

    # --- the loop -------------------------------------------------------------------------

    def run(self) -> int:
        """Live until an orderly stop; gives the exit code."""
        wake, poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(wake, selectors.EVENT_READ, self._drain_signals)
        signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
            signal.signal(number, _note)
        take_signals()
        self._emit_event("started", "info", f"daemon pid {os.getpid()}")
        self._publish(self.clock())  # what was adopted is told first; logging may be loaded then
        self.event_log.flush()
        self.executor.start_what_is_free()
        self._publish(self.clock())
        self._replace(version=_version())
        try:
            while not (self.executor.stopping and self.executor.ended()):
                self._turn()
        finally:
            self.event_log.flush()
            signal.set_wakeup_fd(-1)
        self._close()
        if self.lost:
            raise SegmentMissing(f"the mesh was damaged or taken away meanwhile: {self.lost}")
        return 0

    def _turn(self) -> None:
        happened = self.selector.select(self.executor.next_check_s(self.clock()))
        for key, _ in happened:
            if self.selector.get_map().get(key.fd) is key:  # an earlier one may have ended it
                key.data(key.fileobj)
        now = self.clock()
        self.executor.watch(now)
        self.executor.timers(now)
        self.executor.fork_servers.maintain()
        self._roll()
        self.executor.start_what_is_free()
        self.executor.catch_up()
        self.event_log.flush()
        self._look_around(now)
        self.server.tend(now)
        if happened or self.executor.changed or now >= self.publish_at:
            self._publish(now)
        self.manager.feed(now)
        if self.upgrade is not None and self.upgrade.finished(now) and not self.executor.stopping:
            self._upgrade_or_not()

    def _drain_signals(self, fd: object) -> None:
        for number in set(os.read(cast("int", fd), 512)):
            if number == signal.SIGCHLD:
                for pid in end_strays(self.executor.pids(), self.executor.fork_servers.groups()):
                    self._emit_event(
                        "strays", "warning", f"killed pid {pid}, which left its worker"
                    )
            elif number == signal.SIGHUP:
                self.reload()
            elif not self.executor.stopping:
                self.shutdown()

    def _look_around(self, now: float) -> None:
        """What may wait a little: processes that are not ours, and whether acting is safe."""
        own = {w.identity for w in self.executor.workers.values() if w.identity} | {self.me}
        self.unmanaged.look(self.executor.rows(), own, now)
        if now < self.safety_at:
            return
        self.safety_at = now + SAFETY_LOOK_S
        if now >= self.mesh_at and not self.executor.stopping:
            self.mesh_at = now + MESH_LOOK_S
            if lost := find_lost_segment(self.mesh, (self.status, self.heartbeats)):
                self.lost = lost
                self._emit_event("mesh lost", "error", f"everything is stopped: {lost}")
                self.shutdown()
        workers = self.executor.workers.values()
        acting = ""
        if any(worker.spec.role == "policy" for worker in workers):
            said = (self.executor.read_status(worker.name) for worker in workers)
            acting = next(filter(None, (str(word.get("acting_trainer", "")) for word in said)), "")
        unsafe = why_unsafe(workers, acting, self.settings.supervisor, now)
        if bool(unsafe) != bool(self.now_status.safe_state):
            self._emit_event("safe state", "error" if unsafe else "info", unsafe or "acting again")
        self._replace(safe_state=unsafe)

    def _publish(self, now: float) -> None:
        """Say how everything is, where that changed."""
        self.executor.changed = False
        self.publish_at = now + PUBLISH_S
        workers = self.executor.workers.values()
        required = [w for w in workers if w.spec.required]
        running = sum(w.state is State.RUNNING for w in required)
        self.was_ready = self.was_ready or running == len(required)
        state = "starting"
        if self.was_ready:
            state = "healthy" if running == len(required) else "degraded"
        elif now >= self.late_at:
            state = "degraded"
            if self.now_status.state == "starting":
                limit = self.settings.supervisor.ready_timeout_s
                self._emit_event(
                    "not ready", "error", f"required workers do not run after {limit:g} s"
                )
        if self.executor.stopping:
            state = "stopping"
        self._replace(
            workers=[worker.status() for worker in workers],
            incidents=list(self.event_log.incidents),
            foreign=self.unmanaged.statuses(),
            state=state,
            ready=self.was_ready,
        )
        self.manager.status(f"{state}: {running} of {len(required)} required workers run")
        if self.was_ready:
            self.manager.ready()

    def _replace(self, **fields: object) -> None:
        """Publish a status with these fields; nothing happens where they are the same."""
        new = msgspec.structs.replace(self.now_status, **fields)
        encoded = msgspec.msgpack.encode(new)
        if encoded != self.published:
            self.published = encoded
            self.now_status = new
            self.status.write(new if len(encoded) <= STATUS_BYTES else shortened(new))

    def _emit_event(self, kind: str, severity: str, text: str) -> None:
        self.event_log.emit(kind, severity, text=text)

    # --- planned changes ------------------------------------------------------------------

    def shutdown(self) -> None:
        """Begin the orderly end: dependants first."""
        self.executor.stopping = True
        self._emit_event("stopping", "info", "")
        self.manager.stopping()

    def reload(self) -> None:
        """Take a changed configuration: changed workers start again, others are untouched.

        A configuration that is not valid changes nothing, and is told.
        """
        self.manager.reloading()
        try:
            new = self.load()
            fault = fixed_fault(self.settings, new)
        except ConfigProblems as error:
            new, fault = self.settings, str(error)
        self._replace(reload_error=fault[:FAULT_CHARACTERS])
        if fault:
            self._emit_event("reload refused", "error", fault)
            return
        todo = changes(self.settings, new)
        specs = {spec.name: spec for spec in new.workers}
        self.settings = self.executor.settings = new
        self.executor.fork_servers.rebuild(new)
        for name in todo.removed:
            self.executor.workers[name].leaving = True
        for name in todo.added:
            self._add(specs[name])
        for name, worker in self.executor.workers.items():
            worker.spec = specs.get(name, worker.spec)
            if name in todo.changed:
                worker.reason = "its configuration changed"
                self.executor.apply(worker, Event.RESTART)
        self.executor.fingerprint = new.fingerprint()
        self._replace(configuration=self.executor.fingerprint)
        self._emit_event(
            "reloaded",
            "info",
            f"added {list(todo.added)}, removed {list(todo.removed)}, changed {list(todo.changed)}",
        )

    def _add(self, spec: WorkerSpec) -> None:
        """Track a worker; one that was removed a moment ago and still ends is wanted again."""
        worker = self.executor.workers.get(spec.name)
        if worker is None:
            worker = self.executor.add(spec)
        worker.spec, worker.leaving = spec, False
        self.executor.apply(worker, Event.RESTART)

    def _upgrade_or_not(self) -> None:
        """The new program was asked to check itself: become it, or tell why not."""
        assert self.upgrade is not None  # noqa: S101 - for the type checker: the caller looked
        fault = self.upgrade.fault()
        self.upgrade = None
        self.executor.others.clear()
        self._replace(reload_error=fault)
        if fault:
            self._emit_event("upgrade refused", "error", fault)
            self.manager.ready()
            return
        self._emit_event("upgrading", "info", f"from version {self.now_status.version}")
        self.event_log.flush()
        execute()

    def _roll(self) -> None:
        """Rolling restart: one worker after the other, each once the last one runs again."""
        for name, old in list(self.now_status.rolling.items()):
            worker = self.executor.workers.get(name)
            if worker is None or worker.state in {State.STOPPED, State.QUARANTINED}:
                self._emit_event("rolling restart", "error", f"ended at {name}, which does not run")
                self._replace(rolling={})
                return
            if worker.state is State.RUNNING and worker.generation == old:
                worker.reason = "rolling restart"
                self.executor.apply(worker, Event.RESTART)
            if worker.state is not State.RUNNING:
                return
            left = {n: g for n, g in self.now_status.rolling.items() if n != name}
            self._replace(rolling=left)

    # --- control --------------------------------------------------------------------------

    def handle(self, request: ControlRequest) -> ControlReply:
        """Carry out one request; an unknown worker or command is an answer, not an error."""
        daemon = {
            "ping": self._ping,
            "shutdown": self._asked_to_stop,
            "reload": self._asked_to_reload,
            "upgrade": self._asked_to_upgrade,
        }
        if request.command in daemon:
            return daemon[request.command]()
        if request.command == "break-lock":
            ok, text = self.unmanaged.break_lock(request.worker)
            return ControlReply(ok=ok, text=text)
        if request.command not in _EVENTS:
            known = ", ".join([*_EVENTS, "break-lock", *daemon])
            return _no(f"no command {request.command!r}; there are {known}")
        workers = self.executor.workers
        named = [w for w in workers.values() if request.worker in {w.name, w.spec.group}]
        if not request.worker or not named:
            return _no(f"no worker {request.worker!r}; there are {', '.join(workers)}")
        if request.command == "restart" and len(named) > 1:
            return self._asked_to_roll(named)
        return self._asked(request.command, named)

    def _asked(self, command: str, named: Sequence[ManagedWorker]) -> ControlReply:
        told = []
        for worker in named:
            if command == "restart" and worker.state is State.QUARANTINED:
                return _no(f"{worker.name} is quarantined ({worker.reason}); reset it")
            if command == "reset":
                worker.deaths.clear()
            before = worker.state
            worker.reason = f"{command} was asked for" if command != "start" else worker.reason
            self.executor.apply(worker, _EVENTS[command])
            told.append(f"{worker.name}: {before} -> {worker.state}")
        return ControlReply(ok=True, text="; ".join(told))

    def _asked_to_roll(self, named: Sequence[ManagedWorker]) -> ControlReply:
        self._replace(rolling={w.name: w.generation for w in named if w.state in ALIVE})
        names = ", ".join(self.now_status.rolling)
        return ControlReply(ok=True, text=f"restarting one after the other: {names}")

    def _ping(self) -> ControlReply:
        status = self.now_status
        return ControlReply(ok=True, text=f"{status.version}, pid {status.pid}, {status.state}")

    def _asked_to_stop(self) -> ControlReply:
        self.shutdown()
        return ControlReply(ok=True, text="stopping")

    def _asked_to_reload(self) -> ControlReply:
        self.reload()
        fault = self.now_status.reload_error
        return _no(fault) if fault else ControlReply(ok=True, text="reloaded")

    def _asked_to_upgrade(self) -> ControlReply:
        if self.upgrade is None:
            try:
                self.upgrade = Upgrade(self.selector, self.clock())
            except OSError as error:
                return _no(f"the new program cannot be checked now: {error}")
            self.manager.reloading()
            self.executor.others.add(self.upgrade.pid)
        return ControlReply(ok=True, text="the new program is checked, and taken if it starts")

    def _close(self) -> None:
        self._emit_event("ended", "info", "")
        self.executor.fork_servers.close()
        end_children(CHILDREN_S)
        self.event_log.flush()
        self._replace(state="down")
        self.server.close()
        self.selector.close()
        if self.settings.supervisor.remove_at_stop and not self.lost:
            shutil.rmtree(self.settings.mesh.path)


def _note(_number: int, _frame: object) -> None:
    """Signals arrive through the wake-up descriptor; the handler only has to exist."""


def _version() -> str:
    from importlib import metadata  # noqa: PLC0415 - slow to import, and nothing waits for it

    return metadata.version("tradingmesh")


def _no(text: str) -> ControlReply:
    return ControlReply(ok=False, text=text)


def main(argv: Sequence[str] | None = None) -> int:
    """Run `meshd`; gives its exit code.

    0; 64 usage; 73 mesh; 75 second daemon; 78 configuration.
    """
    parser = argparse.ArgumentParser(prog="meshd", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--profile", default=None, help="shipped name or TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--check", action="store_true", help="say what would be started, and end")
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
    gc.freeze()  # what was loaded stays: no collection looks at it again, here or after a fork
    faulthandler.enable(2)  # the watchdog's SIGABRT shows where the loop hung
    try:
        return Supervisor(settings, profile=str(arguments.profile or ""), load=load).run()
    except LeaseHeld as error:
        sys.stderr.write(f"meshd: another daemon runs on this mesh: {error}\n")
        return EXIT_HELD
    except (MeshError, OSError) as error:
        sys.stderr.write(f"meshd: {error}\n")
        return EXIT_MESH


if __name__ == "__main__":
    sys.exit(main())
