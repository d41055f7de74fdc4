"""Ships what trainers measured to MLflow, outside their processes."""

from config.declaration import ForkServerGroup, Refusal, WorkerDeclaration

WORKER = WorkerDeclaration(
    sections=("tracking",),
    fork_server=ForkServerGroup("tracker", ("mlflow", "mlflow.tracking")),
    refuses=(
        Refusal(
            "tracking.uri",
            lambda value: value.partition(":")[0] in {"", "sqlite"},
            "SQLite is a desk's database",
            "name an MLflow server",
        ),
    ),
)
