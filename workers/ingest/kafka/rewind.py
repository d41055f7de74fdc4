"""An operator's request to read some partitions again: written to a cell, fulfilled once.

    python -m workers.ingest.kafka.rewind --mesh DIRECTORY [--worker ingest] quotes/0=1500 ...

Ingest moves to these offsets, commits the new positions with its next batch and counts a rewind in
its status, where `meshctl` shows it. Rows that were published before are published again.
"""

from __future__ import annotations

import argparse
import sys
import uuid
from typing import TYPE_CHECKING

import msgspec

from mesh import Mesh, NotWritten, SegmentMissing
from workers.contract.names import status_segment
from workers.contract.statuses import IngestStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mesh import Cell


class RewindRequest(msgspec.Struct, frozen=True):
    """Positions to go to: the next offset to consume per "topic/partition"."""

    id: str
    positions: dict[str, int]


def rewind_segment(worker: str) -> str:
    """Return the name of the cell that holds the newest request for `worker`."""
    return f"rewind/{worker}"


class Rewinds:
    """The requests for one worker; each is returned once."""

    def __init__(self, mesh: Mesh, worker: str, done: str) -> None:
        """Begin after the request whose id is `done`."""
        self._mesh, self._name = mesh, rewind_segment(worker)
        self._cell: Cell[RewindRequest] | None = None
        self.done = done

    def new_request(self) -> dict[str, int]:
        """Return the positions of a new request, by partition name; empty without one."""
        try:
            if self._cell is None:
                self._cell = self._mesh.cell(self._name, RewindRequest)
            request = self._cell.read()[1]
        except (SegmentMissing, NotWritten):
            return {}
        if request.id == self.done:
            return {}
        self.done = request.id
        return request.positions


def main(argv: Sequence[str] | None = None) -> int:
    """Write a request for an ingest worker; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m workers.ingest.kafka.rewind")
    parser.add_argument("--mesh", required=True, help="directory of the mesh")
    parser.add_argument("--worker", default="ingest", help="name of the ingest worker")
    parser.add_argument("positions", nargs="+", metavar="TOPIC/PARTITION=OFFSET")
    arguments = parser.parse_args(argv)
    mesh = Mesh(arguments.mesh)
    known = mesh.cell(status_segment(arguments.worker), IngestStatus).read()[1].positions
    positions = {}
    for text in arguments.positions:
        name, _, offset = text.rpartition("=")
        if name not in known or not offset.isdigit():
            sys.stderr.write(f"{text!r}: expected one of {sorted(known)} = an offset\n")
            return 64
        positions[name] = int(offset)
    request = RewindRequest(id=uuid.uuid4().hex, positions=positions)
    mesh.cell(rewind_segment(arguments.worker), RewindRequest, create=True).write(request)
    return 0


if __name__ == "__main__":
    sys.exit(main())
