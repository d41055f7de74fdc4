"""`meshctl segments`: the directory, decoded."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workers.ctl import render
from workers.ctl.failure import CommandFailed, Exit

if TYPE_CHECKING:
    from mesh import Mesh


def segments(mesh: Mesh, options: argparse.Namespace) -> int:
    """List every readable segment."""
    found = list(mesh.segments())
    if not found and not mesh.path.is_dir():
        raise CommandFailed(
            f"{mesh.path}: no mesh is there; start one (meshd --profile NAME) or give --mesh DIR",
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
            "-" if each.owner is None else str(each.owner.pid),
            "" if each.owner is None or each.owner.is_alive() else render.state("dead"),
            render.moment(each.generation / 1e9),
        )
        for each in found
    ]
    titles = ("SEGMENT", "KIND", "SIZE", "RECORD", "CAPACITY", "PUBLISHED", "WRITER", "", "MADE")
    right = ("SIZE", "RECORD", "CAPACITY", "PUBLISHED", "WRITER")
    print("\n".join(render.table(titles, rows_of_text, right=right)))
    total = sum(each.size_bytes for each in found)
    print(f"{len(found)} segments, {render.size(total)} in {mesh.path}")
    return Exit.HEALTHY
