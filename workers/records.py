"""Everything that crosses the mesh between workers: record dtypes, Structs, segment names.

One home for the contract between processes that never import each other. Prices are in the
quote currency of the instrument, sizes in contracts or shares, times are integer nanoseconds
since the Unix epoch (UTC) unless a name says otherwise, NaN means "absent".
"""

from __future__ import annotations

import msgspec
import numpy as np

# --- segment names -------------------------------------------------------------------------
TICKS = "ticks"
QUOTES = "quotes"
MARKET = "market"
EXPERIENCE = "experience"
EVENTS = "events"
BROKER = "broker"
SUPERVISOR = "supervisor"
LEADERBOARD = "leaderboard"


def policy_segment(trainer: str) -> str:
    """Name of the tensors segment that holds the published policy of `trainer`."""
    return f"policy/{trainer}"


def learner_segment(trainer: str) -> str:
    """Name of the tensors segment that holds the learner state of `trainer`."""
    return f"learner/{trainer}"


def status_segment(worker: str) -> str:
    """Name of the cell in which `worker` publishes its status Struct."""
    return f"status/{worker}"


def cursor_segment(reader: str) -> str:
    """Name of the cell in which `reader` says how far it got in a ring."""
    return f"cursor/{reader}"


# --- dimensions of the trading environment -------------------------------------------------
WINDOW = 16
SLOTS = 10
GREEKS = 5  # delta, gamma, theta, vega, rho: in this order everywhere
INDICATORS = 20
FEATURES = 100

SYMBOL_BYTES = 32

# One market data message as the ring carries it, and the latest of each instrument in the
# table. (topic, partition, offset) make the ring the truth about what has been consumed.
TICK_DTYPE = np.dtype(
    [
        ("symbol", f"S{SYMBOL_BYTES}"),
        ("ts_event", "<i8"),  # exchange time, ns
        ("ts_recv", "<i8"),  # first receipt by the publisher, ns; 0 = not given
        ("ts_ingest", "<i8"),  # when ingest published the row, ns (wall clock)
        ("bid", "<f8"),
        ("ask", "<f8"),
        ("last", "<f8"),
        ("bid_size", "<f8"),
        ("ask_size", "<f8"),
        ("volume", "<i8"),
        ("open_interest", "<i8"),
        ("implied_volatility", "<f8"),  # per year, 0.2 = 20 %
        ("delta", "<f8"),
        ("gamma", "<f8"),
        ("vega", "<f8"),  # per 1.00 of volatility
        ("theta", "<f8"),  # per year
        ("rho", "<f8"),  # per 1.00 of rate
        ("underlying_price", "<f8"),
        ("sequence", "<i8"),  # the publisher's own sequence; -1 = not given
        ("offset", "<i8"),  # Kafka offset
        ("partition", "<i4"),
        ("topic", "<i4"),  # index into the configured topics
        ("flags", "<u4"),  # quality gate bits, workers/ingest/gates.py
        ("source_flags", "<u4"),  # flags as sent by the publisher
        ("venue", "S8"),
    ]
)

# The state of the market at one decision point, as the feeder saw it. `market` carries it.
MARKET_DTYPE = np.dtype(
    [
        ("ts_event", "<i8"),  # newest exchange time that went into the state, ns
        ("ts_published", "<i8"),  # wall clock, ns
        ("step", "<i8"),  # counts market states since the segment was created
        ("underlying", "<f8"),
        ("contract", f"S{SYMBOL_BYTES}", (SLOTS,)),  # empty = the slot holds nothing
        ("strike", "<f8", (SLOTS,)),
        ("expiry", "<i8", (SLOTS,)),  # ns
        ("right", "<i1", (SLOTS,)),  # +1 call, -1 put, 0 empty
        ("bid", "<f8", (SLOTS,)),  # NaN = side absent
        ("ask", "<f8", (SLOTS,)),
        ("bid_size", "<f8", (SLOTS,)),
        ("ask_size", "<f8", (SLOTS,)),
        ("price", "<f8", (SLOTS,)),  # the mark used for valuation, always finite
        ("previous_price", "<f8", (SLOTS,)),  # at a roll that of the contract that left, else price
        ("previous_half_spread", "<f8", (SLOTS,)),  # of that contract; 0 when it was settled
        ("rolled", "?", (SLOTS,)),  # the slot changed its contract in this state
        ("tradeable", "?", (SLOTS,)),  # both sides quoted and fresh
        ("greeks", "<f8", (SLOTS, GREEKS)),
        ("implied_volatility", "<f8", (SLOTS,)),
        ("indicators", "<f4", (INDICATORS,)),
        ("age_s", "<f4"),  # market time since the newest quote used
        ("stale", "?"),  # acting on this state is not allowed
        ("closed", "?"),  # the market is closed
    ],
    align=True,
)

# One step of one lane. A window of WINDOW frames is stacked from the records at sequence,
# sequence - lanes, sequence - 2 * lanes, ... of the same episode; the first frame of the
# episode fills what is missing. `frame` was observed *after* `action`: the transition of a
# record that is not `first` is
#   (window ending at sequence - lanes, action, reward, window ending at sequence, terminated).
# A `first` record starts an episode and has no action. Frames are stored once.
EXPERIENCE_DTYPE = np.dtype(
    [
        ("frame", "<f4", (FEATURES,)),
        ("action", "<f4", (SLOTS,)),
        ("reward", "<f4"),
        ("first", "?"),
        ("terminated", "?"),
        ("truncated", "?"),
        ("exploratory", "?"),
        ("lane", "<u4"),
        ("lanes", "<u4"),
        ("episode", "<i8"),  # unique per lane, increasing
        ("step", "<i8"),  # within the episode; 0 where first
        ("market_step", "<i8"),
        ("policy_version", "<i8"),  # 0 = acted without a policy (random)
        ("policy_trainer", "S16"),
        ("ts_event", "<i8"),
        ("ts_published", "<i8"),
        ("equity", "<f8"),
        ("data_age_s", "<f4"),
        ("policy_age_s", "<f4"),
    ],
    align=True,
)

# What happened to the system; kept by the daemon, read by meshctl and the recorder.
EVENT_DTYPE = np.dtype(
    [
        ("ts", "<i8"),  # wall clock, ns
        ("kind", "S24"),
        ("severity", "S8"),  # info, warning, error
        ("worker", "S32"),
        ("pid", "<i4"),
        ("incident", "<i4"),
        ("value", "<f8"),
        ("text", "S256"),  # UTF-8, cut at a character boundary
    ],
    align=True,
)


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
    gated: int = 0
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
    kind: str
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
