"""A place in an archive: look at the rows that come next, go on by some of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from workers.market_data.archive import Archive, Rows, blank


class Cursor:
    """Reads an archive from a position on; holds a block or two of it."""

    def __init__(self, archive: Archive, position: int) -> None:
        """Begin at `position`."""
        self._archive = archive
        self.position = position
        self._held = blank(0)
        self._blocks: Iterator[Rows] | None = archive.blocks(position)

    def peek(self, count: int) -> Rows:
        """Return the next `count` rows, fewer only at the end. Raises MarketDataError."""
        while self._held.size < count and self._blocks is not None:
            rows = next(self._blocks, None)
            if rows is None:
                self._blocks = None
            else:
                self._held = np.concatenate([self._held, rows]) if self._held.size else rows
        return self._held[:count]

    def advance(self, count: int) -> None:
        """Leave `count` of the rows that `peek` gave behind."""
        self._held = self._held[count:]
        self.position += count

    def rewind(self) -> None:
        """Begin again at position 0."""
        self.position = 0
        self._held = blank(0)
        self._blocks = self._archive.blocks()
