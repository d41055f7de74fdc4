"""Publishes recorded or synthetic market data as Avro at a chosen speed."""

from collections.abc import Mapping
from typing import Any

from config.declaration import PLAIN, UNENCRYPTED_KAFKA, StatusSummary, WorkerDeclaration


def _describe(status: Mapping[str, Any]) -> str:
    """Return the source with its speed, or `finished`."""
    pace = "finished" if status["finished"] else f"{status['speed']:g}x"
    return f"{status['source']}, {pace}"


WORKER = WorkerDeclaration(
    sections=("replayer", "kafka"),
    fork_server=PLAIN,
    refuses=UNENCRYPTED_KAFKA,
    status=StatusSummary("ReplayerStatus", totals={"produced": "produced"}, describe=_describe),
)
