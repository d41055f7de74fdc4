"""A position in an archive, with access to the rows that follow."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from workers.market_data.archive import Archive, Rows, blank


class Cursor:
    """Reads an archive from a position on; keeps one or two blocks in memory."""

    def __init__(self, archive: Archive, position: int) -> None:
        """Start at row `position` of `archive`."""
        self._archive = archive
        self.position = position
        self._held = blank(0)
        self._blocks: Iterator[Rows] | None = archive.blocks(position)

    def peek(self, count: int) -> Rows:
        """Return the next `count` rows without advancing; fewer only at the end of the archive."""
        while self._held.size < count and self._blocks is not None:
            rows = next(self._blocks, None)
            if rows is None:
                self._blocks = None
            else:
                self._held = np.concatenate([self._held, rows]) if self._held.size else rows
        return self._held[:count]

    def advance(self, count: int) -> None:
        """Advance by `count` of the rows that `peek` returned."""
        self._held = self._held[count:]
        self.position += count

    def rewind(self) -> None:
        """Go back to position 0."""
        self.position = 0
        self._held = blank(0)
        self._blocks = self._archive.blocks()
