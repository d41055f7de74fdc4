"""The daemon: forks the workers, watches them through shared memory, heals what dies.

One thread, and never another: it forks. The loop turns everything that happens (exits by pidfd,
signals, timers, heartbeats, requests) into events of one table (`workers/lifecycle.py`) and
performs the actions the table names. It may be killed at any time: the workers run on, and the
next daemon adopts them from the mesh by pid, start time and pidfd (I7).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import selectors
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import cast

import msgspec
import numpy as np
from setproctitle import setproctitle

from config import EXIT_CONFIGURATION, ConfigProblems, Settings, load_settings
from mesh import LeaseHeld, Mesh, MeshError, ProcessIdentity
from mesh.control import MAX_BYTES, SOCKET, ControlReply, ControlRequest, listen, peer
from workers.crash_report import reported_error, stack_file, write_report
from workers.lifecycle import ALIVE, Action, Event, State, transition
from workers.liveness import processor_of
from workers.log import configure_logging
from workers.nursery import Nurseries, adopt_orphans
from workers.records import (
    EVENT_DTYPE,
    EVENTS,
    SUPERVISOR,
    Incident,
    SupervisorStatus,
)
from workers.restart_policy import Death, Quarantine, decide
from workers.spawn import reap_strangers, spawn, told
from workers.tracked import NEVER, Tracked

EXIT_HELD = 75  # EX_TEMPFAIL: another daemon has the mesh
EXIT_MESH = 73  # EX_CANTCREAT
STATUS_BYTES = 1 << 17
FAREWELL_S = 0.05  # for the stack dump of a hung worker
STARTING_LOOK_S = 0.005  # between two looks for the readiness of a worker that starts


class Supervisor:
    """The loop and what it performs; the deciding is in pure modules."""

    def __init__(
        self, settings: Settings, *, clock: Callable[[], float] = time.monotonic, profile: str = ""
    ) -> None:
        """Take the mesh (LeaseHeld while another daemon has it) and adopt what runs on it."""
        self.settings = settings
        self.clock = clock
        self.log = configure_logging(settings.logging, worker="supervisor", pid=os.getpid())
        self.mesh = Mesh(settings.mesh.path, mode=settings.mesh.permissions)
        self.status = self.mesh.cell(
            SUPERVISOR, SupervisorStatus, create=True, max_bytes=STATUS_BYTES
        )
        self.run_directory = settings.run_directory.resolve()
        self.logs = settings.logging.directory or self.run_directory / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.mesh.sweep()
        self.hearts = self.mesh.heartbeats(create=True, rows=settings.supervisor.rows)
        self.events = self.mesh.ring(
            EVENTS, EVENT_DTYPE, capacity=settings.supervisor.events, create=True
        )
        self.selector = selectors.DefaultSelector()
        self.server = listen(settings.mesh.path)
        self.selector.register(self.server, selectors.EVENT_READ, self._accept)
        self.incidents: list[Incident] = []
        self.stopping = False
        self.was_ready = False
        me = ProcessIdentity.current()
        self.now_status = SupervisorStatus(
            me.pid,
            me.start_time,
            time.time(),
            metadata.version("tradingmesh"),
            profile,
            "starting",
            control=str(settings.mesh.path / SOCKET),
            logs=str(self.logs),
        )
        self.workers = {s.name: Tracked(s, time.time()) for s in settings.workers if s.enabled}
        self._adopt()
        adopt_orphans()
        self.nurseries = Nurseries(settings, self.selector, self.logs, clock)

    # --- the loop -------------------------------------------------------------------------

    def run(self) -> int:
        """Live until an orderly stop; gives the exit code."""
        wake, poke = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.selector.register(wake, selectors.EVENT_READ, self._drain_signals)
        signal.set_wakeup_fd(poke, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, _note)
        sd_notify("STATUS=starting workers")
        self.event("started", "info", text=f"daemon pid {os.getpid()}")
        try:
            while not self._finished():
                self._turn()
        finally:
            signal.set_wakeup_fd(-1)
        self._close()
        return 0

    def _turn(self) -> None:
        now = self.clock()
        due = min((min(w.deadline, w.kill_at) for w in self.workers.values()), default=now + 1)
        starting = any(w.state is State.STARTING for w in self.workers.values())
        look = STARTING_LOOK_S if starting else self.settings.supervisor.watch_interval_s
        timeout = max(0.0, min(due - now, look))
        for key, _ in self.selector.select(timeout):
            key.data(key.fileobj)
        now = self.clock()
        self._watch(now)
        self._timers(now)
        self.nurseries.tend()
        self._start_what_is_free()
        self._publish()

    def _finished(self) -> bool:
        return self.stopping and all(
            w.state in {State.STOPPED, State.QUARANTINED} for w in self.workers.values()
        )

    def _drain_signals(self, fd: object) -> None:
        for number in os.read(cast("int", fd), 512):
            if number == signal.SIGCHLD:
                tracked = {w.identity.pid for w in self.workers.values() if w.identity}
                reap_strangers(tracked | self.nurseries.pids())
            if number in {signal.SIGTERM, signal.SIGINT} and not self.stopping:
                self.shutdown()

    def shutdown(self) -> None:
        """Begin the orderly end: dependants first."""
        self.stopping = True
        self.event("stopping", "info")
        sd_notify("STOPPING=1")

    # --- what happens to workers ----------------------------------------------------------

    def apply(self, worker: Tracked, event: Event) -> None:
        """Move one worker through the table and perform what it says."""
        before = worker.state
        worker.state, action = transition(before, event)
        if worker.state is not before:
            worker.since_wall = time.time()
            worker.deadline = NEVER
        perform = {
            Action.SPAWN: self._spawn,
            Action.ANNOUNCE: self._announce,
            Action.TERMINATE: self._terminate,
            Action.KILL: self._kill,
            Action.HEAL: self._heal,
            Action.RELEASE: self._release,
            Action.ALARM: self._alarm,
        }
        if action is not Action.NOTHING:
            perform[action](worker)

    def _spawn(self, worker: Tracked) -> None:
        log = self.logs / f"{worker.name}.log"
        identity = self.nurseries.bear(worker.spec, log)
        if identity is None:
            identity = ProcessIdentity.of(spawn(worker.spec, self.settings, log))
        worker.ours = True
        worker.ready_at = NEVER
        self._track(worker, identity, os.pidfd_open(identity.pid))
        worker.deadline = self.clock() + worker.spec.start_deadline_s
        self.log.info("spawned", name=worker.name, child=identity.pid)

    def _track(self, worker: Tracked, identity: ProcessIdentity, pidfd: int) -> None:
        worker.identity, worker.pidfd = identity, pidfd
        worker.beats, worker.processor = -1, None
        worker.kill_at = NEVER
        self.selector.register(pidfd, selectors.EVENT_READ, lambda _fd: self._exited(worker))

    def _announce(self, worker: Tracked) -> None:
        worker.ready_at = self.clock()
        worker.reason = ""
        text = "ready"
        if worker.incident is not None:
            worker.incident.running_s = self.clock() - worker.died_at
            text = f"ready again after {worker.incident.running_s:.3f} s"
            worker.incident = None
        self.event("ready", "info", worker, text=text)

    def _terminate(self, worker: Tracked) -> None:
        worker.deadline = self.clock() + worker.spec.stop_grace_s
        self._signal(worker, signal.SIGTERM)

    def _kill(self, worker: Tracked) -> None:
        """Ask for the stacks, and kill a moment later; a stopped process cannot answer anyhow."""
        if worker.kill_at == NEVER:
            self._signal(worker, signal.SIGUSR2)
            worker.kill_at = self.clock() + FAREWELL_S
            worker.deadline = NEVER

    def _signal(self, worker: Tracked, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker.pidfd, number)

    def _exited(self, worker: Tracked) -> None:
        """Its pidfd became readable: the death is confirmed."""
        identity = worker.process()
        self.selector.unregister(worker.pidfd)
        os.close(worker.pidfd)
        how = "ended while adopted"
        if worker.ours:
            _, status = os.waitpid(identity.pid, 0)
            crashes = self.run_directory / "crashes"
            how = told(os.waitstatus_to_exitcode(status))
            how += reported_error(crashes, worker.name, identity.pid)
        worker.reason = worker.reason or how
        worker.died_at = self.clock()
        self.apply(worker, Event.EXITED)

    def _release(self, worker: Tracked) -> None:
        self.mesh.break_leases(worker.process())
        self.event("stopped", "info", worker, text=worker.reason)
        worker.identity = None
        if worker.start_again and not self.stopping:
            worker.start_again = False
            self.apply(worker, Event.START)

    def _heal(self, worker: Tracked) -> None:
        """Confirmed dead: free what it held, tell, and ask the policy when it comes back."""
        broken = self.mesh.break_leases(worker.process())
        locks = [n for n in broken if self.mesh.attach(n).info.kind == "lock"]
        now = self.clock()
        ready_s = max(0.0, now - worker.ready_at)
        worker.incident = Incident(
            worker.name,
            "hung" if worker.reason.startswith("hung") else "exited",
            time.time(),
            detected_s=self._detection_s(worker, now),
            evidence=worker.reason,
            locks_broken=locks,
            leases_broken=[n for n in broken if n not in locks],
        )
        self.incidents = [*self.incidents, worker.incident][-self.settings.supervisor.incidents :]
        self.event("died", "warning", worker, text=worker.reason)
        worker.deaths.append(Death(now, ready_s))
        worker.identity = None
        verdict = decide(worker.deaths, worker.spec.restart, now, random.random())  # noqa: S311 - jitter
        if isinstance(verdict, Quarantine):
            worker.reason = f"{worker.reason}; {verdict.reason}"
            self.apply(worker, Event.GIVE_UP)
            return
        worker.restarts += 1
        worker.deadline = now + verdict.delay_s

    def _detection_s(self, worker: Tracked, now: float) -> float:
        """Seconds from the last beat of a hung worker; an exit is seen at once."""
        if not worker.reason.startswith("hung"):
            return 0.0
        rows = [r for r in self.hearts.rows() if r.worker == worker.name]
        return now - rows[0].beat_ns / 1e9 if rows else 0.0

    def _alarm(self, worker: Tracked) -> None:
        self.event("quarantined", "error", worker, text=worker.reason)

    # --- watching -------------------------------------------------------------------------

    def _watch(self, now: float) -> None:
        """Turn heartbeats into events: a beat is the worker's word, a silence needs evidence."""
        rows = {row.worker: row for row in self.hearts.rows()}
        limits = self.settings.supervisor
        for worker in self.workers.values():
            row = rows.get(worker.name)
            if worker.state not in ALIVE or row is None or row.identity != worker.identity:
                continue
            if row.ready:
                self.apply(worker, Event.READY)
            if row.beats != worker.beats:
                worker.beats, worker.processor = row.beats, processor_of(row.pid)
            elif worker.state is State.RUNNING and worker.is_hung(row, limits, now):
                self.apply(worker, Event.HUNG)

    def _timers(self, now: float) -> None:
        for worker in self.workers.values():
            if worker.kill_at <= now:
                worker.kill_at = NEVER
                self._report(worker)
                self._signal(worker, signal.SIGKILL)
            if worker.deadline > now:
                continue
            worker.deadline = NEVER
            if worker.state is State.BACKOFF:
                self.apply(worker, Event.RETRY_DUE)
            else:
                if worker.state is State.STARTING:
                    worker.reason = f"not ready within {worker.spec.start_deadline_s:g} s"
                self.apply(worker, Event.DEADLINE)

    def _report(self, worker: Tracked) -> None:
        """Keep what is known about a worker that is about to be killed."""
        pid = worker.process().pid
        directory = self.run_directory / "crashes"
        stacks = stack_file(directory, worker.name, pid)
        rows = [r for r in self.hearts.rows() if r.worker == worker.name]
        content = {
            "kind": "killed",
            "reason": worker.reason,
            "heartbeat": [str(row) for row in rows],
            "stacks": stacks.read_text() if stacks.exists() else "",
        }
        stacks.unlink(missing_ok=True)
        write_report(directory, worker.name, pid, content)

    def _start_what_is_free(self) -> None:
        """Start what waits for nothing; while stopping, stop what nothing alive depends on."""
        for worker in self.workers.values():
            if self.stopping:
                dependants = [w for w in self.workers.values() if worker.name in w.spec.depends_on]
                if all(w.state not in ALIVE for w in dependants):
                    self.apply(worker, Event.STOP)
            elif worker.state is State.WAITING:
                needs = [self.workers[name] for name in worker.spec.depends_on]
                ready = all(w.state is State.RUNNING for w in needs)
                if ready and not self.nurseries.is_warming(worker.spec.nursery):
                    self.apply(worker, Event.START)

    def _adopt(self) -> None:
        """Take over the workers of a daemon that died: none lost, doubled or restarted."""
        for row in self.hearts.rows():
            worker = self.workers.get(row.worker)
            if worker is None or not row.identity.is_alive():
                continue
            pidfd = os.pidfd_open(row.pid)
            if not row.identity.is_alive():  # it ended (and its pid was reused) in between
                os.close(pidfd)
                continue
            worker.state = State.STARTING
            worker.deadline = self.clock() + worker.spec.start_deadline_s
            self._track(worker, row.identity, pidfd)
            if row.ready:
                self.apply(worker, Event.READY)
            self.event("adopted", "info", worker, text=str(row.identity))

    # --- what others see ------------------------------------------------------------------

    def event(
        self, kind: str, severity: str, worker: Tracked | None = None, *, text: str = ""
    ) -> None:
        """Publish one event and log it."""
        record = np.zeros(1, EVENT_DTYPE)
        record["ts"], record["kind"], record["severity"] = time.time_ns(), kind, severity
        record["text"] = text.encode()[:256].decode("utf-8", "ignore").encode()
        name = ""
        if worker is not None:
            name = worker.name
            record["worker"] = name
            record["pid"] = worker.identity.pid if worker.identity else 0
        self.events.publish(record)
        self.log.info(kind, name=name, text=text)

    def _publish(self) -> None:
        rows = [worker.status() for worker in self.workers.values()]
        required = [w for w in self.workers.values() if w.spec.required]
        running = all(w.state is State.RUNNING for w in required)
        ready = self.was_ready or running
        state = "stopping" if self.stopping else "healthy" if running else "degraded"
        if not ready and not self.stopping:
            state = "starting"
        new = msgspec.structs.replace(
            self.now_status, workers=rows, incidents=list(self.incidents), state=state, ready=ready
        )
        if new != self.now_status:
            self.now_status = new
            self.status.write(new)
            sd_notify(f"STATUS={state}: {sum(w.state is State.RUNNING for w in required)} of "
                      f"{len(required)} required workers run")  # fmt: skip
        if ready and not self.was_ready:
            sd_notify("READY=1")
        self.was_ready = ready
        sd_notify("WATCHDOG=1")

    # --- control --------------------------------------------------------------------------

    def _accept(self, server: object) -> None:
        """One request, one reply; who sends nothing or garbage at once is closed."""
        with contextlib.suppress(OSError):
            connection, _ = cast("socket.socket", server).accept()
            with connection:
                connection.settimeout(0.05)
                _, uid = peer(connection)
                try:
                    request = msgspec.msgpack.decode(
                        connection.recv(MAX_BYTES), type=ControlRequest
                    )
                except msgspec.DecodeError as error:
                    reply = ControlReply(ok=False, text=f"not a request: {error}")
                else:
                    reply = self.handle(request) if uid in {0, os.getuid()} else _refused(uid)
                connection.send(msgspec.msgpack.encode(reply))

    def handle(self, request: ControlRequest) -> ControlReply:
        """Carry out one request; an unknown worker or command is an answer, not an error."""
        if request.command == "shutdown":
            self.shutdown()
            return ControlReply(ok=True, text="stopping")
        worker = self.workers.get(request.worker)
        if worker is None:
            known = ", ".join(self.workers)
            return ControlReply(ok=False, text=f"no worker {request.worker!r}; there are {known}")
        events = {
            "start": [Event.START],
            "stop": [Event.STOP],
            "restart": [Event.STOP, Event.START],
            "reset": [Event.RESET],
        }
        if request.command not in events:
            return ControlReply(
                ok=False, text=f"no command {request.command!r}; there are {', '.join(events)}"
            )
        if request.command == "restart" and worker.state in ALIVE:
            worker.start_again = True
            self.apply(worker, Event.STOP)
            return ControlReply(ok=True, text=f"{request.worker}: restarting")
        if request.command == "reset":
            worker.deaths.clear()
        before = worker.state
        for event in events[request.command]:
            self.apply(worker, event)
        return ControlReply(ok=True, text=f"{request.worker}: {before} -> {worker.state}")

    def _close(self) -> None:
        self.event("ended", "info")
        self.nurseries.close()
        self.now_status.state = "down"
        self.status.write(self.now_status)
        self.server.close()
        (self.settings.mesh.path / SOCKET).unlink(missing_ok=True)
        self.selector.close()
        if self.settings.supervisor.remove_at_stop:
            shutil.rmtree(self.settings.mesh.path)


def _note(_number: int, _frame: object) -> None:
    """Signals arrive through the wake-up descriptor; the handler only has to exist."""


def _refused(uid: int) -> ControlReply:
    return ControlReply(ok=False, text=f"uid {uid} may not control this daemon")


def sd_notify(state: str) -> bool:
    """Tell the service manager (sd_notify(3)); False where there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")  # set by systemd, not a setting of ours
    if not address:
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.connect(f"\0{address[1:]}" if address.startswith("@") else address)
        notify.send(state.encode())
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Run `meshd`; gives its exit code (0, 73 mesh, 75 second daemon, 78 configuration)."""
    parser = argparse.ArgumentParser(prog="meshd", description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--profile", default=None, help="shipped name or TOML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--check", action="store_true", help="say what would be started, and end")
    arguments = parser.parse_args(argv)
    try:
        settings = load_settings(arguments.profile, arguments.set)
    except ConfigProblems as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIGURATION
    if arguments.check:
        for spec in settings.workers:
            needs = f" after {', '.join(spec.depends_on)}" if spec.depends_on else ""
            sys.stdout.write(f"{spec.name}: {spec.worker}{needs}\n")
        return 0
    setproctitle("tradingmesh: meshd")
    try:
        return Supervisor(settings, profile=str(arguments.profile or "")).run()
    except LeaseHeld as error:
        sys.stderr.write(f"meshd: another daemon runs on this mesh: {error}\n")
        return EXIT_HELD
    except (MeshError, OSError) as error:
        sys.stderr.write(f"meshd: {error}\n")
        return EXIT_MESH


if __name__ == "__main__":
    sys.exit(main())
