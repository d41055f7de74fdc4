"""Which ten contracts of a chain of thousands are traded: by rule, without flapping.

Each slot looks for an expiry, a right and a moneyness. It keeps its contract until another one is
nearer to that by more than the hysteresis (and it was held for a while), until it is about to
expire, or until it has had no two-sided quote for long. Slots choose in their order, and no
contract is held twice.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

from workers.contract.dtypes import SLOTS

if TYPE_CHECKING:
    from config.trading import SlotsConfig
    from mesh.arrays import Array

EMPTY = -1


@dataclasses.dataclass(frozen=True)
class Chain:
    """The options that are known, one entry each (n,)."""

    expiry: Array  # int64, ns
    strike: Array  # float64
    right: Array  # int8
    quoted: Array  # bool: fresh, two-sided
    spread: Array  # float64: (ask - bid) / mid where quoted, else 0


class SlotChoice:
    """Remembers what each slot holds, since when, and how long it had no quote."""

    def __init__(self, config: SlotsConfig) -> None:
        """Start with empty slots."""
        self._config = config
        #: index into the chain, EMPTY = nothing
        self.held = np.full(SLOTS, EMPTY, np.int64)
        self.states = np.zeros(SLOTS, np.int64)
        self.unquoted = np.zeros(SLOTS, np.int64)
        self._is_call = np.array([t.right == "call" for t in config.targets])
        self._moneyness = np.array([t.moneyness for t in config.targets])
        self._rank = np.array([t.expiry_rank for t in config.targets])

    def choose(self, chain: Chain, underlying: float, now: int) -> Array:
        """Choose the contract of each slot; `held` has the choice afterwards.

        Args:
            chain: The known options (n,). It may grow between calls, but an entry keeps its index.
            underlying: Price of the underlying, quote currency, positive.
            now: Event time, ns since the epoch.

        Returns:
            bool (10,): the slots whose contract changed.
        """
        expiries = self._expiries(chain, now)
        distance = (
            np.abs(np.log(chain.strike / underlying)[:, None] - self._moneyness)
            + self._config.spread_penalty * np.minimum(chain.spread, 2.0)[:, None]
        )
        before = self.held.copy()
        self.states += 1
        holding = self.held != EMPTY
        present = np.where(holding, self.held, 0)
        quoted = holding & chain.quoted[present] if len(chain.strike) else np.zeros(SLOTS, bool)
        self.unquoted = np.where(quoted, 0, self.unquoted + 1)
        taken = np.zeros(chain.quoted.size, bool)
        taken[self.held[holding]] = True
        for slot in range(SLOTS):
            self._choose_one(slot, chain, distance[:, slot], expiries, taken, now)
        changed: Array = self.held != before
        self.states[changed] = 0
        self.unquoted[changed] = 0
        return changed

    def _expiries(self, chain: Chain, now: int) -> Array:
        """The expiries far enough away that have a quote, nearest first."""
        soonest = now + int(self._config.min_expiry_s * 1e9)
        return np.unique(chain.expiry[chain.quoted & (chain.expiry > soonest)])

    def _choose_one(
        self, slot: int, chain: Chain, distance: Array, expiries: Array, taken: Array, now: int
    ) -> None:
        present = int(self.held[slot])
        expired = present != EMPTY and int(chain.expiry[present]) <= now
        if present != EMPTY and not expired and not self._may_leave(slot):
            return
        if present != EMPTY:
            taken[present] = False  # its own contract is free for this slot
        best = self._best(slot, chain, distance, expiries, taken)
        if expired or (
            best not in (EMPTY, present) and self._is_better(slot, best, chain, distance)
        ):
            self.held[slot] = best
        if self.held[slot] != EMPTY:
            taken[self.held[slot]] = True

    def _may_leave(self, slot: int) -> bool:
        config = self._config
        waited = self.states[slot] >= config.min_hold_states and self.unquoted[slot] == 0
        return bool(waited or self.unquoted[slot] >= config.patience_states)

    def _best(self, slot: int, chain: Chain, distance: Array, expiries: Array, taken: Array) -> int:
        if expiries.size == 0:
            return EMPTY
        expiry = expiries[min(int(self._rank[slot]), expiries.size - 1)]
        right = 1 if self._is_call[slot] else -1
        fits = chain.quoted & (chain.expiry == expiry) & (chain.right == right) & ~taken
        candidates = np.flatnonzero(fits)
        if candidates.size == 0:
            return EMPTY
        return int(candidates[np.argmin(distance[candidates])])

    def _is_better(self, slot: int, best: int, chain: Chain, distance: Array) -> bool:
        present = int(self.held[slot])
        if present == EMPTY or self.unquoted[slot] >= self._config.patience_states:
            return True
        if chain.expiry[best] != chain.expiry[present]:
            # the expiry that this slot looks for has changed: an expiry came near or appeared
            return True
        return bool(distance[present] - distance[best] > self._config.hysteresis)
