"""Status Structs that cross the mesh: what each worker and the daemon publish about themselves.

Fields are passed by keyword, so that new ones can stand anywhere. Times are integer nanoseconds
since the Unix epoch (UTC) unless a name says otherwise, NaN means "absent".
"""

from __future__ import annotations

import msgspec


class BrokerAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the embedded broker and its schema registry listen (cell `broker`)."""

    bootstrap_servers: str
    registry_url: str
    topics: dict[str, int] = {}  # topic -> partitions
    incarnation: str = ""  # changes with each start of the broker, when offsets begin at 0 again
    partition_bytes: int = 0  # size at which a partition drops its oldest messages; 0 = unknown
    fault_switches: str = ""  # URL of the fault switches; empty = disabled


class BrokerStatus(msgspec.Struct, kw_only=True):
    """State and limits of the embedded broker (cell `status/<name>`)."""

    state: str = "starting"  # starting, serving, down on request
    requests: int = 0  # to the registry
    refused: int = 0  # connections to the registry that were closed without an answer
    schemas: int = 0
    faults_injected: int = 0
    ready_s: float = 0.0  # from the start of the process until its address was published
    topics: dict[str, int] = {}  # topic -> partitions
    partition_bytes: int = 0  # a consumer that lags by more loses messages
    persistent: bool = False  # False: messages are in memory only and lost at a restart


class ReaderCursor(msgspec.Struct, frozen=True):
    """Position of a reader in a ring (cell `cursor/<name>`), for writers that wait for it."""

    ring: str
    sequence: int  # of the next record to read


class IngestStatus(msgspec.Struct, kw_only=True):
    """Counters of an ingest worker (cell `status/<name>`), since the segment was created."""

    consumed: int = 0
    published: int = 0
    dead_lettered: int = 0
    dropped: int = 0
    conflated: int = 0
    skipped: int = 0
    lost: int = 0
    fallback_decoded: int = 0
    spooled: int = 0
    state: str = "starting"  # starting, running, degraded: <why>
    lag: dict[str, int] = {}
    gates: dict[str, int] = {}
    errors: dict[str, int] = {}
    rate: float = 0.0
    last_error: str = ""
    #: next offset to consume, per "topic/partition"
    positions: dict[str, int] = {}
    incarnation: str = ""  # of the broker that the positions belong to
    batches: int = 0  # committed to the ring
    market_time_ns: int = 0  # newest event time accepted as plausible
    market_leap_ns: int = 0  # an event time far ahead of market_time_ns, not yet accepted
    rewinds: int = 0  # resets of positions, by an operator or after a topic was recreated
    rewind_id: str = ""  # of the operator's last completed request
    rebalances: int = 0
    registry_requests: int = 0
    round_trip_ms: float = 0.0  # of the brokers, mean
    backlog: int = 0  # records by which the slowest reader lags
    slowest: str = ""  # name of that reader
    replayed: int = -1  # messages consumed again by this process, already in the ring; -1: unknown
    letters_lost: int = 0  # of `dropped`: dead letters that could neither be sent nor spooled
    letters_repeated: int = 0  # sent by this process, and possibly by the process before it too


class ReplayerStatus(msgspec.Struct, kw_only=True):
    """Counters and position of a replayer (cell `status/<name>`)."""

    produced: int = 0
    failed: int = 0
    rows_read: int = 0
    loops: int = 0
    finished: bool = False
    market_time_ns: int = 0
    speed: float = 0.0
    source: str = ""
    position: int = 0  # next row of the source
    incarnation: str = ""  # of the broker that `delivered` counts for
    delivered: int = 0  # messages delivered to this incarnation
    shift_ns: int = 0  # added to recorded times: whole days, growing with each loop
    skipped: dict[str, int] = {}  # entries of the files that were not usable as rows, in this loop
    faults: dict[str, int] = {}  # injected and delivered, by kind


class FeederStatus(msgspec.Struct, kw_only=True):
    """State and counters of the feeder (cell `status/<name>`)."""

    state: str = "starting"  # starting, acting, holding: <why>
    market_steps: int = 0
    experience: int = 0
    episodes: int = 0
    policies_refused: int = 0  # published, but not usable
    holds: int = 0
    acting_trainer: str = ""
    acting_version: int = 0
    policy_age_s: float = 0.0
    data_age_s: float = 0.0
    mean_reward: float = 0.0
    mean_equity: float = 0.0
    slots: list[str] = []


class TrainerStatus(msgspec.Struct, kw_only=True):
    """State and counters of a trainer (cell `status/<name>`)."""

    state: str = "starting"  # starting, waiting: <why>, training, evaluating, rolled back: <why>
    updates: int = 0
    experience: int = 0
    version: int = 0
    score: float = float("nan")
    critic_loss: float = float("nan")
    actor_loss: float = float("nan")
    updates_per_s: float = 0.0
    rollbacks: int = 0
    resumed_from: str = ""  # shared memory, disk: <file>, or empty for a fresh start
    run_id: str = ""
    tracking: str = ""
    skipped: int = 0  # updates not applied: their loss or gradient was not finite
    faults: int = 0  # experience records skipped: they contain NaN or infinity
    learning_rate: float = 0.0
    device: str = ""
    update_kind: str = ""  # how gradients are computed
    withheld: int = 0  # policies not published
    lost_batch: str = ""  # file with the newest batch that became NaN or infinite
    best_score: float = float("nan")  # of the policies published so far
    evaluated: int = 0  # number of updates at the newest evaluation
    unwritten: int = 0  # checkpoints, best policies and lost batches that could not be written
    disk_error: str = ""  # of the newest failed write


class Standing(msgspec.Struct, kw_only=True):
    """One published policy as the leaderboard ranks it."""

    trainer: str
    version: int = 0
    updates: int = 0
    score: float = float("nan")
    created_ns: int = 0
    state: str = ""  # quarantined, or empty: the policy may be used


class Leaderboard(msgspec.Struct, kw_only=True):
    """Ranking of the trainers' policies (cell `leaderboard`), written by one of the trainers."""

    best: str = ""  # empty: no policy has a score; followers use their own order
    rows: list[Standing] = []
    keeper: str = ""
    at_ns: int = 0


class RecordedDeath(msgspec.Struct, frozen=True, array_like=True):
    """One unplanned end of a worker, kept for the restart policy of the next daemon."""

    at: float  # monotonic seconds
    ready_s: float  # how long the worker had been ready
    hopeless: bool  # the worker reported that a restart would not help


class WorkerStatus(msgspec.Struct, kw_only=True):
    """One row of `SupervisorStatus`."""

    name: str
    class_path: str  # package.module:Class
    pid: int
    state: str
    restarts: int
    reason: str = ""
    since: float = 0.0  # wall clock seconds of the last state change
    required: bool = True
    group: str = ""
    start_time: int = 0  # of the process, as in ProcessIdentity
    generation: int = 0  # number of starts on this mesh
    memory_bytes: int = 0  # private memory, whole MiB; 0 = not measured
    deaths: list[RecordedDeath] = []  # oldest first


class Incident(msgspec.Struct, kw_only=True):
    """One failure of a worker, from its detection to its recovery."""

    worker: str
    kind: str  # exited, killed, hung, not ready, memory, quarantined, ...
    at: float  # wall clock seconds
    detected_s: float = 0.0  # from the fault (if its time is known) to its detection
    running_s: float = -1.0  # from the detection until ready again; -1 = not yet
    evidence: str = ""
    locks_broken: list[str] = []
    leases_broken: list[str] = []
    report: str = ""  # path of the crash report
    number: int = 0  # sequence number, also in EVENT_DTYPE.incident and in the logs
    pid: int = 0  # of the process that failed
    generation: int = 0  # of the process that failed
    died_at: float = 0.0  # monotonic seconds of the confirmed death
    messages_replayed: int = -1  # messages read again after the restart; -1 = unknown


class UnmanagedProcess(msgspec.Struct, kw_only=True):
    """A process that uses the mesh but was not started by the daemon: listed, never killed."""

    name: str  # of its heartbeat row, or `pid N`
    pid: int
    start_time: int
    state: str  # alive, silent (its own deadline passed), dead
    holds: list[str] = []  # leases and locks
    since: float = 0.0  # wall clock seconds when it was first seen


class SupervisorStatus(msgspec.Struct, kw_only=True):
    """State of the daemon and its workers (cell `supervisor`); readable after the daemon died."""

    pid: int
    start_time: int
    since: float
    version: str
    profile: str
    state: str  # starting, healthy, degraded, stopping
    ready: bool = False
    safe_state: str = ""  # why acting is stopped; empty = acting is allowed
    workers: list[WorkerStatus] = []
    incidents: list[Incident] = []
    control: str = ""  # path of the control socket
    logs: str = ""  # directory of the workers' logs
    unmanaged: list[UnmanagedProcess] = []
    rolling: dict[str, int] = {}  # rolling restart: worker -> generation to replace
    configuration: str = ""  # fingerprint of the settings in force
    reload_error: str = ""  # why the last changed configuration or upgrade was refused
