"""Back-pressure: how far the slowest named reader of the ring is behind.

A ring does not wait for its readers: one that is overtaken is told how much it lost. Where that is
not wanted, readers are named (`ingest.followers`), write how far they got into `cursor/NAME`
(`workers.contract.statuses.ReaderCursor`), and ingest does what `ingest.back_pressure` says while
one of them is behind by more than a share of the ring. A reader that is not alive holds up nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mesh import MeshError, NotWritten, SegmentMissing
from workers.contract.names import cursor_segment
from workers.contract.statuses import ReaderCursor

if TYPE_CHECKING:
    from mesh import Mesh, Ring


class Pressure:
    """Looks at the cursors of the followers of one ring."""

    def __init__(self, mesh: Mesh, ring: Ring, followers: tuple[str, ...], share: float) -> None:
        """Call the ring full when a follower is behind by `share` of its capacity."""
        self._mesh, self._ring = mesh, ring
        self._cells: dict[str, Any] = dict.fromkeys(followers)
        self.most = int(share * ring.capacity)
        self.slowest = ""
        self.backlog = 0

    def is_high(self, coming: int) -> bool:
        """Tell whether `coming` more records would put a follower too far behind."""
        self.slowest, self.backlog = "", 0
        for name in self._cells:
            behind = self._ring.published - self._sequence(name)
            if behind > self.backlog:
                self.slowest, self.backlog = name, behind
        return self.backlog > 0 and self.backlog + coming > self.most

    def _sequence(self, name: str) -> int:
        """Give where a live follower is; one that is not there is nowhere behind."""
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
        except MeshError:  # made anew: look for it again
            self._cells[name] = None
            return self._ring.published
        return cursor.sequence
