"""An embedded Kafka-protocol broker and schema registry, for demos and tests."""

from config.declaration import Refusal, WorkerDeclaration

WORKER = WorkerDeclaration(
    sections=("broker", "kafka"),
    refuses=(
        Refusal(
            "workers",
            lambda _name: True,
            "the embedded broker keeps messages in memory only",
            "remove it and configure real brokers",
        ),
    ),
)
