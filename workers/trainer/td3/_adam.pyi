from typing import Any, TypeAlias

import numpy as np

_Vector: TypeAlias = np.ndarray[Any, np.dtype[Any]]

def step(
    values: _Vector,
    gradient: _Vector,
    first: _Vector,
    second: _Vector,
    target: _Vector | None,
    loss: float,
    number: float,
    rate: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    weight_decay: float,
    tau: float,
    /,
) -> bool: ...
