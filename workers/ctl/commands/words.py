"""`meshctl words KIND`: names for shell completion; not listed in the help."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from workers.contract.names import SUPERVISOR
from workers.ctl.failure import Exit
from workers.ctl.report import read_cell

if TYPE_CHECKING:
    from mesh import Mesh


def words(mesh: Mesh, options: argparse.Namespace) -> int:
    """Print the names of one kind in the mesh, one per line."""
    if options.kind == "workers":
        found = [row["name"] for row in read_cell(mesh, SUPERVISOR).get("workers", [])]
    else:
        kind = {"rings": "ring", "locks": "lock"}.get(options.kind)
        found = [info.name for info in mesh.segments() if kind in {None, info.kind}]
    print("\n".join(found))
    return Exit.HEALTHY
