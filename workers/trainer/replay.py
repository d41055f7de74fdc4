"""Batches straight from the experience ring: no private copy, several trainers share one memory.

Frames are stored once; a window is stacked from the records at sequence, sequence - lanes, ... of
the same episode when it is sampled, its first frame standing for what was before. What was copied
is whole if the ring's oldest sequence, asked afterwards, is not beyond it; else the batch is
drawn again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from workers.records import FEATURES, SLOTS, WINDOW
from workers.trainer.update import Batch

if TYPE_CHECKING:
    from mesh import Ring

Array = np.ndarray[Any, np.dtype[Any]]
TRIES = 100
MARGIN = 64  # steps that the writer may make while a batch is copied


class NoExperience(Exception):
    """There are not enough whole transitions to draw a batch from."""


class Replay:
    """Uniform sampling of transitions from a ring of EXPERIENCE_DTYPE."""

    def __init__(self, ring: Ring, batch: int, reward_scale: float, seed: int) -> None:
        """Allocate one batch; rewards are multiplied by `reward_scale`."""
        self._ring = ring
        self._view = ring.view()
        self._scale = reward_scale
        self.dice = np.random.default_rng(seed)
        self._back = np.arange(WINDOW - 1, -1, -1)
        shape = (batch, WINDOW, FEATURES)
        self._now = np.empty(shape, np.float32)
        self._next = np.empty(shape, np.float32)
        self._size = batch
        self.retries = 0

    def records(self) -> int:
        """Give how many records can be sampled from."""
        return max(0, self._ring.published - self._oldest())

    def sample(self) -> Batch:
        """Draw a batch; its observation tensors are reused by the next call.

        Raises NoExperience where too few records belong to whole transitions.
        """
        for _ in range(TRIES):
            sequences, rows = self._draw()
            lanes, step = rows["lanes"].astype(np.int64), rows["step"]
            used = self._windows(sequences, step, lanes, self._next)
            first = self._windows(sequences - lanes, step - 1, lanes, self._now)
            if min(used, first) < self._ring.oldest:
                self.retries += 1
                continue
            if not np.isfinite(rows["reward"]).all():
                raise NoExperience("a reward in the ring is not finite")
            return Batch(
                torch.from_numpy(self._now).view(self._size, -1),
                torch.from_numpy(self._next).view(self._size, -1),
                torch.from_numpy(np.ascontiguousarray(rows["action"])).view(-1, SLOTS),
                torch.from_numpy(rows["reward"] * np.float32(self._scale)),
                torch.from_numpy(rows["terminated"].astype(np.float32)),
            )
        raise NoExperience(f"the writer overtook {TRIES} batches; make the ring larger")

    def _oldest(self) -> int:
        """Give the oldest sequence that stays whole while a batch is copied."""
        oldest = self._ring.oldest
        if oldest == 0:
            return 0
        lanes = int(self._view["lanes"][(self._ring.published - 1) % self._ring.capacity])
        return oldest + (WINDOW + MARGIN) * lanes

    def _draw(self) -> tuple[Array, Array]:
        """Give the sequences of B records that end a transition, and the records."""
        low, high = self._oldest(), self._ring.published
        if high - low < self._size:
            raise NoExperience(f"{max(0, high - low)} records, a batch has {self._size}")
        chosen = np.empty(0, np.int64)
        for _ in range(TRIES):
            draw = self.dice.integers(low, high, self._size)
            chosen = np.concatenate([chosen, draw[self._ends_transition(draw)]])[: self._size]
            if chosen.size == self._size:
                return chosen, self._view[chosen % self._ring.capacity]
        raise NoExperience("hardly any record in the ring ends a transition")

    def _ends_transition(self, sequences: Array) -> Array:
        """Tell which records follow one of the same lane and episode."""
        capacity = self._ring.capacity
        slots = sequences % capacity
        step, lanes = self._view["step"][slots], self._view["lanes"][slots].astype(np.int64)
        before = sequences - lanes
        good = (step > 0) & ~self._view["first"][slots] & (before >= self._ring.oldest)
        earlier = np.maximum(before, 0) % capacity
        for name in ("episode", "lane"):
            good &= self._view[name][slots] == self._view[name][earlier]
        good &= self._view["step"][earlier] == step - 1
        reach = np.maximum(sequences - np.minimum(step, WINDOW) * lanes, 0)
        whole: Array = good & (reach >= self._ring.oldest)
        return whole

    def _windows(self, sequences: Array, step: Array, lanes: Array, out: Array) -> int:
        """Stack the windows that end at `sequences`; gives the oldest sequence that was used."""
        back = np.minimum(self._back, step[:, None])
        wanted = sequences[:, None] - back * lanes[:, None]
        out[...] = self._view["frame"][wanted % self._ring.capacity]
        return int(wanted.min())
