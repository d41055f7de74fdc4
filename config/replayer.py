"""The replayer: recorded or synthetic market data, published as Avro."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


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
    loop: bool = Field(
        default=True,
        description="Begin again at the end of recorded data, later by whole days.",
    )
    batch: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=2000, description="Messages sent before their delivery is waited for."
    )
    follow: str = Field(
        default="ingest",
        description="Worker whose consumption is followed; empty: nobody is waited for.",
    )
    max_ahead: Annotated[int, Field(ge=1, le=10_000_000)] = Field(
        default=20_000,
        description="Messages sent beyond what the followed worker has consumed: the embedded "
        "broker keeps 5 MiB a partition and drops the oldest.",
    )
