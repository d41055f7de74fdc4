from typing import Any

LAYOUT: dict[str, int]

class Gates:
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
        dead: int,
    ) -> None: ...
    clock: tuple[int, int]
    def find(self, rows: Any, numbers: Any, /) -> int: ...
    def judge(
        self,
        rows: Any,
        numbers: Any,
        fates: Any,
        latest: Any,
        counts: Any,
        now_ns: int,
        batch: int,
        /,
    ) -> tuple[int, int]: ...
