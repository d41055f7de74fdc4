"""The feeder: pace of market states, lanes, exploration, which trainers it follows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

#: The field `policy_trainer` of an experience record holds at most 16 bytes.
TrainerName = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]+$", min_length=1, max_length=16)
]


class FeederConfig(BaseModel):
    """How quotes become experience."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    lanes: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=64, description="Paper portfolios stepped at every market state."
    )
    interval_s: Annotated[float, Field(gt=0.0, le=86_400.0)] = Field(
        default=60.0,
        description="Market seconds between two states: a new one when event time has advanced "
        "by as much.",
    )
    max_wait_s: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(
        default=1.0,
        description="Wall seconds after which new ticks make a state although event time advanced "
        "by less than interval_s.",
    )
    quiet_s: Annotated[float, Field(gt=0.0, le=3600.0)] = Field(
        default=5.0, description="Wall seconds without any tick after which the feeder reports it."
    )
    exploration: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.2, description="Standard deviation of the action noise of the noisiest lane."
    )
    greedy_share: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.25, description="Share of the lanes that act without noise."
    )
    noise_memory: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        default=0.5, description="Correlation of the noise of one state with the next."
    )
    episode_steps: Annotated[int, Field(ge=2, le=10**9)] = Field(
        default=512, description="Market states after which a lane's episode is truncated."
    )
    market_capacity: Annotated[int, Field(ge=16, le=1 << 24)] = Field(
        default=1 << 12, description="Records of the ring `market`."
    )
    experience_capacity: Annotated[int, Field(ge=64, le=1 << 26)] = Field(
        default=1 << 17, description="Records of the ring `experience` (about 600 bytes each)."
    )
    trainers: tuple[TrainerName, ...] = Field(
        default=("td3-0", "td3-1"),
        description="Trainers whose policies may act, in the order of preference when there is no "
        "leaderboard. Names have at most 16 characters, because each record of experience holds "
        "the name of the trainer whose policy made it.",
    )
    policy_max_age_s: Annotated[float, Field(gt=0.0, le=1e9)] = Field(
        default=3600.0,
        description="Wall seconds after which a policy no longer acts; without another one the "
        "lanes go to the safe state.",
    )
    safe_state: Literal["hold", "flatten"] = Field(
        default="hold",
        description="What the portfolios do while the supervisor says acting is not safe.",
    )
    live_max_lag_s: Annotated[float, Field(gt=0.0, le=86_400.0)] | None = Field(
        default=None,
        description="Seconds that event time may lag behind the wall clock before acting stops (a "
        "backlog after an outage must not be traded on); empty: no limit, as a replay needs.",
    )
    daemon_absence_s: Annotated[float, Field(gt=0.0, le=86_400.0)] | None = Field(
        default=None,
        description="Seconds without a living daemon after which acting stops; empty: never.",
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = Field(
        default=0, description="Seed of exploration and random actions."
    )

    @field_validator("trainers")
    @classmethod
    def _are_named_once(cls, trainers: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({name for name in trainers if trainers.count(name) > 1}):
            raise ValueError(f"{', '.join(twice)} is there twice")
        return trainers
