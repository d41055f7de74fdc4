"""TD3 on the experience in shared memory; the only home of torch besides its fork server."""

from config.declaration import ForkServerGroup, StatusSummary, WorkerDeclaration

WORKER = WorkerDeclaration(
    sections=("trainer", "trading", "tracking"),
    fork_server=ForkServerGroup(
        "learner",
        ("torch", "stable_baselines3", "workers.trainer.worker"),
        warm_up="workers.trainer.warm_up:warm_up",
    ),
    status=StatusSummary("TrainerStatus", publishes_policy=True),
)
