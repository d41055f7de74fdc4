"""The TD3 learners: network, updates, what is published and kept when."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=10**9)]


class TrainerConfig(BaseModel):
    """TD3 (Fujimoto et al. 2018) on the experience in shared memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: Annotated[tuple[Count, ...], Field(min_length=2, max_length=2)] = Field(
        default=(256, 256), description="Sizes of the two hidden layers of actor and critics."
    )
    batch: Annotated[int, Field(ge=2, le=65536)] = Field(
        default=256, description="Transitions an update learns from."
    )
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=3e-4, description="Of Adam, for actor and critics."
    )
    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.99, description="Discount of the next state's value."
    )
    tau: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.005, description="Share by which the targets follow."
    )
    policy_noise: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.2, description="Standard deviation of the target policy's smoothing noise."
    )
    noise_clip: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.5, description="Largest smoothing noise."
    )
    policy_delay: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="Critic updates for one of the actor and of the targets."
    )
    reward_scale: Annotated[float, Field(gt=0.0, le=1e6)] = Field(
        default=100.0, description="Factor of the reward as the critics see it."
    )
    learning_starts: Annotated[int, Field(ge=2, le=10**9)] = Field(
        default=2048, description="Records of experience there must be before the first update."
    )
    replay_ratio: Annotated[float, Field(ge=0.0, le=1e6)] = Field(
        default=0.0,
        description="Most updates for each new record of experience; 0: as many as time allows.",
    )
    publish_every: Count = Field(default=50, description="Updates between two published policies.")
    state_every: Count = Field(
        default=50, description="Updates between two copies of the learner in shared memory."
    )
    checkpoint_every: Count = Field(
        default=2000, description="Updates between two checkpoints on disk."
    )
    checkpoints: Annotated[int, Field(ge=1, le=100)] = Field(
        default=3, description="Checkpoints kept on disk."
    )
    rollbacks: Annotated[int, Field(ge=1, le=1000)] = Field(
        default=3,
        description="Roll-backs in a row (NaN or infinity) after which the worker ends itself.",
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = Field(
        default=0, description="Of the initial weights, the sampling and the noise."
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="Threads torch may use in one trainer."
    )
