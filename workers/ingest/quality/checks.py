"""Quality gates: one bit a doubt, set on whole batches at once. Nothing is changed silently.

Bits go into the row's `flags`; what happens to a flagged row is configuration: `flag` (published),
`hold` (published with the last good numbers of its symbol and the bit HELD), `drop`,
`dead_letter`; of several the last in this order counts. The judgement is in C (`_gates/gates.h`);
the memory of each symbol is a table of the mesh, so that a restart changes no verdict.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from config.ingest import GATES
from workers.contract.dtypes import SYMBOL_BYTES, TICK_DTYPE
from workers.ingest.quality._checks import _native
from workers.trading_env.errors import UnknownSymbol
from workers.trading_env.market.instrument import parse

if TYPE_CHECKING:
    from config.ingest import IngestConfig
    from workers.ingest.decode.mapping import Rows

Mask = np.ndarray[Any, np.dtype[np.bool_]]
BIT: Final = {name: np.uint32(1 << position) for position, name in enumerate(GATES)}
HELD: Final = np.uint32(1 << 31)
PUBLISH, DROP, DEAD = range(3)
NEVER: Final = (1 << 63) - 1
_PAST: Final = np.dtype(
    [
        ("ts_event", "<i8"),
        ("sequence", "<i8"),
        ("volume", "<i8"),
        ("bid", "<f8"),
        ("ask", "<f8"),
        ("last", "<f8"),
        ("bid_size", "<f8"),
        ("ask_size", "<f8"),
        ("mid", "<f8"),
        ("seen", "<i8"),
        ("good", "<i8"),
        ("held", "<f8", (14,)),
    ]
)
#: what the gates know of a symbol (`_gates/gates.h`): `now` was written by batch number `batch`
MEMORY_DTYPE: Final = np.dtype(
    [
        ("symbol", f"S{SYMBOL_BYTES}"),
        ("expiry", "<i8"),
        ("right", "<i4"),
        ("known", "<i4"),
        ("batch", "<i8"),
        ("before", _PAST),
        ("now", _PAST),
    ]
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What became of the rows of a batch."""

    fates: Rows  # by row: PUBLISH, DROP, DEAD
    published: int
    latest: Rows  # rows that are the newest published of their symbol
    roomless: Rows  # published rows of symbols that there is no room for
    memory: Rows  # memories that the batch has changed, MEMORY_DTYPE
    counts: dict[str, int]  # rows by gate, those that occur


_NOBODY: Final = np.zeros(0, np.int64)


class Gates:
    """Flags rows and says which of them may be published."""

    def __init__(self, config: IngestConfig, *, most: int) -> None:
        """Start with no memory of any symbol; for batches of up to `most` rows."""
        self._config = config
        self._memory = np.zeros(config.quotes, MEMORY_DTYPE)
        self._known, self._most = 0, config.quotes  # symbols
        bits = {policy: _mask(config, policy) for policy in ("hold", "drop", "dead_letter")}
        self._native = _native.Gates(
            self._memory,
            config.wide_share,
            config.iv_max,
            config.jump_share,
            int(config.future_s * 1e9),
            int(config.stale_s * 1e9),
            bits["hold"],
            bits["drop"],
            bits["dead_letter"],
        )
        self._numbers = np.zeros(most, np.int32)
        self._fates = np.zeros(most, np.uint8)
        self._latest = np.zeros(config.quotes, np.int32)

    @property
    def clock(self) -> tuple[int, int]:
        """Newest believable event time, and a leap not yet believed, ns; part of the memory."""
        return self._native.clock

    def restore(self, memory: Rows, *, batch: int, clock: tuple[int, int]) -> None:
        """Go on from the memory in the mesh as of the committed `batch` and its clock."""
        self._native.clock = clock
        memory = memory[: self._config.quotes].copy()
        undone = memory["batch"] > batch  # written by a batch that was never committed
        memory["now"][undone] = memory["before"][undone]
        self._number(memory["symbol"])
        self._memory[: memory.size] = memory

    def adopt(self, symbols: Rows) -> None:
        """Have room for symbols that are in the quotes already."""
        self._number(symbols)

    def _number(self, symbols: Rows) -> None:
        rows = np.zeros(symbols.size, TICK_DTYPE)
        rows["symbol"] = symbols
        known = self._native.find(rows, np.zeros(symbols.size, np.int32))
        self._describe(slice(self._known, known))
        self._known = known

    def judge(self, rows: Rows, *, now_ns: int, batch: int) -> Judgement:
        """Set the bits of `rows` (TICK_DTYPE, in the order of the stream) and give their fates."""
        n = rows.size
        numbers, fates = self._numbers[:n], self._fates[:n]
        known = self._native.find(rows, numbers)
        if known > self._known:
            self._describe(slice(self._known, known))
            self._known = known
        counts = np.zeros(len(GATES), np.int64)
        published, seen = self._native.judge(
            rows, numbers, fates, self._latest, counts, now_ns, batch
        )
        latest = self._latest[:known]
        return Judgement(
            fates,
            published,
            latest[latest >= 0],
            np.flatnonzero((numbers < 0) & (fates == PUBLISH)) if known == self._most else _NOBODY,
            self._memory[:known].take((latest >= -1).nonzero()[0]),  # a mask takes twice as long
            {name: int(c) for name, c in zip(GATES, counts, strict=True) if c} if seen else {},
        )

    def _describe(self, new: slice) -> None:
        """Say of new symbols whether they are ours, when they expire, and which right they give."""
        patterns = self._config.symbols
        for memory in self._memory[new]:
            symbol = memory["symbol"].decode("utf-8", "replace")
            if patterns:
                memory["known"] = any(fnmatch.fnmatchcase(symbol, p) for p in patterns)
            try:
                instrument = parse(symbol)
            except UnknownSymbol:
                continue
            memory["expiry"], memory["right"] = instrument.expiry, instrument.right


def flag_names(flags: int) -> str:
    """Give the names of the gates whose bits are set."""
    return ", ".join(name for name, bit in BIT.items() if flags & bit)


def _mask(config: IngestConfig, policy: str) -> int:
    return sum(int(BIT[name]) for name, chosen in config.gates.items() if chosen == policy)
