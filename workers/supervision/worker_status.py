"""What a worker says of itself, read by the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh import Cell, MeshError
from workers.contract.names import status_segment

if TYPE_CHECKING:
    from collections.abc import Collection

    from mesh import Mesh
    from workers.supervision.managed_worker import ManagedWorker


def read_status(mesh: Mesh, worker: str) -> dict[str, Any]:
    """Return the fields of a worker's status cell; empty where it has none or is damaged."""
    try:
        cell = mesh.attach(status_segment(worker))
        try:
            return dict(cell.read()[1]) if isinstance(cell, Cell) else {}
        finally:
            cell.close()
    except (MeshError, ValueError, TypeError):
        return {}


def acting_trainer(mesh: Mesh, workers: Collection[ManagedWorker]) -> str:
    """Return the name of the learner whose policy acts; empty where that is not known."""
    if not any(worker.spec.role == "policy" for worker in workers):
        return ""
    for worker in workers:
        if acting := str(read_status(mesh, worker.name).get("acting_trainer", "")):
            return acting
    return ""
