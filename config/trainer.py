"""The TD3 learners: networks, updates, and when policies and states are published or kept."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=1, le=10**9)]


class TrainerConfig(BaseModel):
    """TD3 (Fujimoto et al. 2018) on the experience in shared memory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: Annotated[tuple[Count, ...], Field(min_length=2, max_length=2)] = Field(
        default=(256, 256), description="Sizes of the two hidden layers of actor and critics."
    )
    policy: Literal["mlp", "frames", "transformer"] = Field(
        default="mlp",
        description="What is in front of the hidden layers: nothing (the window as it is), a "
        "small layer over each frame (cheap), or a transformer over the frames.",
    )
    frame_width: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=16, description="frames: features of each frame."
    )
    d_model: Annotated[int, Field(ge=2, le=4096)] = Field(
        default=32, description="transformer: width; 256 is for a GPU."
    )
    heads: Annotated[int, Field(ge=1, le=64)] = Field(
        default=2, description="transformer: heads of attention, a divisor of d_model."
    )
    layers: Annotated[int, Field(ge=1, le=64)] = Field(
        default=1, description="transformer: encoder layers; 4 are for a GPU."
    )
    features: Annotated[int, Field(ge=1, le=65536)] = Field(
        default=64, description="transformer: features that the hidden layers see; 512 on a GPU."
    )
    batch: Annotated[int, Field(ge=2, le=65536)] = Field(
        default=256, description="Transitions an update learns from."
    )
    learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=3e-4, description="Learning rate of Adam, for actor and critics."
    )
    gamma: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.99, description="Discount of the next state's value."
    )
    tau: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.005, description="Share by which the target networks follow at each update."
    )
    policy_noise: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.2, description="Standard deviation of the target policy's smoothing noise."
    )
    noise_clip: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        default=0.5, description="Largest smoothing noise."
    )
    policy_delay: Annotated[int, Field(ge=1, le=100)] = Field(
        default=2, description="Critic updates per update of the actor and of the target networks."
    )
    reward_scale: Annotated[float, Field(gt=0.0, le=1e6)] = Field(
        default=100.0, description="Factor of the reward as the critics see it."
    )
    learning_starts: Annotated[int, Field(ge=2, le=10**9)] = Field(
        default=2048, description="Records of experience there must be before the first update."
    )
    replay_ratio: Annotated[float, Field(ge=0.0, le=1e6)] = Field(
        default=0.0,
        description="Largest number of updates per new record of experience; 0: no limit.",
    )
    deterministic: bool = Field(
        default=False,
        description="Update number u draws from the same records whenever it is made: a killed and "
        "resumed run ends with the same weights as an undisturbed one. Needs a replay_ratio.",
    )
    n_steps: Annotated[int, Field(ge=1, le=100)] = Field(
        default=1,
        description="Rewards summed before the value of a later state replaces the rest.",
    )
    prioritised: bool = Field(
        default=False,
        description="Draw records by their error (prioritised replay) instead of uniformly.",
    )
    priority_alpha: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.6, description="prioritised: exponent of the error; 0: uniform."
    )
    priority_beta: Annotated[float, Field(ge=0.0, le=1.0)] = Field(
        default=0.4,
        description="prioritised: share of the sampling bias that is corrected; 1: all.",
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
        description="Lost updates in a row (NaN or infinity) before a roll-back, and roll-backs "
        "in a row after which the worker ends itself.",
    )
    rollback_learning_rate: Annotated[float, Field(gt=0.0, le=1.0)] = Field(
        default=0.5,
        description="Factor of the learning rate after a roll-back; it grows back by 5 % with "
        "each stored state.",
    )
    evaluate_every: Annotated[int, Field(ge=0, le=10**9)] = Field(
        default=2000,
        description="Updates between two evaluations on held-out data; 0: no evaluations.",
    )
    evaluate_on: str = Field(
        default="synthetic",
        min_length=1,
        description="The held-out market: synthetic, known_optimum, or a recorded file's path.",
    )
    evaluate_lanes: Annotated[int, Field(ge=1, le=4096)] = Field(
        default=16, description="Episodes of an evaluation, stepped together."
    )
    evaluate_steps: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=256, description="Steps of each episode of an evaluation."
    )
    gate: bool = Field(
        default=False,
        description="Publish only evaluated policies, and only if not worse than the last one.",
    )
    gate_tolerance: Annotated[float, Field(ge=0.0, le=10.0)] = Field(
        default=0.0, description="Share of the last score by which a new one may be worse."
    )
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = Field(
        default=0, description="Seed of the initial weights, the sampling and the noise."
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="Where torch computes; auto: on a GPU where there is one.",
    )
    precision: Literal["highest", "high", "medium"] = Field(
        default="highest",
        description="Precision of matrix products. highest: float32; high: TF32; medium: factors "
        "in bfloat16, each where the device supports it.",
    )
    kernel: Literal["own", "torch"] = Field(
        default="own",
        description="What multiplies matrices on one thread of a processor with AVX-512: a kernel "
        "of this project, or torch's library. Elsewhere torch multiplies.",
    )
    compile_networks: bool = Field(
        default=False,
        description="Let torch compile features extractors (frames, transformer) at their first "
        "use, which takes a minute; without a compiler the status reports it. For GPUs: on a "
        "processor it is slower.",
    )
    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        default=1, description="Threads torch may use in one trainer."
    )

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.d_model % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide d_model ({self.d_model})")
        if self.gate and self.evaluate_every == 0:
            raise ValueError("gate needs evaluate_every above 0: only evaluated policies pass it")
        if self.deterministic and self.replay_ratio == 0.0:
            raise ValueError("deterministic needs a replay_ratio above 0: it paces the updates")
        return self
