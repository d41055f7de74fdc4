"""What ingest writes: the ring `ticks`, the table `quotes` and the memory of the checks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from workers.contract.dtypes import TICK_DTYPE
from workers.contract.names import QUOTES, TICKS
from workers.contract.statuses import IngestStatus
from workers.ingest.quality.checks import MEMORY_DTYPE, PUBLISH, QualityChecks

if TYPE_CHECKING:
    from config.ingest import IngestConfig
    from mesh import Mesh
    from workers.ingest.decode.mapping import Rows
    from workers.ingest.quality.checks import CheckResult

CHECK_MEMORY = "gates"
STATE_BYTES = 1 << 15
RESTORED_RECORDS = 65536  # of the ring, newest: more than one batch


class Output:
    """Three segments that are written together, so that a kill at any point loses nothing.

    The memory is written first, then rows and status in one commit, then the quotes. After a kill
    the memory is undone where its batch was not committed, and the quotes are written again.
    """

    def __init__(self, mesh: Mesh, config: IngestConfig) -> None:
        """Open the segments and bring quotes and memory to what the ring has committed."""
        self._config = config
        self.ring = mesh.ring(
            TICKS, TICK_DTYPE, capacity=config.ring_capacity, state_bytes=STATE_BYTES, create=True
        )
        self.max_records = min(config.batch, self.ring.capacity)
        self._quotes = mesh.table(QUOTES, TICK_DTYPE, rows=config.quotes, create=True)
        state = self.ring.state()
        self.committed = msgspec.msgpack.decode(state, type=IngestStatus) if state else None
        self._restore_quotes()
        self._memory = mesh.table(CHECK_MEMORY, MEMORY_DTYPE, rows=config.quotes, create=True)
        self.checks = self._restored_checks(self.committed or IngestStatus())

    def _restore_quotes(self) -> None:
        """Write the newest records again: a kill may have come between ring and quotes."""
        start = max(self.ring.oldest, self.ring.published - RESTORED_RECORDS)
        reader = self.ring.reader(start)
        while (rows := reader.read(max_records=8192)).size:
            self._quotes.write_batch(rows["symbol"], rows)

    def undo_checks(self, status: IngestStatus) -> None:
        """Return the checks' memory to the last committed batch, which `status` describes."""
        self.checks = self._restored_checks(status)

    def _restored_checks(self, status: IngestStatus) -> QualityChecks:
        checks = QualityChecks(self._config, max_rows=self.max_records)
        checks.restore(
            self._memory.snapshot(),
            batch=status.batches,
            clock=(status.market_time_ns, status.market_leap_ns),
        )
        checks.adopt(self._quotes.snapshot()["symbol"])
        return checks

    def publish(
        self, rows: Rows, result: CheckResult, status: IngestStatus, *, conflate: bool
    ) -> None:
        """Commit rows and status in one, then update the quotes.

        Args:
            rows: TICK_DTYPE, as they were checked.
            result: of the checks for these rows.
            status: after this batch; `conflated` and `published` change where rows are conflated.
            conflate: publish only the newest row of each symbol.
        """
        kept = rows if result.published == rows.size else rows[result.dispositions == PUBLISH]
        latest = rows.take(result.latest)
        if conflate:
            kept = rows[np.sort(np.concatenate([result.latest, result.untracked]))]
            status.conflated += result.published - kept.size
            status.published -= result.published - kept.size
        self._memory.write_batch(result.memory["symbol"], result.memory)
        self.ring.publish(kept, state=msgspec.msgpack.encode(status))
        self._quotes.write_batch(latest["symbol"], latest)
