"""Back-pressure: how far the slowest named reader of the ring is behind.

A ring does not wait for its readers: one that is overtaken learns how much it lost. Where that is
not acceptable, readers are named (`ingest.followers`) and write how far they got into `cursor/NAME`
(`workers.contract.statuses.ReaderCursor`); ingest does what `ingest.back_pressure` says while one
of them is behind by more than a share of the ring. A reader that is not alive blocks nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh import MeshError, NotWritten, SegmentMissing
from workers.contract.names import cursor_segment
from workers.contract.statuses import ReaderCursor

if TYPE_CHECKING:
    from mesh import Mesh, Ring


class Backpressure:
    """Reads the cursors of the followers of one ring.

    Attributes:
        limit: records that a follower may be behind.
        slowest: name of the slowest follower; empty: all are caught up.
        backlog: records that it is behind.
    """

    def __init__(self, mesh: Mesh, ring: Ring, followers: tuple[str, ...], share: float) -> None:
        """Limit the backlog of `followers` to `share` of the ring's capacity."""
        self._mesh, self._ring = mesh, ring
        self._cells: dict[str, Any] = dict.fromkeys(followers)
        self.limit = int(share * ring.capacity)
        self.slowest = ""
        self.backlog = 0

    def is_high(self, coming: int) -> bool:
        """Whether `coming` more records would put a follower too far behind."""
        self.slowest, self.backlog = "", 0
        for name in self._cells:
            behind = self._ring.published - self._sequence(name)
            if behind > self.backlog:
                self.slowest, self.backlog = name, behind
        return self.backlog > 0 and self.backlog + coming > self.limit

    def _sequence(self, name: str) -> int:
        """Return what a live follower reads next; one that is not alive counts as caught up."""
        cell = self._cells[name]
        try:
            if cell is None:
                cell = self._mesh.cell(cursor_segment(name), ReaderCursor)
                self._cells[name] = cell
            owner = cell.info.owner
            if owner is None or not owner.is_alive():
                return self._ring.published
            cursor: ReaderCursor = cell.read()[1]
        except (SegmentMissing, NotWritten):
            return self._ring.published
        except MeshError:  # recreated: open it again next time
            self._cells[name] = None
            return self._ring.published
        return cursor.sequence
