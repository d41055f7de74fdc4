"""Status Structs that cross the mesh: what each worker and the daemon say of themselves.

Times are integer nanoseconds since the Unix epoch (UTC) unless a name says otherwise, NaN means
"absent".
"""

from __future__ import annotations

import msgspec


class BrokerAddress(msgspec.Struct, frozen=True):
    """Where the embedded broker and its schema registry listen (cell `broker`)."""

    bootstrap_servers: str
    registry_url: str
    topics: dict[str, int] = {}  # topic -> partitions
    incarnation: str = ""  # another one: offsets start again
    partition_bytes: int = 0  # what a partition keeps before the oldest go; 0 = not known
    fault_switches: str = ""  # URL of the fault switches; empty = there are none


class BrokerStatus(msgspec.Struct):
    """What the embedded broker does, and what it cannot (cell `status/<name>`)."""

    state: str = "starting"  # starting, serving, down on request
    requests: int = 0  # to the registry
    refused: int = 0  # connections to the registry that were cut off
    schemas: int = 0
    faults_injected: int = 0
    ready_s: float = 0.0  # from the start of the process to its address being published
    topics: dict[str, int] = {}  # topic -> partitions
    partition_bytes: int = 0  # a consumer further behind than this has lost messages
    persistent: bool = False  # messages are in memory: a restart forgets them


class ReaderCursor(msgspec.Struct, frozen=True):
    """How far a reader of a ring got (cell `cursor/<name>`), for writers that wait for it."""

    ring: str
    sequence: int  # read next


class IngestStatus(msgspec.Struct):
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
    #: offsets passed, per "topic/partition": the next offset to consume
    positions: dict[str, int] = {}
    incarnation: str = ""  # of the broker that the positions belong to
    batches: int = 0  # committed to the ring
    market_time_ns: int = 0  # newest believable event time
    market_leap_ns: int = 0  # an event time far beyond it, not believed yet
    rewinds: int = 0  # positions moved back, by an operator or with a topic made anew
    rewind_id: str = ""  # of the operator's last request that was fulfilled
    rebalances: int = 0
    registry_requests: int = 0
    round_trip_ms: float = 0.0  # of the brokers, mean
    backlog: int = 0  # records that the slowest follower is behind
    slowest: str = ""  # which follower that is
    replayed: int = -1  # messages consumed again by this process, already in the ring; -1: unknown
    letters_lost: int = 0  # of `dropped`: dead letters for which there was no room anywhere
    letters_repeated: int = 0  # sent by this process, perhaps delivered by the one before it


class ReplayerStatus(msgspec.Struct):
    """What a replayer has sent (cell `status/<name>`)."""

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
    delivered: int = 0  # to this incarnation
    shift_ns: int = 0  # added to recorded times: whole days, more with each loop
    skipped: dict[str, int] = {}  # what the files hold besides rows, in this loop
    faults: dict[str, int] = {}  # injected and delivered, by kind


class FeederStatus(msgspec.Struct):
    """What the feeder does (cell `status/<name>`)."""

    state: str = "starting"  # starting, acting, holding: <why>
    market_steps: int = 0
    experience: int = 0
    episodes: int = 0
    policies_refused: int = 0
    holds: int = 0
    acting_trainer: str = ""
    acting_version: int = 0
    policy_age_s: float = 0.0
    data_age_s: float = 0.0
    mean_reward: float = 0.0
    mean_equity: float = 0.0
    slots: list[str] = []


class TrainerStatus(msgspec.Struct):
    """What a trainer does (cell `status/<name>`)."""

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
    skipped: int = 0  # updates whose loss or gradient was no number: not made
    faults: int = 0  # records of experience passed over: a number in them was none
    learning_rate: float = 0.0
    device: str = ""
    update_kind: str = ""  # how the gradients come about
    withheld: int = 0  # policies not published
    lost_batch: str = ""  # file with the newest batch that lost its numbers
    best_score: float = float("nan")  # of the policies published so far
    evaluated: int = 0  # updates of the newest evaluation
    unwritten: int = 0  # checkpoints, best policies and lost batches that the disk did not take
    disk_error: str = ""  # the newest of them, and why


class Standing(msgspec.Struct):
    """One published policy as the leaderboard ranks it."""

    trainer: str
    version: int = 0
    updates: int = 0
    score: float = float("nan")
    created_ns: int = 0
    state: str = ""  # quarantined; empty: its policy may act


class Leaderboard(msgspec.Struct):
    """Whose policy is best (cell `leaderboard`), kept by one of the trainers."""

    best: str = ""  # empty: nobody has a score, each follower's own order counts
    rows: list[Standing] = []
    keeper: str = ""
    at_ns: int = 0


class WorkerStatus(msgspec.Struct):
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
    generation: int = 0  # how often it was started on this mesh
    memory_bytes: int = 0  # of its own, whole MiB; 0 = not watched
    deaths: list[tuple[float, float, bool]] = []  # Death: monotonic s, seconds ready, hopeless


class Incident(msgspec.Struct):
    """One failure of a worker from its detection to its end."""

    worker: str
    kind: str  # exited, killed, hung, not ready, memory, quarantined, ...
    at: float  # wall clock seconds
    detected_s: float = 0.0  # from the fault (as far as it can be known) to its detection
    running_s: float = -1.0  # from the detection to ready again; -1 = not yet
    evidence: str = ""
    locks_broken: list[str] = []
    leases_broken: list[str] = []
    report: str = ""  # path of the crash report
    number: int = 0  # counts incidents; EVENT_DTYPE.incident and the logs carry it
    pid: int = 0  # of the process that failed
    generation: int = 0  # of the process that failed
    died_at: float = 0.0  # monotonic seconds of the confirmed death
    messages_replayed: int = -1  # taken again from its source after the restart; -1 = not known


class ForeignStatus(msgspec.Struct):
    """A process that uses the mesh and is not the daemon's: seen, never killed."""

    name: str  # its heartbeat row, or what it holds
    pid: int
    start_time: int
    state: str  # alive, silent (its own deadline passed), dead
    holds: list[str] = []  # leases and locks
    since: float = 0.0  # wall clock seconds when it was first seen


class SupervisorStatus(msgspec.Struct):
    """What the daemon knows (cell `supervisor`); readable while it is dead."""

    pid: int
    start_time: int
    since: float
    version: str
    profile: str
    state: str  # starting, healthy, degraded, stopping
    ready: bool = False
    safe_state: str = ""  # empty: acting is allowed; else why it is not
    workers: list[WorkerStatus] = []
    incidents: list[Incident] = []
    control: str = ""  # path of the control socket
    logs: str = ""  # directory of the workers' logs
    foreign: list[ForeignStatus] = []
    rolling: dict[str, int] = {}  # rolling restart: worker -> generation that is to be replaced
    configuration: str = ""  # fingerprint of the settings in force
    reload_error: str = ""  # why the last changed configuration or upgrade was refused
