"""Cell write and read from Python, in nanoseconds, beside a plain copy between numpy arrays."""

from __future__ import annotations

import json
import shutil
import tempfile
import timeit
from statistics import median

import numpy as np

from mesh import Mesh

RECORD = np.dtype([("x", "<f8", (8,))])
CALLS = 200_000


def nanoseconds(statement: str, names: dict[str, object]) -> float:
    """Median over five runs of the time of one call, ns."""
    timer = timeit.Timer(statement, globals=names)
    return median(timer.repeat(5, CALLS)) / CALLS * 1e9


def main() -> None:
    """Print one JSON line a figure; the peer is `a[:] = b` on private arrays of the same size."""
    path = tempfile.mkdtemp(prefix="mesh-bench-", dir="/dev/shm")
    try:
        cell = Mesh(path).cell("bench", RECORD, create=True)
        names: dict[str, object] = {"cell": cell, "a": np.zeros(1, RECORD), "b": np.ones(1, RECORD)}
        copy = nanoseconds("a[:] = b", names)
        for what, statement in (("write", "cell.write(a)"), ("read", "cell.read(b)")):
            value = nanoseconds(statement, names)
            line = {"bench": f"cell.{what}", "value": round(value, 1), "unit": "ns"}
            print(json.dumps({**line, "peer": round(copy, 1), "ratio": round(value / copy, 2)}))
    finally:
        shutil.rmtree(path)


if __name__ == "__main__":
    main()
