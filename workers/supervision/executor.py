"""All workers of a daemon: the table of their states is run here, and its actions are performed.

Everything that happens to a worker comes in as an event (`apply`); the pure table says the next
state and the action; the actions fork, signal, heal and report. Healing keeps one order: the death
is confirmed (pidfd), its locks and leases are broken, the event is published, the restart policy is
asked when the worker comes back (I3).

The executor alone changes a managed worker. The watcher tells it what was observed, adoption what
an earlier daemon left, the supervisor what an operator or a changed configuration wants.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from config import EXIT_CONFIGURATION
from config.worker_spec import WorkerSpec
from mesh import Mesh, MeshError, ProcessIdentity
from workers.runtime.crash_report import own_report
from workers.supervision import post_mortem
from workers.supervision.fd_budget import require_room
from workers.supervision.live_process import live_process, open_pidfd
from workers.supervision.managed_worker import NEVER, ManagedWorker
from workers.supervision.restart_policy import Death, Quarantine, decide, remembered
from workers.supervision.spawn import SpawnRequest, describe_exit, end_strays, open_child, spawn
from workers.supervision.state_machine import ALIVE, IGNORED, Action, Event, State, transition
from workers.supervision.watch import MIB, Observation, Timer, Watcher
from workers.supervision.worker_status import read_status

if TYPE_CHECKING:
    from config import Settings
    from workers.contract.statuses import Incident, WorkerStatus
    from workers.supervision.config_diff import Changes
    from workers.supervision.event_log import EventLog
    from workers.supervision.fork_server import ForkServers
    from workers.supervision.log_rotation import LogFiles
    from workers.supervision.post_mortem import CrashReports

STACK_DUMP_S = 0.05  # for the stack dump of a hung worker, before it is killed
RETRY_START_S = 1.0  # until a start is tried again for which the host had no means


class WorkerExecutor:
    """The managed workers, by name, and everything that is done to them."""

    def __init__(
        self,
        settings: Settings,
        mesh: Mesh,
        event_log: EventLog,
        watcher: Watcher,
        reports: CrashReports,
        logs: LogFiles,
        fork_servers: ForkServers,
        clock: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        """Manage every enabled worker of the settings; nothing is started yet.

        Args:
            settings: The configuration in force.
            mesh: Where dead workers' locks and leases are broken.
            event_log: Where events and incidents go.
            watcher: Finds the exits; holds the heartbeats.
            reports: Where crash reports go.
            logs: Where the workers' output goes.
            fork_servers: Start the workers of their groups.
            clock: Monotonic seconds.
            wall: Wall-clock seconds.
        """
        self._settings = settings
        self._mesh = mesh
        self._event_log = event_log
        self._watcher = watcher
        self._reports = reports
        self._logs = logs
        self._fork_servers = fork_servers
        self._clock = clock
        self._wall = wall
        self._stopping = False
        self._changed = True
        self._other_children: set[int] = set()
        self._workers: dict[str, ManagedWorker] = {}
        for spec in settings.workers:
            if spec.enabled:
                self._add(spec)

    # --- questions ------------------------------------------------------------------------

    @property
    def workers(self) -> Mapping[str, ManagedWorker]:
        """The managed workers by name."""
        return MappingProxyType(self._workers)

    @property
    def stopping(self) -> bool:
        """Whether all workers are being stopped."""
        return self._stopping

    def named(self, name: str) -> list[ManagedWorker]:
        """Return the worker of that name, or the workers of that group."""
        return [w for w in self._workers.values() if name in {w.name, w.spec.group}]

    def ended(self) -> bool:
        """Whether no worker runs, is to be started again or is ending."""
        over = {State.STOPPED, State.QUARANTINED}
        return all(worker.state in over for worker in self._workers.values())

    def identities(self) -> set[ProcessIdentity]:
        """Return the identities of the workers' processes."""
        return {w.identity for w in self._workers.values() if w.identity}

    def take_changed(self) -> bool:
        """Whether a worker changed its state since the last call."""
        changed, self._changed = self._changed, False
        return changed

    def _managed_pids(self) -> set[int]:
        pids = {identity.pid for identity in self.identities()}
        return pids | self._fork_servers.pids() | self._other_children

    # --- requests -------------------------------------------------------------------------

    def stop_all(self) -> None:
        """Begin to stop every worker, dependants first; nothing is started any more."""
        self._stopping = True

    def restart(self, worker: ManagedWorker, reason: str) -> None:
        """Stop a worker and start it again, for a reason that its status shows."""
        worker.reason = reason
        self.apply(worker, Event.RESTART)

    def request(self, worker: ManagedWorker, event: Event) -> None:
        """Carry out a request of an operator: START, STOP, RESTART or RESET."""
        if event is Event.RESET:
            worker.deaths.clear()
        if event is not Event.START:
            worker.reason = f"{event} was asked for"
        self.apply(worker, event)

    def reconfigure(self, settings: Settings, changes: Changes) -> None:
        """Put changed settings into force: stop, start and restart the workers they concern."""
        specs = {spec.name: spec for spec in settings.workers}
        self._settings = settings
        self._reports.configure(settings)
        self._fork_servers.rebuild(settings)
        for name in changes.removed:
            self._workers[name].leaving = True
        for name in changes.added:
            worker = self._workers.get(name) or self._add(specs[name])
            worker.leaving = False  # removed a moment ago and still ending: wanted again
            worker.spec = specs[name]
            self.apply(worker, Event.RESTART)
        for name, worker in self._workers.items():
            worker.spec = specs.get(name, worker.spec)
            if name in changes.changed:
                self.restart(worker, "its configuration changed")

    def add_child(self, pid: int) -> None:
        """Leave this child of the daemon alone: it is neither a worker nor a fork server."""
        self._other_children.add(pid)

    def remove_child(self, pid: int) -> None:
        """Forget a child that was added: it has ended."""
        self._other_children.discard(pid)

    def end_strays(self, worker: ManagedWorker | None = None, *, quiet: bool = False) -> None:
        """Kill the children that are not managed.

        Args:
            worker: The one that left them, if known.
            quiet: Without an event.
        """
        strays = end_strays(self._managed_pids(), self._fork_servers.groups())
        if quiet or not strays:
            return
        if worker is not None:
            left = ", ".join(map(str, strays))
            self._event_log.emit("strays", "warning", f"killed what it left: {left}", worker)
            return
        for pid in strays:
            text = f"killed pid {pid}, which left its worker"
            self._event_log.emit("strays", "warning", text)

    def start_ready(self) -> None:
        """Start every worker whose dependencies run; stop those that leave or are to be stopped."""
        for worker in list(self._workers.values()):
            if worker.leaving and worker.state is State.STOPPED:
                del self._workers[worker.name]
            elif self._stopping or worker.leaving:
                dependants = [w for w in self._workers.values() if worker.name in w.spec.depends_on]
                if worker.leaving or all(w.state not in ALIVE for w in dependants):
                    self.apply(worker, Event.STOP)
            elif worker.state is State.WAITING and self._may_start(worker):
                self.apply(worker, Event.START)

    def _may_start(self, worker: ManagedWorker) -> bool:
        needs = [self._workers[name] for name in worker.spec.depends_on]
        if not all(w.state is State.RUNNING for w in needs):
            return False
        row = self._watcher.rows.get(worker.name)
        if row is not None and row.identity.is_alive():
            if identity := live_process(worker.name, None, row):
                # an earlier daemon was killed right after it had forked this process
                if (pidfd := open_pidfd(identity)) is not None:
                    self.resume(worker, identity, pidfd, ready=row.ready)
                return False
            worker.reason = (
                f"worker name already in use by {row.identity}, which this daemon did not start; "
                "left running"
            )
            return False
        return not self._fork_servers.is_warming(worker.spec.nursery)

    def _add(self, spec: WorkerSpec) -> ManagedWorker:
        worker = ManagedWorker(spec, self._wall(), left_running_at=self._clock())
        self._workers[spec.name] = worker
        return worker

    # --- observations ---------------------------------------------------------------------

    def observe(self, observation: Observation) -> None:
        """Act on what the watcher saw; what no longer fits the worker's state changes nothing."""
        worker, event = observation.worker, observation.event
        if observation.memory_bytes is not None:
            worker.memory_bytes = observation.memory_bytes
        if event is None or (worker.state, event) in IGNORED:
            return
        worker.reason = observation.reason or worker.reason
        worker.fault = observation.fault or worker.fault
        if observation.fault_at != NEVER:
            worker.fault_at = observation.fault_at
        if observation.notice:
            notice, severity = observation.notice, observation.severity
            self._event_log.emit(notice, severity, worker.reason, worker)
        self.apply(worker, event)

    def expire(self, worker: ManagedWorker, timer: Timer, now: float) -> None:
        """Act on a timer that ran out at `now`; one that was set anew meanwhile runs on."""
        if timer is Timer.KILL and worker.kill_at <= now:
            worker.kill_at = NEVER
            content = self._of_death(worker) | post_mortem.of_living(worker, self._mesh)
            self._reports.write(worker.name, worker.process().pid, "killed", content)
            self._signal(worker, signal.SIGKILL)
        if timer is not Timer.DEADLINE or worker.deadline > now:
            return
        worker.deadline = NEVER
        if worker.state is State.BACKOFF:
            self.apply(worker, Event.RETRY_DUE)
            return
        if worker.state is State.STARTING:
            worker.reason = f"not ready within {worker.spec.start_deadline_s:g} s"
            worker.fault, worker.fault_at = "not ready", worker.spawned_at
        elif worker.state in ALIVE:
            worker.reason = f"did not stop within {worker.spec.stop_grace_s:g} s"
            worker.fault = worker.fault or "not stopping"
        self.apply(worker, Event.DEADLINE)

    def output_flooded(self, name: str, size: int) -> None:
        """Note that a worker writes too much output; its log was cut from `size` bytes."""
        worker = self._workers.get(name)
        text = f"writes too much: {size / MIB:.1f} MiB of output at once or again; the end is kept"
        if worker is not None and worker.reason != text:
            worker.reason = text
            self._event_log.emit("log cut", "warning", text, worker)

    def _exited(self, worker: ManagedWorker) -> None:
        """Its death is confirmed: learn how the process ended, and move on."""
        pid = worker.process().pid
        code = _exit_code(pid)
        worker.report, error = own_report(self._reports.directory, worker.name, pid)
        if not worker.fault:
            unknown = "ended; an earlier daemon started it"
            how = unknown if code is None else describe_exit(code)
            worker.reason = f"{how}: {error}" if error else how
            worker.fault = "exited"
        worker.hopeless = code == EXIT_CONFIGURATION
        worker.kill_at = NEVER  # it may have died by itself between the stack dump and the kill
        self.apply(worker, Event.EXITED)
        self.end_strays(worker)

    # --- adoption -------------------------------------------------------------------------

    def restore(self, status: WorkerStatus, incident: Incident | None) -> ManagedWorker:
        """Take over what an earlier daemon published of a worker, which may be configured no more.

        Args:
            status: The published row.
            incident: The incident of the worker that is still open.
        """
        worker = self._workers.get(status.name)
        if worker is None:
            worker = self._add(WorkerSpec(name=status.name, worker=status.class_path))
            worker.leaving = True
        worker.restore(status)
        worker.incident = incident
        return worker

    def resume(
        self, worker: ManagedWorker, identity: ProcessIdentity, pidfd: int, *, ready: bool
    ) -> None:
        """Manage a live process that an earlier daemon started."""
        worker.state = State.WAITING
        self._attach(worker, identity, pidfd)
        self.apply(worker, Event.ADOPTED)
        worker.spawned_at = self._clock()
        if ready:
            self.apply(worker, Event.READY)
        self._event_log.emit("adopted", "info", str(identity), worker)

    def resume_dead(
        self, worker: ManagedWorker, identity: ProcessIdentity, ending: State | None
    ) -> None:
        """Heal a process that died while no daemon ran; `ending`: the planned end it was in."""
        worker.state = State.WAITING
        worker.identity = identity
        self.apply(worker, Event.ADOPTED)
        worker.state = ending or worker.state
        self._exited(worker)

    def retry_now(self, worker: ManagedWorker) -> None:
        """End a delay that an earlier daemon began."""
        if worker.state is State.BACKOFF:
            worker.deadline = self._clock()

    # --- the table ------------------------------------------------------------------------

    def apply(self, worker: ManagedWorker, event: Event) -> None:
        """Move one worker through the table and perform the action."""
        before = worker.state
        worker.state, action = transition(before, event)
        if worker.state is not before:
            self._changed = True
            worker.since_wall = self._wall()
            if not (before in ALIVE and worker.state in {State.STOPPING, State.RESTARTING}):
                worker.deadline = NEVER
            if before is State.RUNNING:
                worker.left_running_at = self._clock()
        if action is not Action.NOTHING:
            self._changed = True
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
        incident = worker.incident.number if worker.incident else 0
        generation = worker.generation + 1
        request = SpawnRequest(worker.name, str(self._logs.path(worker.name)), generation, incident)
        try:
            require_room()
            pid = self._fork_servers.spawn(worker.spec.nursery, request)
            identity, pidfd = open_child(pid or spawn(request, self._settings))
        except OSError as error:
            self._put_off(worker, error.strerror or str(error))
            return
        worker.generation = generation
        worker.spawned_at = self._clock()
        worker.ready_at = NEVER
        self._attach(worker, identity, pidfd)
        self._watch_start(worker)
        self._event_log.log_only("spawned", worker)

    def _put_off(self, worker: ManagedWorker, why: str) -> None:
        """The host has no process, descriptor or memory: not a death, and tried again."""
        reason = f"cannot be started now: {why}"
        if worker.reason != reason:
            worker.reason = reason
            self._event_log.emit("put off", "error", reason, worker)
        self.apply(worker, Event.PUT_OFF)
        worker.deadline = self._clock() + RETRY_START_S

    def _attach(self, worker: ManagedWorker, identity: ProcessIdentity, pidfd: int) -> None:
        worker.attach(identity, pidfd)
        self._watcher.watch_exit(pidfd, lambda: self._exited(worker))

    def _watch_start(self, worker: ManagedWorker) -> None:
        worker.deadline = self._clock() + worker.spec.start_deadline_s

    def _announce(self, worker: ManagedWorker) -> None:
        now = self._clock()
        worker.ready_at = now
        worker.reason = ""
        replayed = int(read_status(self._mesh, worker.name).get("replayed", -1))
        text = self._event_log.close_incident(worker.incident, now, replayed)
        self._event_log.emit("ready", "info", text, worker)
        worker.incident = None

    def _terminate(self, worker: ManagedWorker) -> None:
        worker.deadline = self._clock() + worker.spec.stop_grace_s
        self._signal(worker, signal.SIGTERM)
        self._restart_followers(worker)

    def _kill(self, worker: ManagedWorker) -> None:
        """Ask for the stacks, and kill a moment later; a stopped process cannot answer anyhow."""
        if worker.kill_at == NEVER:
            self._signal(worker, signal.SIGUSR2)
            worker.kill_at = self._clock() + STACK_DUMP_S
            worker.deadline = NEVER

    @staticmethod
    def _signal(worker: ManagedWorker, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker.pidfd, number)

    def _release(self, worker: ManagedWorker) -> None:
        """After a planned stop; one because of memory counts as a death, to bound the restarts."""
        now = self._clock()
        leases, locks = self._break_held(worker)
        recycled = worker.fault == "memory"
        if recycled:
            self._open_incident(worker, "memory", 0.0, now, leases, locks)
        self._event_log.emit("stopped", "info", worker.reason, worker)
        worker.identity = None
        if recycled and worker.state is State.WAITING:
            self._count_death(worker, now)

    def _heal(self, worker: ManagedWorker) -> None:
        """Confirmed dead: free what it held, report, and ask the policy when it comes back."""
        now = self._clock()
        leases, locks = self._break_held(worker)
        detected = now - worker.fault_at if worker.fault_at < now else 0.0
        incident = self._open_incident(worker, worker.fault, detected, now, leases, locks)
        incident.report = worker.report
        if not worker.report:
            content = self._of_death(worker) | {"locks": locks, "leases": leases}
            self._reports.defer(incident, content)
        self._event_log.emit("died", "warning", worker.reason, worker)
        worker.identity = None
        self._count_death(worker, now)
        self._restart_followers(worker)

    def _open_incident(
        self,
        worker: ManagedWorker,
        kind: str,
        detected_s: float,
        now: float,
        leases: list[str],
        locks: list[str],
    ) -> Incident:
        incident = self._event_log.open_incident(worker, kind, detected_s, now)
        incident.leases_broken, incident.locks_broken = leases, locks
        worker.incident = incident
        return incident

    def _of_death(self, worker: ManagedWorker) -> dict[str, object]:
        row = self._watcher.rows.get(worker.name)
        return post_mortem.of_death(worker, row, self._logs.path(worker.name))

    def _count_death(self, worker: ManagedWorker, now: float) -> None:
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

    def _break_held(self, worker: ManagedWorker) -> tuple[list[str], list[str]]:
        """Free the leases and the locks of a dead process and return their names."""
        locks: list[str] = []
        leases: list[str] = []
        try:
            freed = self._mesh.break_leases(worker.process())
        except MeshError as error:  # the next owner takes a dead process's lease by itself
            self._event_log.emit("not freed", "error", f"{worker.name}: {error}")
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
        self._event_log.emit("quarantined", "error", worker.reason, worker)

    def _restart_followers(self, worker: ManagedWorker) -> None:
        """Rest-for-one: what follows a worker that ends is started again after it."""
        if worker.state not in {State.BACKOFF, State.RESTARTING, State.QUARANTINED}:
            return
        for other in self._workers.values():
            follows = worker.name in other.spec.depends_on and other.spec.follow == "restart"
            if follows and other.state in {State.STARTING, State.RUNNING}:
                self.restart(other, f"restarted with {worker.name}")


def _exit_code(pid: int) -> int | None:
    """Return the exit code of a child that ended; None when it is not our child."""
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except ChildProcessError:
        return None
