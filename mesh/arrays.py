"""The type of an array whose dtype and shape the text beside it says."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

#: Any NumPy array; a function that takes or returns one says its shape, dtype and units.
Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
