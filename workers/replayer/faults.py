"""Injects faults into a stream of quotes: seeded, in configured shares, counted.

Which rows are affected depends only on the seed and their positions, so that a restarted replayer
injects the same faults again. Only the partner of a reordered row depends on where a batch ends.
Faults are counted when they are delivered, so that a test can account for each of them at the
consumer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from workers.contract.quote_schema import FRAME, FRAME_BYTES, MAGIC, frame

if TYPE_CHECKING:
    from config.replayer import ReplayerFaults
    from workers.market_data.archive import Rows
    from workers.replayer.encoder import Encoder

UNKNOWN_ID: Final = 999_999_999
BLOCK: Final = 4096  # rows whose faults are drawn at once
_DRAWS: Final = ("poison", "duplicate", "reorder", "nan", "crossed", "least", "kind")
#: factor from the ask to a crossed bid
_CROSS_BY: Final = 1.05
Mask = np.ndarray[Any, np.dtype[np.bool_]]


@dataclass
class Outgoing:
    """Messages in the order of sending, with the faults injected in them."""

    values: list[bytes | None] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Writers:
    """The encoders for the schemas of QUOTE_SCHEMA, EVOLVED_SCHEMA and MINIMAL_SCHEMA."""

    plain: Encoder
    evolved: Encoder
    minimal: Encoder


class Faults:
    """Injects the configured faults."""

    def __init__(self, config: ReplayerFaults, seed: int) -> None:
        """Use `seed` for all random draws."""
        self._config = config
        self._seed = seed
        self._shares = {name: getattr(config, name) for name in _DRAWS[:-1]}
        self.any = any(self._shares.values()) or config.evolve_every > 0

    def messages(self, rows: Rows, position: int, writers: Writers) -> Outgoing:
        """Encode rows and inject faults.

        Args:
            rows: Rows of TICK_DTYPE; changed in place.
            position: Position of the first row in the source.
            writers: The encoders.
        """
        if not self.any:
            return Outgoing(list(writers.plain.encode(rows)), rows["symbol"].tolist())
        draws = self._draws(position, rows.size)
        hit = {name: draws[name] < share for name, share in self._shares.items()}
        out = Outgoing()
        marks = self._spoil(rows, hit)
        values = self._encoded(rows, position, hit["least"], writers, marks)
        keys: list[bytes] = rows["symbol"].tolist()
        order = self._order(keys, hit["reorder"], out.faults)
        for name, mask in marks.items():  # the fault of a row that is sent twice counts twice
            out.faults[name] += int(mask.sum() + (mask & hit["duplicate"]).sum())
        for row in order:
            out.values.append(values[row])
            out.keys.append(keys[row])
            if hit["duplicate"][row]:
                out.faults["duplicate"] += 1
                out.values.append(values[row])
                out.keys.append(keys[row])
            if hit["poison"][row]:
                kinds = self._config.poison_kinds
                kind = kinds[int(draws["kind"][row] * len(kinds))]
                out.faults[f"poison.{kind}"] += 1
                out.values.append(poison(kind, values[row]))
                out.keys.append(keys[row])
        return out

    def _draws(self, position: int, count: int) -> dict[str, np.ndarray[Any, Any]]:
        """Return uniform draws for each row, which depend on its position but not on the batch."""
        first, last = position // BLOCK, (position + count - 1) // BLOCK
        drawn = [
            np.random.default_rng([self._seed, 2, block]).random((len(_DRAWS), BLOCK))
            for block in range(first, last + 1)
        ]
        begin = position - first * BLOCK
        together = np.concatenate(drawn, axis=1)[:, begin : begin + count]
        return dict(zip(_DRAWS, together, strict=True))

    @staticmethod
    def _spoil(rows: Rows, hit: dict[str, Mask]) -> dict[str, Mask]:
        """Change values in place and return the affected rows by fault."""
        crossed = hit["crossed"] & (rows["ask"] > 0.0) & ~hit["nan"]
        rows["bid"][crossed] = rows["ask"][crossed] * _CROSS_BY
        for name in ("bid", "ask", "last"):
            rows[name][hit["nan"]] = np.nan
        return {"crossed": crossed, "nan": hit["nan"]}

    def _encoded(
        self, rows: Rows, position: int, least: Mask, writers: Writers, marks: dict[str, Mask]
    ) -> list[bytes]:
        values = writers.plain.encode(rows)
        evolved = np.zeros(rows.size, bool)
        if self._config.evolve_every:
            turn = (position + np.arange(rows.size)) // self._config.evolve_every
            evolved = (turn % 2 == 1) & ~least
        marks |= {"least": least, "evolved": evolved}
        for writer, mask in ((writers.minimal, least), (writers.evolved, evolved)):
            if mask.any():
                chosen = np.flatnonzero(mask).tolist()
                for row, value in zip(chosen, writer.encode(rows[mask]), strict=True):
                    values[row] = value
        return values

    @staticmethod
    def _order(keys: list[bytes], swap: Mask, counts: Counter[str]) -> list[int]:
        """Return the rows in the order of sending: a hit row is swapped with its symbol's next."""
        order = list(range(len(keys)))
        if not swap.any():
            return order
        waiting: dict[bytes, int] = {}
        for row, key in enumerate(keys):
            held = waiting.pop(key, None)
            if held is not None:
                order[held], order[row] = row, held
                counts["reorder"] += 1
            elif swap[row]:
                waiting[key] = row
        return order


def poison(kind: str, good: bytes) -> bytes | None:
    """Return a message that cannot be decoded, made from a good one; None is a tombstone."""
    match kind:
        case "empty":
            return b""
        case "magic":
            return bytes([MAGIC + 1]) + good[1:]
        case "unknown_id":
            return frame(UNKNOWN_ID, good[FRAME_BYTES:])
        case "truncated":
            return good[: FRAME_BYTES + (len(good) - FRAME_BYTES) // 2]
        case "garbage":  # varints that never end: every byte has the continuation bit
            return FRAME.pack(MAGIC, FRAME.unpack(good[:FRAME_BYTES])[1]) + b"\xff" * 40
        case _:
            return None
