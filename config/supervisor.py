"""The daemon itself: control socket, events, limits."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class SupervisorConfig(BaseModel):
    """How the daemon watches workers, what it keeps of events, and who may control it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    watch_interval_s: Annotated[float, Field(gt=0.0, le=10.0)] = Field(
        default=0.05,
        description="Seconds between two checks of the heartbeats; longer where every deadline "
        "allows it.",
    )
    starved_patience: Annotated[float, Field(ge=1.0, le=1000.0)] = Field(
        default=50.0,
        description="Time that a silent worker waited for a processor or a disk does not count "
        "as a hang, up to this many times its deadline.",
    )
    events: Annotated[int, Field(ge=16, le=1 << 20)] = Field(
        default=4096, description="Events kept in the ring `events`."
    )
    incidents: Annotated[int, Field(ge=1, le=64)] = Field(
        default=32, description="Newest incidents kept in the status."
    )
    crash_reports: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=100, description="Newest crash reports kept."
    )
    rows: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=256,
        description="Heartbeat rows: one for each name, worker or foreign, that was ever used.",
    )
    remove_at_stop: bool = Field(
        default=False, description="Remove the mesh and the control socket at an orderly stop."
    )
    ready_timeout_s: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(
        default=120.0,
        description="Seconds after the start from which required workers that are not ready "
        "make the system degraded.",
    )
    unsafe_deaths: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3,
        description="A policy's learner that died this often within unsafe_period_s puts the "
        "system into its safe state.",
    )
    unsafe_period_s: Annotated[float, Field(gt=0.0, le=86400.0)] = Field(
        default=60.0, description="Seconds over which those deaths are counted."
    )
    stale_after_s: Annotated[float, Field(gt=0.0, le=86400.0)] = Field(
        default=5.0,
        description="Seconds without a running source of market data after which data is stale "
        "and the system goes into its safe state.",
    )
    control_group: str = Field(
        default="",
        description="Unix group, by name or number, that may control the daemon, besides root and "
        "its own user.",
    )
    read_group: str = Field(
        default="",
        description="Unix group, by name or number, that may query the daemon but not control it.",
    )
    requests_per_s: Annotated[float, Field(gt=0.0, le=10_000.0)] = Field(
        default=50.0, description="Requests a second that one user may send (bursts of twice that)."
    )
