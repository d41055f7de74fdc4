"""`meshctl segments`: list the segments of a mesh."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workers.ctl import render
from workers.ctl.failure import CommandFailed, Exit

if TYPE_CHECKING:
    from mesh import Mesh, SegmentInfo


def segments(mesh: Mesh, options: argparse.Namespace) -> int:
    """List every readable segment.

    Raises:
        CommandFailed: The directory of the mesh does not exist.
    """
    found = list(mesh.segments())
    if not found and not mesh.path.is_dir():
        raise CommandFailed(
            f"there is no mesh at {mesh.path}; start one (meshd --profile NAME) or use --mesh DIR",
            Exit.DOWN,
        )
    if options.format == "json":
        rows = [
            {
                "name": each.name,
                "kind": each.kind,
                "size_bytes": each.size_bytes,
                "record_bytes": each.record_size,
                "capacity": each.capacity,
                "published": each.published,
                "generation": each.generation,
                "writer": None
                if each.owner is None
                else {"pid": each.owner.pid, "alive": each.owner.is_alive()},
            }
            for each in found
        ]
        print(render.as_json(rows))
        return Exit.HEALTHY
    rows_of_text = [
        (
            each.name,
            each.kind,
            render.size(each.size_bytes),
            render.size(each.record_size),
            f"{each.capacity:,}",
            f"{each.published:,}",
            _writer(each),
            render.moment(each.generation / 1e9),
        )
        for each in found
    ]
    titles = ("SEGMENT", "KIND", "SIZE", "RECORD", "CAPACITY", "PUBLISHED", "WRITER", "CREATED")
    right = ("SIZE", "RECORD", "CAPACITY", "PUBLISHED", "WRITER")
    print("\n".join(render.table(titles, rows_of_text, right=right)))
    total = sum(each.size_bytes for each in found)
    print(f"{len(found)} segments, {render.size(total)} in {mesh.path}")
    return Exit.HEALTHY


def _writer(info: SegmentInfo) -> str:
    """Return the process that may write, with a mark if it is dead; `-` if there is no writer."""
    if info.owner is None:
        return "-"
    return (
        f"{info.owner.pid}" if info.owner.is_alive() else f"{render.state('dead')} {info.owner.pid}"
    )
