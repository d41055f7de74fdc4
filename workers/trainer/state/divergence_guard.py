"""What is done when a learner diverges: skip the update, store the batch, roll back, end.

The update itself skips a gradient that is not finite; this class watches the count of skips. One
alone costs one batch. Some in a row, or weights that are not finite, cost a roll-back to the state
in shared memory with a smaller learning rate; roll-backs in a row end the worker, which the
supervisor starts again and, when that does not help, quarantines.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from workers.runtime.atomic_file import write_whole

if TYPE_CHECKING:
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    from workers.trainer.td3.update import Update

KEPT_BATCHES = 3
RECOVERY = 1.05  # of the learning rate, with each stored state
SLOWEST = 1 / 64
CHECK_EVERY = 32  # updates between two checks where a check waits for a device


class NumbersLost(Exception):
    """NaN or infinity came back after every roll-back."""


class DivergenceGuard:
    """Counts the skipped updates and roll-backs of one learner."""

    def __init__(self, update: Update, directory: Path, name: str, limit: int) -> None:
        """Watch an update.

        Args:
            update: the learner's.
            directory: where lost batches are stored, as `<name>-batch-*.npz`.
            name: of the trainer.
            limit: skips in a row before a roll-back, and roll-backs in a row before the end.
        """
        self._update = update
        self._directory, self._name, self._limit = directory, name, limit
        self._check_every = 1 if update.losses.device.type == "cpu" else CHECK_EVERY
        self._seen = float(update.skipped)
        self._in_a_row = 0
        self._rollbacks_in_a_row = 0
        self.batch = ""
        self.not_kept = 0

    def lost(self, batch: ReplayBufferSamples) -> bool:
        """Return whether `limit` updates in a row were skipped; store a batch that was."""
        if self._update.updates % self._check_every:
            return False
        skipped = float(self._update.skipped)
        if skipped == self._seen:
            self._in_a_row = 0
            return False
        self._seen = skipped
        self._in_a_row += 1
        self.store_batch(batch)
        return self._in_a_row >= self._limit

    def store_batch(self, batch: ReplayBufferSamples) -> None:
        """Write the batch to a file for later inspection; the newest few files stay."""
        arrays = {
            name: part.cpu().numpy() for name, part in batch._asdict().items() if part is not None
        }
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        path = self._directory / f"{self._name}-batch-{self._update.updates:012d}.npz"
        try:
            write_whole(path, buffer.getvalue(), temporary=f"{self._name}-batch.tmp")
        except OSError as error:  # a full disk costs the batch, not the learner
            self.batch = f"not kept: {error}"
            self.not_kept += 1
            return
        self.batch = str(path)
        kept = sorted(self._directory.glob(f"{self._name}-batch-*.npz"), reverse=True)
        for old in kept[KEPT_BATCHES:]:
            old.unlink(missing_ok=True)

    def rolled_back(self, factor: float) -> None:
        """Lower the learning rate after a roll-back.

        Args:
            factor: of the learning rate, once more with every roll-back in a row.

        Raises:
            NumbersLost: too many roll-backs in a row.
        """
        self._seen = float(self._update.skipped)
        self._in_a_row = 0
        self._rollbacks_in_a_row += 1
        if self._rollbacks_in_a_row >= self._limit:
            raise NumbersLost(
                f"{self._rollbacks_in_a_row} roll-backs in a row; the newest lost batch is "
                f"{self.batch or 'not kept: weights were lost without one'}"
            )
        slower = max(SLOWEST, factor**self._rollbacks_in_a_row)
        self._update.lr_factor = min(self._update.lr_factor, slower)

    def stored(self) -> None:
        """Raise the learning rate again: a finite state was stored."""
        self._rollbacks_in_a_row = 0
        self._update.lr_factor = min(1.0, self._update.lr_factor * RECOVERY)
