from typing import Any

from confluent_kafka import Message

OP_BYTES: int

class Plan:
    def __init__(self, ops: Any, pool: bytes, template: bytes) -> None: ...

class Batch:
    def __init__(
        self,
        arrays: tuple[Any, Any, Any, Any, Any, Any],
        places: list[tuple[str, int, int]],
        at_topic: int,
        at_partition: int,
        at_offset: int,
    ) -> None: ...
    count: int
    def take(self, messages: list[Message], following: Any, /) -> tuple[list[Message], int]: ...
    def take_values(self, values: list[bytes | None], /) -> None: ...
    def decode(self, plans: dict[int, Plan], /) -> int: ...
    def stamp(self, index: int, /) -> None: ...
    def clear(self) -> None: ...
