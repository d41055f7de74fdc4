"""What numpy can describe: dtypes for tests that anything crosses the mesh."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps

SCALARS = (
    nps.boolean_dtypes()
    | nps.integer_dtypes()
    | nps.floating_dtypes()
    | nps.complex_number_dtypes()
    | nps.byte_string_dtypes(min_len=1, max_len=9)
    | nps.unicode_string_dtypes(min_len=1, max_len=5)
    | nps.datetime64_dtypes()
    | nps.timedelta64_dtypes()
)


def _record(dtype, aligned):
    """Return a record dtype, its fields where a C compiler would put them if `aligned`."""
    if dtype.names is None:
        dtype = np.dtype([("only", dtype)])
    if aligned:
        fields = {name: dtype.fields[name][0] for name in dtype.names}
        dtype = np.dtype(list(fields.items()), align=True)
    return dtype


#: dtypes of records, nested and padded ones too
RECORDS = st.builds(
    _record,
    nps.array_dtypes(SCALARS, min_size=1, max_size=5) | nps.nested_dtypes(SCALARS, max_leaves=6),
    st.booleans(),
).filter(lambda dtype: dtype.itemsize > 0)
