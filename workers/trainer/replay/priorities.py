"""Prioritised sampling over a ring's slots (Schaul et al., Prioritized Experience Replay, 2016).

A record's priority is (|TD error| + small)^alpha; new records get the largest one seen, so that
each is learned from soon. Weights (share of uniform / share drawn)^beta, the largest of a batch 1,
undo what the drawing biases. One cumulative sum a batch: 0.1 ms at 65,536 records.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from mesh.arrays import Array

SMALL = 1e-3
MARKS = 2


class Priorities:
    """Priorities of the records of a ring of `capacity` slots."""

    def __init__(self, capacity: int, alpha: float, beta: float) -> None:
        """Start with all records alike; alpha 0 draws uniformly, beta 1 undoes all bias."""
        self.alpha, self.beta = alpha, beta
        self.values = np.zeros(capacity, np.float32)
        self.marks = np.array([0.0, 1.0])  # next sequence without a priority; the largest so far

    def draw(self, rng: np.random.Generator, low: int, high: int, size: int) -> tuple[Array, Array]:
        """Return `size` sequences of [low, high) and their weights float32, not yet scaled."""
        capacity = len(self.values)
        fresh = np.arange(max(low, int(self.marks[0])), high)
        self.values[fresh % capacity] = self.marks[1]
        self.marks[0] = high
        priorities = self.values[np.arange(low, high) % capacity]
        summed = np.cumsum(priorities, dtype=np.float64)
        at = np.searchsorted(summed, rng.random(size) * summed[-1], side="right")
        at = np.minimum(at, high - low - 1)
        share = priorities[at] / summed[-1] * (high - low)
        weights = np.maximum(share, 1e-12) ** -self.beta
        return low + at, weights.astype(np.float32)

    def learned(self, sequences: Array, errors: Array) -> None:
        """Take the absolute TD errors (B,) of the records that a batch was made of."""
        found = (np.abs(errors) + SMALL) ** self.alpha
        sound = np.isfinite(found)
        self.values[sequences[sound] % len(self.values)] = found[sound]
        if sound.any():
            self.marks[1] = max(self.marks[1], float(found[sound].max()))
