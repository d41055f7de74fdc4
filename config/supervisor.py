"""The daemon itself: control socket, events, limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SupervisorConfig(BaseModel):
    """How the daemon watches, remembers and stops."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch_interval_s: Annotated[float, Field(gt=0.0, le=10.0)] = Field(
        default=0.1, description="Longest time in seconds between two looks at the heartbeats."
    )
    starved_cpu_share: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.5,
        description="A silent worker that waited for a processor this share of its silence is "
        "starved, not hung.",
    )
    starved_patience: Annotated[float, Field(ge=1.0, le=100.0)] = Field(
        default=10.0, description="A starved worker gets this many times its deadline."
    )
    events: Annotated[int, Field(ge=16, le=1 << 20)] = Field(
        default=4096, description="Events kept in the ring `events`."
    )
    incidents: Annotated[int, Field(ge=1, le=64)] = Field(
        default=32, description="Newest incidents kept in the status."
    )
    rows: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=64, description="Heartbeat rows: workers and foreign processes at one time."
    )
    remove_at_stop: bool = Field(
        default=False, description="Remove the mesh and the control socket at an orderly stop."
    )
    ready_timeout_s: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(
        default=120.0, description="Seconds within which the required workers should be ready."
    )
