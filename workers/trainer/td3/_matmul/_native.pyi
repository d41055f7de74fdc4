from typing import Any, TypeAlias

import numpy as np

_Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]

ADD: int
RELU: int
HALF: int

def units() -> tuple[bool, bool]: ...
def product(
    out: _Array,
    left: _Array,
    right: _Array,
    bias: _Array | None,
    mask: _Array | None,
    flags: int,
    /,
) -> None: ...
