"""`meshctl show`: the content of a segment, decoded by its own schema."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from typing import TYPE_CHECKING, Any

from mesh.errors import NotWritten, SegmentMissing
from mesh.heartbeats import Heartbeats
from mesh.plain import Plain, PlainCell, PlainRing, PlainTable, PlainTensors
from mesh.spinlock import SpinLock
from workers.ctl import render
from workers.ctl.failure import CommandFailed, Exit

if TYPE_CHECKING:
    import numpy as np

    from mesh import Mesh


def attach(mesh: Mesh, name: str) -> Plain:
    """Attach to a segment.

    Raises:
        CommandFailed: There is no segment of that name; the error lists the names.
    """
    try:
        return mesh.attach_plain(name)
    except SegmentMissing as error:
        names = ", ".join(info.name for info in mesh.segments()) or "no segments"
        raise CommandFailed(
            f"no segment {name!r} in {mesh.path}; there are {names}", Exit.USAGE
        ) from error


def show(mesh: Mesh, options: argparse.Namespace) -> int:
    """Print the head and the content of a segment, or its schema."""
    segment = attach(mesh, options.segment)
    if options.schema:
        print(json.dumps(json.loads(segment.info.schema), indent=1))
        return Exit.HEALTHY
    if options.format == "json":
        content = _content(segment, options)
        print(render.as_json({"head": _head(segment), "content": content}))
        return Exit.HEALTHY
    needs_numpy = isinstance(segment, PlainTensors)  # slow to import: the head is printed before
    if needs_numpy:
        _print_head(segment)
    content = _content(segment, options)
    if not needs_numpy:
        _print_head(segment)
    print("\n".join(_lines(segment, content, options)))
    return Exit.HEALTHY


def _print_head(segment: Plain) -> None:
    print("\n".join(render.pairs(_head(segment))), end="\n\n", flush=True)


def _head(segment: Plain) -> dict[str, Any]:
    info, counters = segment.info, segment.statistics()
    writer = "-"
    if info.owner is not None:
        writer = f"pid {info.owner.pid}" + ("" if info.owner.is_alive() else " (dead)")
    return {
        "segment": info.name,
        "kind": info.kind,
        "size": render.size(info.size_bytes),
        "capacity": info.capacity,
        "writer": writer,
        "created": render.instant(info.generation),
        "published": info.published,
        "retries": counters.retries,
        "laps": counters.laps,
        "lost": counters.lost,
        "breaks": counters.breaks,
    }


def _content(segment: Plain, options: argparse.Namespace) -> Any:
    """Return what the segment holds as JSON values."""
    count = max(1, options.records)
    if isinstance(segment, PlainRing):
        first = max(segment.oldest, segment.published - count)
        return segment.reader(first).read(max_records=count)
    if isinstance(segment, PlainTable):
        return _table(segment, options.key, count)
    if isinstance(segment, SpinLock):
        owner = segment.owner()
        return None if owner is None else {"owner": owner.name, "pid": owner.identity.pid}
    if isinstance(segment, Heartbeats):
        return _heartbeats(segment)
    return _value(segment)


def _value(segment: PlainCell | PlainTensors) -> dict[str, Any] | None:
    try:
        version, value = segment.read()
    except NotWritten:
        return None
    if isinstance(segment, PlainCell):
        return {"version": version, "value": value}
    return {"version": version, "value": {name: _array(each) for name, each in value.items()}}


def _heartbeats(heartbeats: Heartbeats) -> list[dict[str, Any]]:
    now = time.monotonic_ns()
    return [
        {
            "worker": row.worker,
            "pid": row.pid,
            "alive": row.identity.is_alive(),
            "phase": row.phase.name.lower(),
            "phase_age_s": (now - row.phase_since_ns) / 1e9,
            "beat_age_s": (now - row.beat_ns) / 1e9,
            "expect_s": row.expect_s,
            "beats": row.beats,
            "progress": row.progress,
            "ready": row.ready,
        }
        for row in heartbeats.rows()
    ]


def _table(table: PlainTable, key: str | None, count: int) -> dict[str, Any]:
    if key is None:
        return {
            each.decode("utf-8", "replace"): table.read(each)[1] for each in table.keys()[:count]
        }
    try:
        return {key: table.read(key)[1]}
    except KeyError as error:
        raise CommandFailed(
            f"no key {key!r} in {table.name}; list the rows with: meshctl show {table.name}",
            Exit.USAGE,
        ) from error


def _array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Describe an array by dtype, shape and statistics; a short one by its values."""
    import numpy as np  # noqa: PLC0415 - only arrays need it

    summary: dict[str, Any] = {"dtype": str(array.dtype), "shape": list(array.shape)}
    numbers = array.astype(np.float64, copy=False)
    finite = numbers[np.isfinite(numbers)]
    if array.size <= render.MAX_ELEMENTS:
        values = array.astype(object)
        values[~np.isfinite(numbers)] = None
        return {**summary, "values": values.tolist()}
    if finite.size == 0:
        return {**summary, "not_finite": int(numbers.size)}
    return {
        **summary,
        "mean": float(finite.mean()),
        "std": float(finite.std()),
        "min": float(finite.min()),
        "max": float(finite.max()),
        "not_finite": int(numbers.size - finite.size),
    }


def _lines(segment: Plain, content: Any, options: argparse.Namespace) -> list[str]:
    """Return the content as lines for people."""
    if content is None:
        free = isinstance(segment, SpinLock)
        return ["free" if free else "no value was written yet"]
    if isinstance(segment, PlainRing):
        first = segment.published - len(content)
        rows = [{"": first + i, **render.named(row)} for i, row in enumerate(content)]
        return render.columns(rows, _width()) or ["no records yet"]
    if isinstance(segment, PlainTable):
        keyed = [{"key": key, **render.named(row)} for key, row in content.items()]
        total = len(segment.keys())
        left = total - len(keyed) if options.key is None else 0
        more = [f"{left:,} more rows; -n {total} shows all"] if left > 0 else []
        return render.columns(keyed, _width()) + more
    if isinstance(segment, PlainTensors):
        arrays = [
            (name, *(render.value_text(each.get(key, "")) for key in _COLUMNS))
            for name, each in content["value"].items()
        ]
        titles = ("ARRAY", *(key.upper() for key in _COLUMNS))
        return [f"version {content['version']}", "", *render.table(titles, arrays)]
    if isinstance(content, list):
        return render.columns(content, _width())
    return render.pairs(content)


def _width() -> int | None:
    """Return the columns of the terminal; None for a pipe or file, whose lines are not cut."""
    return os.get_terminal_size(1).columns or None if sys.stdout.isatty() else None


_COLUMNS = ("dtype", "shape", "mean", "std", "min", "max", "not_finite", "values")
