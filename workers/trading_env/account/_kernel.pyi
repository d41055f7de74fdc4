from typing import Any, Self, TypeAlias

import numpy as np

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

class Block:
    def __new__(cls, rows: _Array, /) -> Self: ...

class Lanes:
    def __new__(
        cls, memory: _Array, pending: _Array, frames: _Array, steps: _Array, rules: _Array, /
    ) -> Self: ...
    def start(self, block: Block, rows: _Array, lanes: _Array, /) -> None: ...
    def unsound(self, actions: _Array, /) -> int: ...
    def step(
        self,
        block: Block,
        now: _Array,
        then: _Array,
        actions: _Array,
        fresh: _Array | None,
        hold: bool,
        newest: int,
        data_ends: _Array | None,
        step_limit: int,
        /,
    ) -> Outcome: ...

class Outcome:
    reward: _Array
    ruined: _Array
    truncated: _Array
    ended: _Array
    change: _Array
    costs: _Array
    swept: _Array
    reasons: _Array
    cash: _Array
    equity: _Array
    steps: _Array
    ts_event: _Array
    any_ended: bool
    broken: int
