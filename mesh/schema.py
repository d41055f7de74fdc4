"""What a segment holds, as text: enough to decode it without the code that wrote it.

The text is JSON with a fixed key order; its blake2b-128 is the fingerprint that an attach compares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np


def schema_of(kind: type[Any] | np.dtype[Any] | Mapping[str, np.ndarray[Any, Any]]) -> str:
    """Return the schema text of a msgspec Struct, a numpy dtype or a named set of arrays.

    Raises:
        TypeError: `kind` is none of the three, or a dtype that holds Python objects (an address
            means nothing in another process) or is an array without a field.
    """
    if isinstance(kind, np.dtype):
        if kind.subdtype is not None:
            raise TypeError(
                f"dtype {kind} is an array without a field: numpy would give it another shape; "
                "name it: np.dtype([('x', ...)])"
            )
        return _dump({"dtype": _description(kind)})
    if isinstance(kind, Mapping):
        arrays = {
            name: {"dtype": _description(a.dtype), "shape": list(a.shape)}
            for name, a in kind.items()
        }
        return _dump({"arrays": arrays})
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _dump({"struct": msgspec.json.schema(kind)})
    raise TypeError(f"expected a msgspec.Struct type, a numpy dtype or arrays, got {kind!r}")


def dtype_of(schema: str) -> np.dtype[Any]:
    """Return the dtype of a schema text made from one.

    Raises:
        ValueError: The text was not made from a dtype.
    """
    described = json.loads(schema)
    if "dtype" not in described:
        raise ValueError(f"the schema is not that of a dtype: {schema[:80]}")
    return _rebuilt(described["dtype"])


def _dump(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), sort_keys=False)


def _description(dtype: np.dtype[Any]) -> object:
    """Describe a dtype by offsets and names, so that aligned and nested ones come back equal."""
    if dtype.hasobject:
        raise TypeError(
            f"dtype {dtype} holds Python objects: they cannot be shared; use numbers, "
            "fixed-size bytes (S16) or a cell of a msgspec.Struct"
        )
    if dtype.subdtype is not None:
        base, shape = dtype.subdtype
        return {"base": _description(base), "shape": list(shape)}
    if dtype.fields is None:
        return dtype.str
    named = [(name, dtype.fields[name]) for name in dtype.names or ()]
    fields = [[name, _description(f[0]), *f[1:]] for name, f in named]  # offset, title if any
    return {"fields": fields, "itemsize": dtype.itemsize}


def _rebuilt(described: Any) -> np.dtype[Any]:
    if isinstance(described, str):
        return np.dtype(described)
    if "base" in described:
        return np.dtype((_rebuilt(described["base"]), tuple(described["shape"])))
    fields = described["fields"]
    return np.dtype(
        {
            "names": [field[0] for field in fields],
            "formats": [_rebuilt(field[1]) for field in fields],
            "offsets": [field[2] for field in fields],
            "titles": [field[3] if len(field) > 3 else None for field in fields],
            "itemsize": described["itemsize"],
        }
    )
