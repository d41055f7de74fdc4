"""Batches straight from the experience ring: no private copy, several trainers share one memory.

Frames are stored once; a window is stacked from the records at sequence, sequence - lanes, ... of
the same episode when it is sampled, its first frame standing for what was before. The two windows
of a transition overlap in all frames but one, so that 17 frames are copied and both windows are
views of them. What was copied is whole if the ring's oldest sequence, asked afterwards, is not
beyond it; else the batch is drawn again. A record with NaN or infinity is passed over and counted:
it never reaches a gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import ReplayBufferSamples

from workers.contract.dtypes import EXPERIENCE_DTYPE, FEATURES, SLOTS, WINDOW

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecNormalize

    from mesh import Ring
    from mesh.arrays import Array
    from workers.trainer.replay.priorities import Priorities

TRIES = 100
MARGIN = 64  # steps that the writer may make while a batch is copied
KEPT_FAULTS = 16
COLUMNS = SLOTS + 4  # action, done, reward, discount, weight


class Origin(NamedTuple):
    """Where the experience of a learner began."""

    generation: int  # of the ring
    sequence: int  # the first that counts
    updates: int  # of the learner then


class NoExperience(Exception):
    """There are not enough whole transitions to draw a batch from."""


class RingReplay(ReplayBuffer):
    """A replay buffer of stable-baselines3's kind over a ring of EXPERIENCE_DTYPE.

    The tensors of a batch lie in memory that the next `sample` uses again. Observations are
    (B, 16, 100) float32, actions (B, 10), rewards (times `reward_scale`), dones and
    discounts (B, 1).
    """

    def __init__(
        self,
        ring: Ring,
        *,
        reward_scale: float = 1.0,
        seed: int = 0,
        n_steps: int = 1,
        gamma: float = 0.99,
        device: torch.device | str = "cpu",
        priorities: Priorities | None = None,
    ) -> None:
        """Read from a ring that another process writes.

        Args:
            ring: records of EXPERIENCE_DTYPE.
            reward_scale: factor of the rewards.
            seed: of the generator that draws.
            n_steps: steps over which rewards of an episode are summed.
            gamma: discount of a step, used where `n_steps` is above 1.
            device: where the batches go.
            priorities: draw by these; None: uniformly.
        """
        super().__init__(1, OBSERVATIONS, ACTIONS, device=device)
        self._ring = ring
        self._view = ring.view()
        self._scale = np.float32(reward_scale)
        self._steps, self._gamma = n_steps, gamma
        self.rng = np.random.default_rng(seed)
        #: Only records before this sequence are drawn; None: all that were published.
        self.limit: int | None = None
        self.origin = Origin(ring.info.generation, self._oldest(), 0)
        self.priorities = priorities
        #: Of the newest batch, where there are priorities: weights (B, 1) of the critics' errors.
        self.weights: torch.Tensor | None = None
        self._sequences = np.empty(0, np.int64)
        self.retries = 0
        self.faults = 0
        self.faulty: list[int] = []  # the newest sequences that were passed over
        self._back = np.arange(WINDOW, -1, -1)
        self._frames = np.empty((0, WINDOW + 1, FEATURES), np.float32)
        self._later = np.empty((0, WINDOW, FEATURES), np.float32)
        self._columns = np.empty((0, COLUMNS), np.float32)
        self._ones = np.empty(0, np.float32)

    def size(self) -> int:
        """Return how many records can be sampled from."""
        return max(0, self._high() - self._oldest())

    def add(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse: the ring has a writer of its own."""
        raise TypeError("a RingReplay only reads; the feeder writes the experience ring")

    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplayBufferSamples:
        """Draw a batch.

        Args:
            batch_size: transitions in it (B).
            env: ignored; observations of the ring are not normalised.

        Returns:
            Observations and next observations (B, 16, 100), actions (B, 10), dones, rewards and
            discounts (B, 1), all float32; the next call overwrites them.

        Raises:
            NoExperience: too few records belong to whole transitions.
        """
        del env
        if len(self._frames) != batch_size:
            self._frames = np.empty((batch_size, WINDOW + 1, FEATURES), np.float32)
            self._later = np.empty((batch_size, WINDOW, FEATURES), np.float32)
            self._columns = np.empty((batch_size, COLUMNS), np.float32)
            self._ones = np.ones(self._frames.size, np.float32)
            self._sequences = np.empty(batch_size, np.int64)
        filled = 0
        for _ in range(TRIES):
            filled += self._fill(filled, batch_size)
            if filled == batch_size:
                return self._batch()
        raise NoExperience(
            f"{TRIES} batches in a row were overwritten or held faults ({self.faults} so far); "
            "make the ring larger, look at what writes it"
        )

    def learned(self, errors: torch.Tensor) -> None:
        """Set the priorities of the newest batch's records from their absolute TD errors (B,)."""
        if self.priorities is not None:
            self.priorities.learned(self._sequences, errors.cpu().numpy())

    def _batch(self) -> ReplayBufferSamples:
        following = self._later if self._steps > 1 else self._frames[:, 1:]
        columns = torch.from_numpy(self._columns)
        batch: tuple[torch.Tensor, ...] = (
            torch.from_numpy(self._frames[:, :-1]),
            columns[:, :SLOTS],
            torch.from_numpy(following),
            columns[:, SLOTS : SLOTS + 1],
            columns[:, SLOTS + 1 : SLOTS + 2],
            columns[:, SLOTS + 2 : SLOTS + 3],
        )
        if self.priorities is not None:
            weights = columns[:, SLOTS + 3 :]
            self.weights = (weights / weights.max()).to(self.device)
        if self.device.type != "cpu":
            batch = tuple(part.to(self.device, non_blocking=True) for part in batch)
        return ReplayBufferSamples(*batch)

    def _fill(self, start: int, size: int) -> int:
        """Draw into the rows from `start` on and return how many are whole and finite."""
        sequences, rows, weights = self._draw(size - start)
        lanes, step = rows["lanes"].astype(np.int64), rows["step"]
        frames, later, columns = self._frames[start:], self._later[start:], self._columns[start:]
        wanted = sequences[:, None] - np.minimum(self._back, step[:, None]) * lanes[:, None]
        whole = self._ring.gather(wanted, "frame", frames)
        reward, done = rows["reward"], rows["terminated"]
        discount: Array | float = self._gamma
        total = self._sum(frames)
        if self._steps > 1:
            reward, last, discount = self._returns(sequences, rows)
            done = last["terminated"]
            back = np.minimum(self._back[1:], last["step"][:, None])
            whole &= self._ring.gather(
                last["sequence"][:, None] - back * lanes[:, None], "frame", later
            )
            total += self._sum(later)
        if not whole:
            self.retries += 1
            return 0
        columns[:, :SLOTS], columns[:, SLOTS] = rows["action"], done
        columns[:, SLOTS + 1], columns[:, SLOTS + 2] = reward * self._scale, discount
        columns[:, SLOTS + 3] = weights
        self._sequences[start:] = sequences
        if np.isfinite(total):  # NaN and infinity survive a sum
            return sequences.size
        good = np.isfinite(frames.sum((1, 2)))
        if self._steps > 1:
            good &= np.isfinite(later.sum((1, 2)))
        self._count_faults(sequences[~good])
        count = int(good.sum())
        for part in (frames, later, columns, self._sequences[start:]):
            part[:count] = part[good]
        return count

    def _sum(self, values: Array) -> float:
        """Return the sum of all values; the BLAS takes half the time of `sum`."""
        flat = values.reshape(-1)
        return float(flat @ self._ones[: flat.size])

    def _returns(self, sequences: Array, rows: Array) -> tuple[Array, dict[str, Array], Array]:
        """Return rewards over up to n steps of the episode, where they end, and the discount."""
        last = {name: rows[name].copy() for name in ("step", "terminated", "truncated")}
        last["sequence"] = sequences.copy()
        rewards = rows["reward"].astype(np.float32)
        discounts = np.full(sequences.size, self._gamma, np.float32)
        goes_on = ~(rows["terminated"] | rows["truncated"])
        high = self._high()
        for further in range(1, self._steps):
            at = sequences + further * rows["lanes"]
            goes_on &= at < high
            found = self._view[np.where(goes_on, at, sequences) % self._ring.capacity]
            goes_on &= (found["lane"] == rows["lane"]) & (found["episode"] == rows["episode"])
            goes_on &= (found["step"] == rows["step"] + further) & np.isfinite(found["reward"])
            rewards[goes_on] += discounts[goes_on] * found["reward"][goes_on]
            discounts[goes_on] *= np.float32(self._gamma)
            last["sequence"][goes_on] = at[goes_on]
            for name in ("step", "terminated", "truncated"):
                last[name][goes_on] = found[name][goes_on]
            goes_on &= ~(found["terminated"] | found["truncated"])
        return rewards, last, discounts

    def _high(self) -> int:
        published = self._ring.published
        return published if self.limit is None else min(self.limit, published)

    def _oldest(self) -> int:
        """Return the oldest sequence that stays whole while a batch is copied."""
        published = self._ring.published
        if published == 0:
            return 0
        if self.limit is not None:  # what may be drawn depends on nothing but the limit
            return max(0, self.limit - self._ring.capacity // 2)
        oldest = self._ring.oldest
        return 0 if oldest == 0 else oldest + (WINDOW + MARGIN) * self._lanes()

    def _lanes(self) -> int:
        """Return the records of a step, as the newest one says."""
        return int(self._view["lanes"][(self._ring.published - 1) % self._ring.capacity])

    def _draw(self, size: int) -> tuple[Array, Array, Array]:
        """Return the sequences of B records that end a transition, the records, their weights."""
        low, high = self._oldest(), self._high()
        if high - low < size:
            raise NoExperience(f"{max(0, high - low)} records, a batch has {size}")
        if self.limit is not None and self._ring.oldest > max(0, low - WINDOW * self._lanes()):
            raise NoExperience(
                f"the writer is {self._ring.published - high} records ahead and overwrote what "
                "this learner is about to need; make the ring larger or the replay ratio smaller"
            )
        chosen, weights = np.empty(0, np.int64), np.empty(0, np.float32)
        records = np.empty(0, _HEAD)
        for _ in range(TRIES):
            if self.priorities is None:
                draw, share = self.rng.integers(low, high, size), np.ones(size, np.float32)
            else:
                draw, share = self.priorities.draw(self.rng, low, high, size)
            rows = np.empty(size, _HEAD)
            if not self._ring.gather(draw, "action", rows, "step"):
                self.retries += 1
                low, high = self._oldest(), self._high()
                continue
            good = self._ends_transition(draw, rows)
            chosen = np.concatenate([chosen, draw[good]])[:size]
            records = np.concatenate([records, rows[good]])[:size]
            weights = np.concatenate([weights, share[good]])[:size]
            if chosen.size == size:
                return chosen, records, weights
        raise NoExperience("hardly any record in the ring ends a whole transition")

    def _ends_transition(self, sequences: Array, rows: Array) -> Array:
        """Return which records follow one of the same lane and episode, and are finite."""
        step, lanes = rows["step"], rows["lanes"].astype(np.int64)
        before = sequences - lanes
        earlier = np.empty(sequences.size, _HEAD)
        there = self._ring.gather(np.maximum(before, 0), "action", earlier, "step")
        good: Array = (step > 0) & ~rows["first"] & (before >= self._ring.oldest) & there
        for name in ("episode", "lane"):
            good &= earlier[name] == rows[name]
        good &= earlier["step"] == step - 1
        reach = sequences - np.minimum(step, WINDOW) * lanes  # the oldest frame of its window
        good &= reach >= self._ring.oldest
        sound = np.isfinite(rows["reward"]) & np.isfinite(rows["action"].sum(1))
        if not sound.all():
            self._count_faults(sequences[~sound & good])
        good &= sound
        return good

    def _count_faults(self, sequences: Array) -> None:
        self.faults += int(sequences.size)
        self.faulty = (self.faulty + sequences.tolist())[-KEPT_FAULTS:]


def _part(dtype: np.dtype[Any], first: str, last: str) -> np.dtype[Any]:
    """Return the fields from `first` to `last` of `dtype` as a dtype of their own."""
    fields: Any = dtype.fields
    start, (kind, offset) = fields[first][1], fields[last][:2]
    names = [n for n in dtype.names or () if start <= fields[n][1] <= offset]
    return np.dtype(
        {
            "names": names,
            "formats": [fields[n][0] for n in names],
            "offsets": [fields[n][1] - start for n in names],
            "itemsize": offset + kind.itemsize - start,
        }
    )


#: What a record says of its transition: all that is looked at before the frames are copied.
_HEAD = _part(EXPERIENCE_DTYPE, "action", "step")
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (WINDOW, FEATURES), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (SLOTS,), np.float32)
