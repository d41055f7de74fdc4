"""Market states from the mesh, as the feeder publishes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mesh import Mesh, RingReader, SegmentMissing
from workers.contract.dtypes import MARKET_DTYPE, SLOTS
from workers.contract.names import MARKET
from workers.trading_env.errors import BadMarketData, EndOfData, NoMarketData, StaleData
from workers.trading_env.market.pacing import JUMP_NS

if TYPE_CHECKING:
    from mesh.arrays import Array


class LiveProvider:
    """The ring `market` of a mesh; attaches read-only, so any number of them do no harm.

    A reader that falls behind goes on with the newest state and counts what it missed: live, it
    is better not to decide than to decide on an old state.
    """

    def __init__(self, mesh: Mesh, *, timeout_s: float = 30.0, ring: str = MARKET) -> None:
        """Read a ring of market states.

        Args:
            mesh: The mesh of the feeder.
            timeout_s: How long to wait for a newer state, seconds of the wall clock.
            ring: Name of the ring.
        """
        self._mesh = mesh
        self._ring = ring
        self._timeout_s = timeout_s
        self._reader: RingReader | None = None
        self._previous: Array | None = None
        #: states that were overwritten or passed over since the start
        self.missed = 0

    def reset(self, *, seed: int | None = None) -> Array:
        """Return the newest state, MARKET_DTYPE of shape (); the seed is ignored.

        Raises:
            NoMarketData: The ring is missing, or no state was published within the timeout.
        """
        del seed  # live is live
        try:
            ring = self._mesh.ring(self._ring, MARKET_DTYPE)
        except SegmentMissing as error:
            raise NoMarketData(f"{error}; start the feeder of this mesh") from error
        reader = ring.reader("oldest")
        self._reader, self._previous = reader, None
        if not reader.wait_published(self._timeout_s):
            raise NoMarketData(
                f"ring {self._ring!r}: no market state within {self._timeout_s} s; see the status "
                "of the feeder"
            )
        return self._newest(reader.read(max_records=ring.capacity))

    def advance(self) -> Array:
        """Wait for a newer state and return it, MARKET_DTYPE of shape ().

        Raises:
            NoMarketData: `reset` was not called.
            StaleData: No newer state within the timeout.
            EndOfData: The feed went back in time.
        """
        if self._reader is None:
            raise NoMarketData("advance before reset; call reset first")
        if not self._reader.wait_published(self._timeout_s):
            age = "" if self._previous is None else f" after step {int(self._previous['step'])}"
            raise StaleData(
                f"ring {self._ring!r}: no market state within {self._timeout_s} s{age}; see the "
                "status of the feeder"
            )
        return self._newest(self._reader.read(max_records=1 << 16))

    def _newest(self, records: Array) -> Array:
        if records.size == 0:
            raise BadMarketData(f"ring {self._ring!r}: woken without a state; read it again")
        state: Array = records[-1]
        if self._previous is not None:
            if int(state["ts_event"]) < int(self._previous["ts_event"]) - JUMP_NS:
                raise EndOfData(
                    f"ring {self._ring!r}: the market began anew with step {int(state['step'])}"
                )
            passed = int(state["step"]) - int(self._previous["step"]) - 1
            self.missed += max(0, passed)
            if passed:
                state = _rolled_since(self._previous, records)
        self._previous = state
        return state


def _rolled_since(previous: Array, records: Array) -> Array:
    """The last of `records`, with the rolls of the states passed over.

    A contract that left in between is closed at what it left for; one whose leaving was
    overwritten before it was read, at its last known mark.
    """
    state = records[-1].copy()
    for slot in range(SLOTS):
        rolls = np.flatnonzero(records["rolled"][:, slot])
        left = records["contract"][0, slot] != previous["contract"][slot]
        if rolls.size and not (left and rolls[0] > 0):
            first = records[rolls[0]]
            price, half = first["previous_price"][slot], first["previous_half_spread"][slot]
        elif left and previous["right"][slot]:
            price = previous["price"][slot]
            quoted = previous["tradeable"][slot]
            half = 0.5 * (previous["ask"][slot] - previous["bid"][slot]) if quoted else 0.0
        else:
            continue
        state["rolled"][slot] = True
        state["previous_price"][slot], state["previous_half_spread"][slot] = price, half
    return state  # type: ignore[no-any-return] # numpy: a record
