"""Windows of the last 16 frames of every lane, without copying one.

A frame is written to two columns, 16 apart, of the 32 that a lane has. The 16 that end with the
newest of the later columns are then the window, in order, whatever the step: a view. Twice the
memory of a window, and a frame written twice, instead of 15 frames moved at each step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from workers.contract.dtypes import FEATURES, WINDOW

if TYPE_CHECKING:
    from mesh.arrays import Array

HISTORY = 2 * WINDOW


class Windows:
    """The frames of n lanes: float32 (n, HISTORY, 100), columns c and c + 16 the same."""

    def __init__(self, lanes: int) -> None:
        """Start with windows of zeros."""
        self.frames = np.zeros((lanes, HISTORY, FEATURES), np.float32)
        #: column of the newest frame, 16 to 31
        self.at = HISTORY - 1

    @property
    def newest(self) -> Array:
        """The newest frames, (n, 100); a view."""
        return self.frames[:, self.at]

    def view(self) -> Array:
        """The windows, float32 (n, 16, 100), oldest frame first; valid until the next step."""
        return self.frames[:, self.at - WINDOW + 1 : self.at + 1]

    def of(self, lane: int) -> Array:
        """The window of one lane, float32 (16, 100), of its own."""
        return self.frames[lane, self.at - WINDOW + 1 : self.at + 1].copy()

    def next_column(self) -> int:
        """Return the column of the next frames; the step that wrote them sets `at` to it."""
        return self.at + 1 if self.at + 1 < HISTORY else WINDOW

    def restore(self, windows: Array) -> None:
        """Replace the windows by others, float32 (n, 16, 100)."""
        self.at = HISTORY - 1
        self.frames[:, :WINDOW] = self.frames[:, WINDOW:] = windows
