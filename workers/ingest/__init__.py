"""Kafka to shared memory: decoded, checked, accounted for, exactly once."""

from config.declaration import PLAIN, UNENCRYPTED_KAFKA, StatusSummary, WorkerDeclaration

WORKER = WorkerDeclaration(
    sections=("ingest", "kafka"),
    fork_server=PLAIN,
    refuses=UNENCRYPTED_KAFKA,
    status=StatusSummary(
        "IngestStatus",
        totals={
            "consumed": "consumed",
            "published": "published",
            "dead_lettered": "dead_lettered",
            "dropped": "dropped",
            "conflated": "conflated",
            "skipped": "skipped",
            "lost": "lost",
        },
        tables={"gates": "gates"},
    ),
)
