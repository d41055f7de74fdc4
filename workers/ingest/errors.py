"""Why a message or a batch could not be taken: one class for each thing that is done about it."""

from __future__ import annotations

from enum import StrEnum


class ErrorClass(StrEnum):
    """Of one message; it goes to the dead-letter topic under this name."""

    FRAME = "frame"  # no value, too short, wrong magic byte
    SCHEMA_UNKNOWN = "schema_unknown"  # the registry does not know the id
    SCHEMA_INCOMPATIBLE = "schema_incompatible"  # the writer's schema cannot be read as ours
    BODY = "body"  # the Avro body contradicts its schema
    VALUE = "value"  # a field that a row cannot hold
    GATE = "gate"  # a quality gate says dead_letter


class Poison(Exception):
    """One message that cannot become a row."""

    def __init__(self, kind: ErrorClass, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class RegistryUnavailable(Exception):
    """The registry does not answer: pause and try again; nothing is dead-lettered for it."""

    def __init__(self, text: str, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.retry_after_s = retry_after_s  # what the registry asked for


class SchemaUnknown(Exception):
    """The registry answers that it does not know a schema id."""


class SinkFull(Exception):
    """Dead letters can neither be delivered nor spooled: ingest must not pass them."""

    def __init__(self, text: str, letters: int) -> None:
        super().__init__(text)
        self.letters = letters  # how many there is no room for
