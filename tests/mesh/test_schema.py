"""Schemas: text that gives the dtype back."""

from __future__ import annotations

import numpy as np
import pytest

from mesh.schema import dtype_of, schema_of
from workers.records import EXPERIENCE_DTYPE, MARKET_DTYPE, TICK_DTYPE


@pytest.mark.parametrize("dtype", [TICK_DTYPE, MARKET_DTYPE, EXPERIENCE_DTYPE, np.dtype("<f4")])
def test_dtype_comes_back_from_its_schema(dtype):
    """Names, formats, offsets and size survive the text, aligned and nested ones too."""
    assert dtype_of(schema_of(dtype)) == dtype
    assert dtype_of(schema_of(dtype)).itemsize == dtype.itemsize


def test_dtype_with_objects_is_refused():
    """A dtype that holds Python objects means nothing in another process."""
    with pytest.raises(TypeError, match="cannot be shared"):
        schema_of(np.dtype([("x", "O")]))
