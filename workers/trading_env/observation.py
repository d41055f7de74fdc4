"""Windows of the last 16 frames of every lane, each frame stored once.

Frames lie in a history of `HISTORY` columns; the window is a view of 16 of them that moves on by
one a step. When it reaches the end the newest 16 are copied to the front, which costs one copy in
`HISTORY - 16` steps instead of 15 frames copied at each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.records import FEATURES, WINDOW

Array = np.ndarray[Any, np.dtype[Any]]

HISTORY = 64  # of 64 lanes it fits a second-level cache


class Windows:
    """The frames of n lanes: float32 (n, HISTORY, 100)."""

    def __init__(self, lanes: int) -> None:
        """Start with windows of zeros."""
        self.frames = np.zeros((lanes, HISTORY, FEATURES), np.float32)
        #: column of the newest frame
        self.at = WINDOW - 1

    @property
    def newest(self) -> Array:
        """The newest frames, (n, 100); a writable view."""
        return self.frames[:, self.at]

    def view(self) -> Array:
        """The windows, float32 (n, 16, 100), oldest frame first; valid until the next step."""
        return self.frames[:, self.at - WINDOW + 1 : self.at + 1]

    def of(self, lane: int) -> Array:
        """The window of one lane, float32 (16, 100), of its own."""
        return self.frames[lane, self.at - WINDOW + 1 : self.at + 1].copy()

    def following(self) -> int:
        """The column of the frames that come next; the step that wrote them sets `at` to it."""
        if self.at + 1 == HISTORY:
            self.frames[:, :WINDOW] = self.frames[:, -WINDOW:]
            self.at = WINDOW - 1
        return self.at + 1

    def restore(self, windows: Array) -> None:
        """Take up windows (n, 16, 100)."""
        self.at = WINDOW - 1
        self.frames[:, :WINDOW] = windows
