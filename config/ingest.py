"""Ingest: batches, quality gates, dead letters."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

RawType = Annotated[str, Field(pattern=r"^[<>|]?([iu][1248]|f[248]|S[1-9][0-9]{0,3})$")]
Policy = Literal["flag", "hold", "drop", "dead_letter"]
#: Quality gates; the index of a gate is its bit in `flags`.
Gate = Literal[
    "nonfinite",
    "negative",
    "crossed",
    "locked",
    "zero_bid",
    "wide",
    "iv_range",
    "greek_sign",
    "future",
    "backwards",
    "duplicate",
    "jump",
    "stale",
    "expired",
    "unknown",
]
GATES: tuple[Gate, ...] = get_args(Gate)


class IngestConfig(BaseModel):
    """How messages become rows of the ring `ticks` and of the table `quotes`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=8192, description="Largest number of messages taken at once."
    )
    ring_capacity: Annotated[int, Field(ge=1024, le=1 << 26)] = Field(
        default=1 << 17, description="Records kept in the ring `ticks`."
    )
    quotes: Annotated[int, Field(ge=16, le=1 << 20)] = Field(
        default=8192, description="Instruments the table `quotes` has room for."
    )
    gates: dict[Gate, Policy] = Field(
        default_factory=dict,
        description="What happens to a row that a gate flags: flag (published with the bit set), "
        "hold (published with the last good numbers of its symbol), drop, dead_letter. Default: "
        "flag. If several gates flag a row, the action that is later in this list applies.",
    )
    wide_share: Annotated[float, Field(gt=0.0)] = Field(
        default=0.5, description="Spread above this share of the mid is flagged as wide."
    )
    iv_max: Annotated[float, Field(gt=0.0)] = Field(
        default=5.0, description="Implied volatility above this (5 = 500 %) is flagged."
    )
    future_s: Annotated[float, Field(gt=0.0)] = Field(
        default=1.0,
        description="Event time this many seconds after the publisher's receipt (else after ours) "
        "is flagged.",
    )
    stale_s: Annotated[float, Field(ge=0.0)] = Field(
        default=0.0,
        description="Event time this many seconds before the publisher's receipt (else behind the "
        "newest event time) is flagged; 0: never.",
    )
    symbols: tuple[str, ...] = Field(
        default=(),
        description="Patterns (`SPY*`) of the symbols that are known; others are flagged unknown, "
        "as are symbols for which there is no room in `quotes`. Empty: all are known.",
    )
    jump_share: Annotated[float, Field(gt=0.0)] = Field(
        default=0.5, description="Mid that moved by more than this share since the last one."
    )
    registry_backoff_s: Annotated[float, Field(gt=0.0, le=60.0)] = Field(
        default=0.5, description="Seconds between two tries while the registry is unreachable."
    )
    unknown_schema_s: Annotated[float, Field(gt=0.0, le=86400.0)] = Field(
        default=60.0,
        description="Seconds before the registry is asked again for an unknown schema id.",
    )
    dead_letter_timeout_s: Annotated[float, Field(gt=0.0, le=300.0)] = Field(
        default=5.0,
        description="Seconds within which a dead letter must be delivered, else it "
        "is spooled locally.",
    )
    spool_bytes: Annotated[int, Field(ge=4096)] = Field(
        default=64 << 20, description="Largest local spool of dead letters; full, ingest pauses."
    )
    sink_full: Literal["wait", "drop"] = Field(
        default="wait",
        description="While neither the dead-letter topic nor the spool (full, or on a full disk) "
        "accepts letters: `wait` (ingest pauses), `drop` (letters are lost and counted, good "
        "messages go on).",
    )
    latency_ms: Annotated[float, Field(ge=0.0, le=1000.0)] = Field(
        default=10.0,
        description="Milliseconds a fetch may wait for messages. 0: brokers are polled without a "
        "pause, which costs processor time on this host and on theirs.",
    )
    back_pressure: Literal["block", "conflate", "skip_to_end"] = Field(
        default="block",
        description="While a follower is too far behind: `block` (leave messages to the broker), "
        "`conflate` (publish the newest of each symbol in a batch, count the others), "
        "`skip_to_end` (go to the newest messages, count what lies between).",
    )
    followers: tuple[str, ...] = Field(
        default=(),
        description="Readers of `ticks` that must not be overtaken (workers that write a cursor: "
        "`feeder`); empty: slow readers lose records and learn how many.",
    )
    high_water: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5, description="Share of the ring that a follower may be behind."
    )
    profile: Literal["latency", "throughput"] = Field(
        default="latency",
        description="What the consumer is tuned for: `latency` asks again at once, `throughput` "
        "keeps a million messages ready and waits 10 ms for a batch to become full.",
    )
    fields: dict[str, str] = Field(
        default_factory=dict,
        description="Columns of a row by the field of the message that fills them (`a.b`: field b "
        "of record a; empty: not filled), over the shipped ones: each column from the field of its "
        "name, ts_event from timestamp, source_flags from flags.",
    )
    time_units: dict[Literal["ts_event", "ts_recv"], Literal["s", "ms", "us", "ns"]] = Field(
        default_factory=dict,
        description="Unit of a time that the writer's schema has as a plain number; default: ns. "
        "Avro's logical times bring their own unit.",
    )
    format: Literal["avro", "json", "raw"] = Field(
        default="avro",
        description="What a message is: `avro` (Confluent's frame and a schema id), `json` (an "
        "object with the fields of `fields`), `raw` (a record of `raw_fields`).",
    )
    raw_fields: dict[str, RawType] = Field(
        default_factory=dict,
        description="Fields of a raw record in their order, packed, as numpy types (`<f8`, `>i4`, "
        "`S16`); a message has exactly their size.",
    )
    reader_schema: str = Field(
        default="shipped",
        min_length=1,
        description="Avro schema through which messages are read: `shipped` (OptionQuote), "
        "`writer` (each message's own) or the path of a JSON file.",
    )
