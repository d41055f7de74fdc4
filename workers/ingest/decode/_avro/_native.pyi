from typing import Any

from confluent_kafka import Message

OP_BYTES: int
BODY: int
FALLBACK: int
FRAME: int
INCOMPATIBLE: int
OK: int
PENDING: int
UNKNOWN: int
VALUE: int
OP_COPY: int
OP_DECIMAL: int
OP_END: int
OP_ENUM: int
OP_FAIL: int
OP_FIXED: int
OP_JUMP: int
OP_NULLABLE: int
OP_NUMBER: int
OP_REQUIRE_POSITIVE: int
OP_REQUIRE_TEXT: int
OP_SET: int
OP_SKIP: int
OP_SKIP_BOOL: int
OP_SKIP_BYTES: int
OP_SKIP_ENUM: int
OP_SKIP_INT: int
OP_SKIP_LONG: int
OP_SKIP_TEXT: int
OP_TEXT: int
OP_UNION: int
WIRE_BOOL: int
WIRE_DOUBLE: int
WIRE_FLOAT: int
WIRE_INT: int
WIRE_LONG: int
ROW_F4: int
ROW_F8: int
ROW_I1: int
ROW_I2: int
ROW_I4: int
ROW_I8: int
ROW_U1: int
ROW_U2: int
ROW_U4: int
ROW_U8: int
FLAG_CUT: int
FLAG_UTF8: int

class Plan:
    def __init__(self, ops: Any, pool: bytes, template: bytes) -> None: ...

class Batch:
    def __init__(
        self,
        arrays: tuple[Any, Any, Any, Any, Any, Any],
        partitions: list[tuple[str, int, int]],
        at_topic: int,
        at_partition: int,
        at_offset: int,
        is_direct: bool,
    ) -> None: ...
    count: int
    def load(self, messages: list[Message], next_offsets: Any, /) -> tuple[list[Message], int]: ...
    def load_values(self, values: list[bytes | None], /) -> None: ...
    def decode(self, plans: dict[int, Plan], /) -> int: ...
    def stamp(self, index: int, /) -> None: ...
    def clear(self) -> None: ...
