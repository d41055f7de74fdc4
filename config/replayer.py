"""The replayer: recorded or synthetic market data, published as Avro."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PoisonKind = Literal["empty", "magic", "unknown_id", "truncated", "garbage", "tombstone"]


class ReplayerFaults(BaseModel):
    """Faults mixed into what is published, for tests and demos; shares of the rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    poison: Share = Field(
        default=0.0, description="Rows followed by an extra message that cannot be decoded."
    )
    poison_kinds: tuple[PoisonKind, ...] = Field(
        default=("empty", "magic", "unknown_id", "truncated", "garbage", "tombstone"),
        min_length=1,
        description="Faults of those messages, in turn.",
    )
    duplicate: Share = Field(default=0.0, description="Rows sent twice.")
    reorder: Share = Field(
        default=0.0, description="Rows sent after the next row of their symbol in the batch."
    )
    nan: Share = Field(default=0.0, description="Rows with NaN for bid, ask and last.")
    crossed: Share = Field(default=0.0, description="Rows with a bid above the ask.")
    least: Share = Field(
        default=0.0,
        description="Rows written with a schema of symbol, timestamp, bid and ask only.",
    )
    evolve_every: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="Rows after which the writer changes to an evolved schema, and back; 0: never.",
    )


class ReplayerConfig(BaseModel):
    """What is published, how fast, and how far ahead of its consumer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path | None = Field(
        default=None,
        description="Recorded data, a file or a folder: QuantConnect-Lean zips, Deribit snapshots, "
        "Binance JSON lines, Parquet or CSV tables; empty: a synthetic market.",
    )
    format: Literal[
        "auto",
        "lean-option",
        "lean-equity",
        "lean-forex",
        "lean-crypto",
        "deribit",
        "binance",
        "table",
    ] = Field(default="auto", description="Family of the recorded data; auto: recognised.")
    date: Annotated[str, Field(pattern=r"^(\d{8})?$")] = Field(
        default="", description="Day of the recorded data, YYYYMMDD; empty: the largest file."
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = Field(
        default=7, description="Seed of the synthetic market."
    )
    start: str = Field(
        default="2026-01-05T14:30:00+00:00",
        description="First moment of the synthetic market, ISO 8601 with an offset.",
    )
    speed: Annotated[float, Field(ge=0.0, le=1e6)] = Field(
        default=60.0, description="Market seconds a second; 0: as fast as it is consumed."
    )
    max_gap_s: Annotated[float, Field(ge=0.0, le=1e9)] = Field(
        default=0.0,
        description="Market seconds without data that are waited out; a longer gap (a night, "
        "the quiet before the opening) is skipped. 0: every gap is waited out.",
    )
    burst_every_s: Annotated[float, Field(ge=0.0, le=86_400.0)] = Field(
        default=0.0, description="Seconds from one burst to the next; 0: no bursts."
    )
    burst_length_s: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(
        default=0.1, description="Seconds that a burst lasts."
    )
    burst_factor: Annotated[float, Field(ge=1.0, le=1000.0)] = Field(
        default=10.0, description="How many times faster market time passes in a burst."
    )
    loop: bool = Field(
        default=True,
        description="Start again at the end of recorded data, with times later by whole days.",
    )
    rows: Annotated[int, Field(ge=0)] = Field(
        default=0, description="Rows after which it is finished; 0: all rows."
    )
    batch: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=2000, description="Messages sent before their delivery is waited for."
    )
    follow: str = Field(
        default="ingest",
        description="Worker whose consumption is followed; empty: it waits for no consumer.",
    )
    max_ahead: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=20_000,
        description="Messages sent beyond what the followed worker has consumed: the embedded "
        "broker keeps 5 MiB a partition and drops the oldest.",
    )
    faults: ReplayerFaults = ReplayerFaults()
