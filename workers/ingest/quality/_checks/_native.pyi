from typing import Any

LAYOUT: dict[str, int]
NAMES: tuple[str, ...]
PUBLISH: int
DROP: int
DEAD_LETTER: int
HELD: int

class QualityChecks:
    def __init__(
        self,
        memory: Any,
        wide_share: float,
        iv_max: float,
        jump_share: float,
        future_ns: int,
        stale_ns: int,
        hold: int,
        drop: int,
        dead_letter: int,
    ) -> None: ...
    clock: tuple[int, int]
    def index_symbols(self, rows: Any, indices: Any, /) -> int: ...
    def evaluate(
        self,
        rows: Any,
        indices: Any,
        dispositions: Any,
        latest: Any,
        counts: Any,
        now_ns: int,
        batch: int,
        /,
    ) -> tuple[int, int]: ...
