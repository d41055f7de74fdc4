"""Windows of the last 16 frames of every lane, each frame stored once.

Frames lie in a history of `HISTORY` columns; the window is a view of 16 of them that moves on by
one a step. When it reaches the end the newest 15 are copied to the front, which costs one copy in
`HISTORY - 15` steps instead of 15 frames copied at each.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from workers.records import FEATURES, WINDOW

Array = np.ndarray[Any, np.dtype[Any]]

HISTORY = 256


class Windows:
    """The frames of n lanes: float32 (n, HISTORY, 100)."""

    def __init__(self, lanes: int) -> None:
        """Start with windows of zeros; `fill` gives them their first frame."""
        self._frames = np.zeros((lanes, HISTORY, FEATURES), np.float32)
        self._newest = WINDOW - 1

    @property
    def newest(self) -> Array:
        """The newest frames, (n, 100); a writable view."""
        return self._frames[:, self._newest]

    def view(self) -> Array:
        """The windows, float32 (n, 16, 100), oldest frame first; valid until `advance`."""
        return self._frames[:, self._newest - WINDOW + 1 : self._newest + 1]

    def advance(self) -> Array:
        """Move on by one frame and give the place of the new ones, (n, 100), to be written."""
        if self._newest + 1 == HISTORY:
            self._frames[:, : WINDOW - 1] = self._frames[:, 1 - WINDOW :]
            self._newest = WINDOW - 2
        self._newest += 1
        return self.newest

    def fill(self, lanes: Array, frames: Array) -> None:
        """Let the windows of `lanes` (indices) consist of their first frame, (len(lanes), 100)."""
        self._frames[lanes, self._newest - WINDOW + 1 : self._newest + 1] = frames[:, None, :]

    def restore(self, windows: Array) -> None:
        """Take up windows (n, 16, 100)."""
        self._newest = WINDOW - 1
        self._frames[:, :WINDOW] = windows
