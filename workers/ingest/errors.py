"""Why a message or a batch could not be processed: one class for each way it is handled."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ErrorClass(StrEnum):
    """Class of one message's error; the message goes to the dead-letter topic under this name."""

    FRAME = "frame"  # no value, too short, wrong magic byte
    SCHEMA_UNKNOWN = "schema_unknown"  # the registry does not know the id
    SCHEMA_INCOMPATIBLE = "schema_incompatible"  # the writer's schema cannot be read as ours
    BODY = "body"  # the Avro body contradicts its schema
    VALUE = "value"  # a field that a row cannot hold
    GATE = "gate"  # a quality check with the policy dead_letter


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why one message does not become a row."""

    kind: ErrorClass
    text: str


class MessageRejected(Exception):
    """One message cannot become a row; `rejection` says why."""

    def __init__(self, kind: ErrorClass, text: str) -> None:
        super().__init__(text)
        self.rejection = Rejection(kind, text)


class RegistryUnavailable(Exception):
    """The registry does not answer: pause and try again; no message is rejected for it."""

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s  # what the registry asked for


class SchemaUnknown(Exception):
    """The registry answers that it does not know a schema id."""


class SinkFull(Exception):
    """Dead letters can be neither delivered nor spooled, so ingest must wait or lose them."""

    def __init__(self, text: str, letters: int) -> None:
        super().__init__(text)
        self.letters = letters  # how many there is no room for
