"""What a profile says about one worker: how it starts, when it hangs, how it is restarted."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from config.declaration import WorkerDeclaration, declaration_of, fork_server_groups
from config.section import Section

Seconds = Annotated[float, Field(ge=0.0, le=86400.0)]
PositiveSeconds = Annotated[float, Field(gt=0.0, le=86400.0)]


class RestartConfig(BaseModel):
    """Delays between restarts, and when a worker is quarantined."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    first_delay_s: Seconds = Field(
        default=0.0, description="Seconds before the restart after a first death."
    )
    base_delay_s: PositiveSeconds = Field(
        default=0.1, description="Seconds before the restart after a second death; then doubled."
    )
    max_delay_s: PositiveSeconds = Field(
        default=30.0, description="Longest delay in seconds between two restarts."
    )
    jitter: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.2, description="Share of the delay that is random, so that workers spread out."
    )
    healthy_s: PositiveSeconds = Field(
        default=30.0, description="Seconds of running after which earlier deaths are forgotten."
    )
    intensity: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=6, description="More deaths than this within period_s: quarantined."
    )
    period_s: PositiveSeconds = Field(
        default=60.0, description="Seconds over which deaths are counted for the intensity."
    )


class WorkerSpec(Section):
    """One worker of the system."""

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = Field(
        description="Name of the worker: its heartbeat row, log file and status cell."
    )
    worker: Annotated[str, StringConstraints(pattern=r"^[\w.]+:\w+$")] = Field(
        description="Its class, package.module:Class; imported in its own process only."
    )
    nursery: str = Field(
        default="",
        description="Fork server it is forked from: learner has torch and stable-baselines3, "
        "tracker has MLflow, plain has numpy. Not given: the one that the worker's package "
        "declares; empty: forked from the daemon.",
    )
    instances: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1,
        description="Number of processes: NAME-0, NAME-1, ... in the group NAME; a seed among its "
        "settings grows by one for each.",
    )
    group: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{0,32}$")] = Field(
        default="",
        description="Workers of one group are started, stopped and (one after the other) restarted "
        "by its name.",
    )
    role: Literal["", "policy", "data"] = Field(
        default="",
        description="What acting depends on. policy: a learner whose policy acts; data: a source "
        "of market data. While it does not run, the system is in its safe state.",
    )
    enabled: bool = Field(default=True, description="False: it is not started.")
    required: bool = Field(
        default=True, description="Whether the system is ready and healthy only with it."
    )
    depends_on: tuple[str, ...] = Field(
        default=(), description="Workers that must be ready before this one is started."
    )
    follow: Literal["resync", "restart"] = Field(
        default="resync",
        description="When a worker that it depends on restarts. resync: it goes on and finds the "
        "new process; restart: it is restarted afterwards (rest-for-one).",
    )
    start_deadline_s: PositiveSeconds = Field(
        default=60.0, description="Seconds from its start within which it must be ready."
    )
    heartbeat_deadline_s: PositiveSeconds = Field(
        default=0.2,
        description="Seconds without a beat after which it counts as hung; time without a "
        "processor does not count. The default is for workers with short steps.",
    )
    stop_grace_s: Seconds = Field(
        default=10.0, description="Seconds between SIGTERM and SIGKILL when it is stopped."
    )
    restart: RestartConfig = RestartConfig()
    memory_limit_bytes: Annotated[int, Field(ge=1 << 24)] | None = Field(
        default=None,
        description="Memory of its own (not the mesh) in bytes over which it is killed; "
        "empty: no limit.",
    )
    memory_recycle_share: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.8,
        description="Share of the memory limit at which it is restarted in an orderly way.",
    )
    rlimits: dict[
        Literal["as", "core", "cpu", "data", "fsize", "memlock", "nofile", "nproc", "stack"],
        Annotated[int, Field(ge=0)],
    ] = Field(default_factory=dict, description="Kernel limits of the process (setrlimit(2)).")
    cpu_affinity: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(), description="Processors it may run on; empty: all."
    )
    nice: Annotated[int, Field(ge=-20, le=19)] = Field(
        default=0, description="Scheduling priority, 19 the most modest."
    )
    env: dict[str, str] = Field(
        default_factory=dict, description="Environment variables for this process alone."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        description="Values for this worker alone, by key of its section (another seed, say).",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_declared_fork_server(cls, values: Any) -> Any:
        """Where the profile names no fork server, the one that the package declares."""
        if not isinstance(values, dict) or "nursery" in values:
            return values
        with contextlib.suppress(ValueError):  # the validator of `worker` reports it
            group = _declaration(str(values.get("worker", ""))).fork_server
            return {**values, "nursery": group.name} if group is not None else values
        return values

    @field_validator("worker")
    @classmethod
    def _declaration_is_readable(cls, value: str) -> str:
        _declaration(value)
        return value

    @field_validator("nursery")
    @classmethod
    def _fork_server_is_declared(cls, value: str, info: ValidationInfo) -> str:
        if value and "worker" in info.data:
            known = fork_server_groups([info.data["worker"]])
            expected = ", ".join(repr(name) for name in ["", *sorted(known)])
            if value not in known:
                raise PydanticCustomError(
                    "literal_error", "input should be {expected}", {"expected": expected}
                )
        return value

    @property
    def declaration(self) -> WorkerDeclaration:
        """What the package of the worker declares."""
        return declaration_of(self.worker)

    def expanded(self) -> tuple[WorkerSpec, ...]:
        """One specification for each instance; this one itself where there is one instance."""
        if self.instances == 1:
            return (self,)
        return tuple(
            WorkerSpec.model_validate(
                {
                    **self.model_dump(),
                    "name": f"{self.name}-{number}",
                    "instances": 1,
                    "group": self.group or self.name,
                    "settings": _seeded(self.settings, number),
                }
            )
            for number in range(self.instances)
        )


def _seeded(settings: dict[str, Any], number: int) -> dict[str, Any]:
    if not isinstance(settings.get("seed"), int):
        return settings
    return {**settings, "seed": settings["seed"] + number}


def _declaration(class_path: str) -> WorkerDeclaration:
    """The declaration of a worker class.

    Raises:
        ValueError: the package declares a worker, but cannot be imported.
    """
    try:
        return declaration_of(class_path)
    except Exception as error:
        raise ValueError(f"its package cannot be imported: {error!r}") from error
