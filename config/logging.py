"""What is logged, in which form, and where the workers' own output goes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class LoggingConfig(BaseModel):
    """Logs of the daemon and of every worker."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severity that is written."
    )
    format: Literal["auto", "json", "console"] = Field(
        default="auto",
        description="json: one object a line; console: key=value for people; "
        "auto: console on a terminal, json elsewhere.",
    )
    directory: Path | None = Field(
        default=None,
        description="Directory of one log file a worker; empty: logs/ in the run directory.",
    )
    max_bytes: Annotated[int, Field(ge=4096, le=1 << 30)] = Field(
        default=8 << 20, description="Size of a log file in bytes before it is rotated."
    )
    keep: Annotated[int, Field(ge=0, le=100)] = Field(
        default=3, description="Rotated log files kept a worker."
    )
    max_lines_per_s: Annotated[float, Field(gt=0.0, le=1e6)] = Field(
        default=500.0,
        description="Lines a second that one worker may log (bursts of ten times that); the rest "
        "is counted and left out.",
    )
