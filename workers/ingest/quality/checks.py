"""Quality checks: one bit for each check that a row fails, set on whole batches at once.

Bits go into the row's `flags`. What happens to a flagged row is configured (`ingest.gates`):
`flag` (published), `hold` (published with the last good numbers of its symbol and the bit HELD),
`drop`, `dead_letter`; of several policies the last in this order counts. The rules are in C
(`_checks/checks.h`). The memory of each symbol is a table of the mesh, so a restart changes no
result.
"""

from __future__ import annotations

import fnmatch
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from workers.contract.dtypes import SYMBOL_BYTES, TICK_DTYPE
from workers.ingest.quality._checks import _native
from workers.trading_env.errors import UnknownSymbol
from workers.trading_env.market.instrument import parse

if TYPE_CHECKING:
    from config.ingest import IngestConfig
    from workers.ingest.decode.mapping import Rows

NAMES: Final = _native.NAMES
BIT: Final = {name: np.uint32(1 << position) for position, name in enumerate(NAMES)}
HELD: Final = np.uint32(_native.HELD)
PUBLISH: Final = _native.PUBLISH
DROP: Final = _native.DROP
DEAD_LETTER: Final = _native.DEAD_LETTER
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
#: what the checks remember of a symbol (`_checks/checks.h`): batch number `batch` wrote `now`
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
class CheckResult:
    """Result of the checks for the rows of a batch."""

    dispositions: Rows  # uint8 by row: PUBLISH, DROP, DEAD_LETTER
    published: int
    latest: Rows  # indices of the rows that are the newest published of their symbol
    untracked: Rows  # indices of published rows whose symbols the table has no room for
    memory: Rows  # memories that the batch has changed, MEMORY_DTYPE
    counts: dict[str, int]  # rows by check, where above 0


_NO_ROWS: Final = np.zeros(0, np.int64)


class QualityChecks:
    """Flags rows and decides which of them are published."""

    def __init__(self, config: IngestConfig, *, max_rows: int) -> None:
        """Start with an empty memory.

        Args:
            config: thresholds, policies (`gates`), and room for `quotes` symbols.
            max_rows: rows of the largest batch.

        """
        self._config = config
        self._memory = np.zeros(config.quotes, MEMORY_DTYPE)
        self._symbols = 0
        bits = {policy: _mask(config, policy) for policy in ("hold", "drop", "dead_letter")}
        self._native = _native.QualityChecks(
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
        self._indices = np.zeros(max_rows, np.int32)
        self._dispositions = np.zeros(max_rows, np.uint8)
        self._latest = np.zeros(config.quotes, np.int32)

    @property
    def clock(self) -> tuple[int, int]:
        """Newest believable event time, and a leap not yet confirmed, ns; part of the memory."""
        return self._native.clock

    def restore(self, memory: Rows, *, batch: int, clock: tuple[int, int]) -> None:
        """Continue from the memory in the mesh.

        Args:
            memory: MEMORY_DTYPE, one row a symbol, in the order of the table.
            batch: number of the last committed batch; what a later one wrote is undone.
            clock: `clock` as committed with that batch, ns.

        """
        self._native.clock = clock
        memory = memory[: self._config.quotes].copy()
        undone = memory["batch"] > batch  # written by a batch that was never committed
        memory["now"][undone] = memory["before"][undone]
        self._add_symbols(memory["symbol"])
        self._memory[: memory.size] = memory

    def adopt(self, symbols: Rows) -> None:
        """Reserve memory for symbols that are in the table `quotes` already."""
        self._add_symbols(symbols)

    def _add_symbols(self, symbols: Rows) -> None:
        rows = np.zeros(symbols.size, TICK_DTYPE)
        rows["symbol"] = symbols
        self._index(rows, np.zeros(symbols.size, np.int32))

    def _index(self, rows: Rows, indices: Rows) -> None:
        """Write the memory index of each row's symbol into `indices`; -1 where there is no room."""
        symbols = self._native.index_symbols(rows, indices)
        if symbols > self._symbols:
            self._describe(slice(self._symbols, symbols))
            self._symbols = symbols

    def evaluate(self, rows: Rows, *, now_ns: int, batch: int) -> CheckResult:
        """Set the flags of `rows` and decide about each.

        Args:
            rows: TICK_DTYPE, in the order of the stream; `flags` (and numbers on hold) change.
            now_ns: wall clock, for rows without a time of receipt.
            batch: number of the batch that the rows are committed with.

        Returns:
            The result; its arrays are valid until the next call.

        """
        n = rows.size
        indices, dispositions = self._indices[:n], self._dispositions[:n]
        self._index(rows, indices)
        counts = np.zeros(len(NAMES), np.int64)
        published, flags = self._native.evaluate(
            rows, indices, dispositions, self._latest, counts, now_ns, batch
        )
        latest = self._latest[: self._symbols]
        is_full = self._symbols == self._config.quotes
        return CheckResult(
            dispositions=dispositions,
            published=published,
            latest=latest[latest >= 0],
            untracked=(
                np.flatnonzero((indices < 0) & (dispositions == PUBLISH)) if is_full else _NO_ROWS
            ),
            # a mask takes twice as long
            memory=self._memory[: self._symbols].take((latest >= -1).nonzero()[0]),
            counts=(
                {name: int(c) for name, c in zip(NAMES, counts, strict=True) if c} if flags else {}
            ),
        )

    def _describe(self, new: slice) -> None:
        """Fill in what a new symbol's text says: whether it is configured, its expiry and right."""
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
    """Return the names of the checks whose bits are set, separated by commas."""
    return ", ".join(name for name, bit in BIT.items() if flags & bit)


def _mask(config: IngestConfig, policy: str) -> int:
    return sum(int(BIT[name]) for name, chosen in config.gates.items() if chosen == policy)
