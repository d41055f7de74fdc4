"""All workers of a daemon: their table is run here, and what it names is performed.

Everything that happens to a worker comes in as an event (`apply`); the pure table says the next
state and the action; the actions fork, signal, heal and tell. Healing keeps one order: the death
is confirmed (pidfd), its locks and leases are broken, the event is told, the policy is asked when
it comes back (I3).
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import signal
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import EXIT_CONFIGURATION
from config.worker_spec import WorkerSpec
from mesh import Cell, Mesh, MeshError, ProcessIdentity
from workers.contract.names import status_segment
from workers.runtime.crash_report import own_report
from workers.supervision import post_mortem
from workers.supervision.adoption import live_process, watch
from workers.supervision.fd_budget import require_room
from workers.supervision.fork_server import ForkServers
from workers.supervision.log_rotation import LogFiles
from workers.supervision.managed_worker import NEVER, ManagedWorker
from workers.supervision.process_memory import private_bytes
from workers.supervision.restart_policy import Death, Quarantine, decide, remembered
from workers.supervision.spawn import SpawnRequest, describe_exit, end_strays, open_child, spawn
from workers.supervision.state_machine import ALIVE, Action, Event, State, transition

if TYPE_CHECKING:
    from config import Settings
    from mesh import HeartbeatRow, Heartbeats
    from workers.contract.statuses import Incident, WorkerStatus
    from workers.supervision.event_log import EventLog

FAREWELL_S = 0.05  # for the stack dump of a hung worker
MEMORY_LOOK_S = 0.2
STARTING_LOOK_S = 0.005  # between two looks for the readiness of a worker that just started,
PATIENT_LOOK_S = 0.05  # and of one that takes longer than
QUICK_S = 1.0
LONGEST_LOOK_S = 0.5
MISSED_S = 1.0  # a heartbeat that is damaged may be whole again with the next beat
PUT_OFF_S = 1.0  # until a start is tried again for which the host had no means
MIB = 1 << 20


class WorkerExecutor:
    """The workers, by name, and everything that is done to them."""

    def __init__(
        self,
        settings: Settings,
        mesh: Mesh,
        heartbeats: Heartbeats,
        event_log: EventLog,
        selector: selectors.BaseSelector,
        logs: Path,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """Track every enabled worker of the settings; nothing is started yet."""
        self.settings = settings
        self.fingerprint = settings.fingerprint()
        self.stopping = False
        self.workers: dict[str, ManagedWorker] = {}
        self._mesh = mesh
        self._heartbeats = heartbeats
        self._event_log = event_log
        self._selector = selector
        self._logs = LogFiles(logs, settings.logging, self._flooded)
        self._clock = clock
        self._wall = wall
        self._crashes = settings.run_directory.resolve() / "crashes"
        self._memory_at = 0.0
        self.changed = True  # since the status was published
        self._later: list[tuple[Incident, dict[str, Any]]] = []  # reports to be written
        self.others: set[int] = set()  # children that are neither workers nor fork servers
        self._rows: dict[str, HeartbeatRow] = {}
        for spec in settings.workers:
            if spec.enabled:
                self.add(spec)
        self.fork_servers = ForkServers(settings, selector, logs, clock, self._emit_event)

    def add(self, spec: WorkerSpec) -> ManagedWorker:
        """Track one more worker; it is started when what it depends on is ready."""
        worker = ManagedWorker(spec, self._wall(), left_running_at=self._clock())
        self.workers[spec.name] = worker
        return worker

    # --- the table ------------------------------------------------------------------------

    def apply(self, worker: ManagedWorker, event: Event) -> None:
        """Move one worker through the table and perform what it says."""
        before = worker.state
        worker.state, action = transition(before, event)
        if worker.state is not before:
            self.changed = True
            worker.since_wall = self._wall()
            if not (before in ALIVE and worker.state in {State.STOPPING, State.RESTARTING}):
                worker.deadline = NEVER
            if before is State.RUNNING:
                worker.left_running_at = self._clock()
        if action is not Action.NOTHING:
            self.changed = True
            self._perform(action, worker)

    def _perform(self, action: Action, worker: ManagedWorker) -> None:
        perform = {
            Action.SPAWN: self._spawn,
            Action.WATCH: self._watch_start,
            Action.ANNOUNCE: self._announce,
            Action.TERMINATE: self._terminate,
            Action.KILL: self._kill,
            Action.HEAL: self._heal,
            Action.RELEASE: self._release,
            Action.ALARM: self._alarm,
        }
        perform[action](worker)

    def _spawn(self, worker: ManagedWorker) -> None:
        number = worker.incident.number if worker.incident else 0
        generation = worker.generation + 1
        request = SpawnRequest(worker.name, str(self._logs.path(worker.name)), generation, number)
        try:
            require_room()
            pid = self.fork_servers.spawn(worker.spec.nursery, request) or spawn(
                request, self.settings
            )
            identity, pidfd = open_child(pid)
        except OSError as error:
            self._put_off(worker, error.strerror or str(error))
            return
        worker.generation = generation
        worker.spawned_at = self._clock()
        worker.ready_at = NEVER
        self._track(worker, identity, pidfd)
        self._watch_start(worker)
        self._event_log.log_only("spawned", worker)

    def _put_off(self, worker: ManagedWorker, why: str) -> None:
        """No process, no descriptor or no memory is to be had: no death, and tried again."""
        reason = f"cannot be started now: {why}"
        if worker.reason != reason:
            worker.reason = reason
            self._event_log.emit("put off", "error", worker, text=reason)
        self.apply(worker, Event.PUT_OFF)
        worker.deadline = self._clock() + PUT_OFF_S

    def _track(self, worker: ManagedWorker, identity: ProcessIdentity, pidfd: int) -> None:
        worker.identity, worker.pidfd = identity, pidfd
        worker.beats, worker.suspicion, worker.kill_at = -1, None, NEVER
        worker.fault, worker.fault_at = "", NEVER
        worker.memory_bytes, worker.missed_at = 0, NEVER
        self._selector.register(pidfd, selectors.EVENT_READ, lambda _fd: self._exited(worker))

    def _watch_start(self, worker: ManagedWorker) -> None:
        worker.deadline = self._clock() + worker.spec.start_deadline_s

    def _announce(self, worker: ManagedWorker) -> None:
        now = self._clock()
        worker.ready_at = now
        worker.reason = ""
        text = self._event_log.close(worker, now, self._replayed(worker))
        self._event_log.emit("ready", "info", worker, text=text)
        worker.incident = None

    def _terminate(self, worker: ManagedWorker) -> None:
        worker.deadline = self._clock() + worker.spec.stop_grace_s
        self._signal(worker, signal.SIGTERM)
        self._take_followers(worker)

    def _kill(self, worker: ManagedWorker) -> None:
        """Ask for the stacks, and kill a moment later; a stopped process cannot answer anyhow."""
        if worker.kill_at == NEVER:
            self._signal(worker, signal.SIGUSR2)
            worker.kill_at = self._clock() + FAREWELL_S
            worker.deadline = NEVER

    def _signal(self, worker: ManagedWorker, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker.pidfd, number)

    def _exited(self, worker: ManagedWorker) -> None:
        """Its pidfd became readable: the death is confirmed."""
        self._selector.unregister(worker.pidfd)
        os.close(worker.pidfd)
        self.confirmed_dead(worker)

    def confirmed_dead(self, worker: ManagedWorker) -> None:
        """Learn how a dead process ended, and move on."""
        pid = worker.process().pid
        code = _exit_code(pid)
        worker.report, error = own_report(self._crashes, worker.name, pid)
        if not worker.fault:
            how = "ended; an earlier daemon started it" if code is None else describe_exit(code)
            worker.reason = f"{how}: {error}" if error else how
            worker.fault = "exited"
        worker.hopeless = code == EXIT_CONFIGURATION
        worker.kill_at = NEVER  # it may have died by itself between the farewell and the kill
        self.apply(worker, Event.EXITED)
        strays = end_strays(self.pids(), self.fork_servers.groups())
        if strays:
            left = ", ".join(map(str, strays))
            self._event_log.emit("strays", "warning", worker, text=f"killed what it left: {left}")

    def _release(self, worker: ManagedWorker) -> None:
        """After a planned stop; one for memory's sake counts, lest it is restarted for ever."""
        now = self._clock()
        recycled = worker.fault == "memory"
        if recycled:
            incident = self._event_log.open(worker, "memory", 0.0, now)
            incident.leases_broken, incident.locks_broken = self._break(worker)
        else:
            self._break(worker)
        self._event_log.emit("stopped", "info", worker, text=worker.reason)
        worker.identity = None
        if recycled and worker.state is State.WAITING:
            self._count(worker, now)

    def _heal(self, worker: ManagedWorker) -> None:
        """Confirmed dead: free what it held, tell, and ask the policy when it comes back."""
        now = self._clock()
        heart = self._rows.get(worker.name)
        leases, locks = self._break(worker)
        detected = now - worker.fault_at if worker.fault_at < now else 0.0
        incident = self._event_log.open(worker, worker.fault, detected, now)
        incident.leases_broken, incident.locks_broken = leases, locks
        incident.report = worker.report
        if not worker.report:
            content = post_mortem.of_death(worker, heart, self._logs.path(worker.name))
            content |= {"locks": locks, "leases": leases}
            self._later.append((incident, content))
        self._event_log.emit("died", "warning", worker, text=worker.reason)
        worker.identity = None
        self._count(worker, now)
        self._take_followers(worker)

    def _count(self, worker: ManagedWorker, now: float) -> None:
        """Count a death and do what the policy says."""
        ready_s = max(0.0, now - worker.ready_at)
        limits = worker.spec.restart
        worker.deaths.append(Death(now, ready_s, worker.hopeless))
        worker.deaths = remembered(worker.deaths, limits, now)
        verdict = decide(worker.deaths, limits, now, random.random())  # noqa: S311 - jitter
        if isinstance(verdict, Quarantine):
            worker.reason = f"{worker.reason}; {verdict.reason}"
            self.apply(worker, Event.GIVE_UP)
            return
        worker.restarts += 1
        if worker.state is State.BACKOFF:
            worker.deadline = now + verdict.delay_s

    def _break(self, worker: ManagedWorker) -> tuple[list[str], list[str]]:
        """Free the leases and locks of a dead process and give their names."""
        locks: list[str] = []
        leases: list[str] = []
        try:
            freed = self._mesh.break_leases(worker.process())
        except MeshError as error:  # who comes next takes a dead process's lease by itself
            self._emit_event("not freed", "error", f"{worker.name}: {error}")
            freed = []
        for name in freed:
            kind = ""
            with contextlib.suppress(MeshError):  # removed meanwhile: healing goes on
                kind = self._mesh.info(name).kind
            (locks if kind == "lock" else leases).append(name)
        return leases, locks

    def _alarm(self, worker: ManagedWorker) -> None:
        if worker.incident is not None:
            worker.incident.kind = f"quarantined, {worker.incident.kind}"
        self._event_log.emit("quarantined", "error", worker, text=worker.reason)

    def _take_followers(self, worker: ManagedWorker) -> None:
        """Rest-for-one: what follows a worker that goes is started again behind it."""
        if worker.state not in {State.BACKOFF, State.RESTARTING, State.QUARANTINED}:
            return
        for other in self.workers.values():
            follows = worker.name in other.spec.depends_on and other.spec.follow == "restart"
            if follows and other.state in {State.STARTING, State.RUNNING}:
                other.reason = f"restarted with {worker.name}"
                self.apply(other, Event.RESTART)

    # --- watching -------------------------------------------------------------------------

    def watch(self, now: float) -> None:
        """Turn heartbeats into events: a beat is the worker's word, a silence needs evidence."""
        self._rows = {row.worker: row for row in self._heartbeats.rows()}
        for worker in self.workers.values():
            row = self._rows.get(worker.name)
            if worker.state not in ALIVE:
                continue
            if row is None or row.identity != worker.identity:
                self._miss(worker, now)
                continue
            worker.missed_at = NEVER
            if row.ready and worker.state is State.STARTING:
                self.apply(worker, Event.READY)
            if worker.state is State.RUNNING and worker.is_hung(row, self.settings.supervisor, now):
                self.apply(worker, Event.HUNG)
        if now >= self._memory_at:
            self._memory_at = now + MEMORY_LOOK_S
            self._watch_memory()
        self._logs.look(now)

    def _miss(self, worker: ManagedWorker, now: float) -> None:
        """A worker that runs and has no heartbeat cannot be watched: the next process has one."""
        worker.missed_at = min(worker.missed_at, now)
        late = now - worker.missed_at > worker.spec.heartbeat_deadline_s + MISSED_S
        if late and worker.state is State.RUNNING:
            worker.missed_at = NEVER
            worker.reason = "its heartbeat was damaged or taken away"
            self._event_log.emit("heartbeat lost", "error", worker, text=worker.reason)
            self.apply(worker, Event.RESTART)

    def rows(self) -> Iterable[HeartbeatRow]:
        """Give the heartbeats as of the last look."""
        return self._rows.values()

    def _watch_memory(self) -> None:
        for worker in self.workers.values():
            limit = worker.spec.memory_limit_bytes
            if limit is None or worker.state not in ALIVE:
                continue
            used = private_bytes(worker.process().pid)
            worker.memory_bytes = used // MIB * MIB
            what = f"memory: {used / MIB:.0f} MiB of its own, {limit / MIB:.0f} MiB are allowed"
            if used > limit:
                worker.reason, worker.fault, worker.fault_at = what, "memory", self._clock()
                self.apply(worker, Event.OUTGROWN)
            elif used > limit * worker.spec.memory_recycle_share and worker.state is State.RUNNING:
                worker.reason, worker.fault = f"{what}: restarted in an orderly way", "memory"
                self._event_log.emit("recycled", "warning", worker, text=worker.reason)
                self.apply(worker, Event.RESTART)

    def timers(self, now: float) -> None:
        """Perform what is due: kills after their farewell, deadlines, retries."""
        for worker in self.workers.values():
            if worker.kill_at <= now:
                worker.kill_at = NEVER
                row, log = self._rows.get(worker.name), self._logs.path(worker.name)
                content = post_mortem.of_death(worker, row, log)
                content |= post_mortem.of_living(worker, self._mesh)
                self._report(worker.name, worker.process().pid, "killed", content)
                self._signal(worker, signal.SIGKILL)
            if worker.deadline > now:
                continue
            worker.deadline = NEVER
            if worker.state is State.BACKOFF:
                self.apply(worker, Event.RETRY_DUE)
                continue
            if worker.state is State.STARTING:
                worker.reason = f"not ready within {worker.spec.start_deadline_s:g} s"
                worker.fault, worker.fault_at = "not ready", worker.spawned_at
            elif worker.state in ALIVE:
                worker.reason = f"did not stop within {worker.spec.stop_grace_s:g} s"
                worker.fault = worker.fault or "not stopping"
            self.apply(worker, Event.DEADLINE)

    def next_check_s(self, now: float) -> float:
        """Give the seconds until the heartbeats should be looked at again, or a timer is due."""
        look = LONGEST_LOOK_S
        for worker in self.workers.values():
            due = min(worker.deadline, worker.kill_at) - now
            look = min(look, max(0.0, due))
            if worker.state is State.STARTING:
                quick = now - worker.spawned_at < QUICK_S
                look = min(look, STARTING_LOOK_S if quick else PATIENT_LOOK_S)
            elif worker.state is State.RUNNING:
                usual = self.settings.supervisor.watch_interval_s
                due = worker.next_check_at(self._rows.get(worker.name)) - now
                exact = worker.suspicion is not None and due > 0.0
                look = min(look, due if exact else max(due, usual))
                if worker.spec.memory_limit_bytes is not None:
                    look = min(look, MEMORY_LOOK_S)
        return look

    def _report(self, worker: str, pid: int, kind: str, content: dict[str, Any]) -> str:
        """Write a crash report and give its path."""
        content = {"kind": kind, "configuration": self.fingerprint, **content}
        kept = self.settings.supervisor.crash_reports
        try:
            return str(post_mortem.write(self._crashes, kept, worker, pid, content))
        except OSError as error:  # a full disk must not stop the healing
            self._emit_event("no report", "warning", f"{worker}: {error}")
            return ""

    def catch_up(self) -> None:
        """Write what could wait until the replacements were on their way."""
        for incident, content in self._later:
            incident.report = self._report(incident.worker, incident.pid, incident.kind, content)
        self._later.clear()

    def _replayed(self, worker: ManagedWorker) -> int:
        """Give how many messages the worker took again after its restart; -1: it does not say."""
        told = self.read_status(worker.name)
        return int(told.get("replayed", -1))

    def read_status(self, name: str) -> dict[str, Any]:
        """Give what a worker says of itself in its status cell; empty when it says nothing."""
        try:
            cell = self._mesh.attach(status_segment(name))
            try:
                return dict(cell.read()[1]) if isinstance(cell, Cell) else {}
            finally:
                cell.close()
        except (MeshError, ValueError, TypeError):
            return {}

    # --- starting and stopping ------------------------------------------------------------

    def start_what_is_free(self) -> None:
        """Start what waits for nothing; while stopping, stop what nothing alive depends on."""
        for worker in list(self.workers.values()):
            if worker.leaving and worker.state is State.STOPPED:
                del self.workers[worker.name]
            elif self.stopping or worker.leaving:
                dependants = [w for w in self.workers.values() if worker.name in w.spec.depends_on]
                if worker.leaving or all(w.state not in ALIVE for w in dependants):
                    self.apply(worker, Event.STOP)
            elif worker.state is State.WAITING and self._is_free(worker):
                self.apply(worker, Event.START)

    def _is_free(self, worker: ManagedWorker) -> bool:
        needs = [self.workers[name] for name in worker.spec.depends_on]
        if not all(w.state is State.RUNNING for w in needs):
            return False
        row = self._rows.get(worker.name)
        if row is not None and row.identity.is_alive():
            if live_process(worker.name, None, row) is not None:
                self._adopt(worker, None)  # an earlier daemon died right after forking it
                return False
            worker.reason = f"{row.identity} runs as it and is not this daemon's: it is left alone"
            return False
        return not self.fork_servers.is_warming(worker.spec.nursery)

    def ended(self) -> bool:
        """Tell whether nothing runs any more."""
        return all(w.state in {State.STOPPED, State.QUARANTINED} for w in self.workers.values())

    def pids(self) -> set[int]:
        """Give every process that is tracked."""
        tracked = {w.identity.pid for w in self.workers.values() if w.identity}
        return tracked | self.fork_servers.pids() | self.others

    # --- an earlier daemon's workers ------------------------------------------------------

    def adopt(self, told: Iterable[WorkerStatus]) -> None:
        """Take over the workers of an earlier daemon: none lost, doubled or restarted.

        What was being healed, stopped or restarted goes on where that daemon left it.
        """
        self._rows = {row.worker: row for row in self._heartbeats.rows()}
        known = {status.name: status for status in told}
        for name in self.workers.keys() | known.keys():
            status = known.get(name)
            worker = self.workers.get(name) or self._no_longer_configured(known[name])
            if status is not None:
                worker.remember(status)
            self._adopt(worker, status)
            if worker.state is State.BACKOFF:
                worker.deadline = self._clock()

    def _adopt(self, worker: ManagedWorker, told: WorkerStatus | None) -> None:
        row = self._rows.get(worker.name)
        identity = live_process(worker.name, told, row)
        pidfd = watch(identity) if identity is not None else None
        if identity is not None and pidfd is not None:
            worker.state = State.WAITING
            self._track(worker, identity, pidfd)
            self.apply(worker, Event.ADOPTED)
            worker.spawned_at = self._clock()
            if row is not None and row.ready and row.identity == identity:
                self.apply(worker, Event.READY)
            self._event_log.emit("adopted", "info", worker, text=str(identity))
            if told is not None and told.state in {State.STOPPING, State.RESTARTING}:
                stop = told.state == State.STOPPING
                self.apply(worker, Event.STOP if stop else Event.RESTART)
        elif told is not None and told.pid:
            worker.state = State.WAITING
            worker.identity = ProcessIdentity(told.pid, told.start_time)
            self.apply(worker, Event.ADOPTED)
            if told.state in {State.STOPPING, State.RESTARTING}:
                stop = told.state == State.STOPPING
                worker.state = State.STOPPING if stop else State.RESTARTING
            self.confirmed_dead(worker)

    def _no_longer_configured(self, told: WorkerStatus) -> ManagedWorker:
        worker = self.add(WorkerSpec(name=told.name, worker=told.class_path))
        worker.leaving = True
        return worker

    def _flooded(self, name: str, size: int) -> None:
        worker = self.workers.get(name)
        text = f"writes too much: {size / MIB:.1f} MiB of output at once or again; the end is kept"
        if worker is not None and worker.reason != text:
            worker.reason = text
            self._event_log.emit("log cut", "warning", worker, text=text)

    def _emit_event(self, kind: str, severity: str, text: str) -> None:
        self._event_log.emit(kind, severity, text=text)


def _exit_code(pid: int) -> int | None:
    """Give the exit code of a child that ended; None when it is not our child."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None
