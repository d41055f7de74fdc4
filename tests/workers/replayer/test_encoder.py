"""Messages: what any Avro reader decodes back to the rows."""

from __future__ import annotations

import io

import fastavro
import numpy as np

from workers.market_schema import FRAME, FRAME_BYTES, QUOTE_SCHEMA
from workers.replayer.encoder import Encoder, partitions
from workers.replayer.synthetic import SyntheticMarket

ROWS = SyntheticMarket(1, "2026-01-05T14:30:00+00:00").read(0, 500)


def test_messages_decode_to_the_rows():
    """fastavro's own reader gives every field back; absent optional fields are null."""
    messages = Encoder(7).encode(ROWS)
    assert len(messages) == ROWS.size
    for row, message in zip(ROWS, messages, strict=True):
        assert FRAME.unpack(message[:FRAME_BYTES]) == (0, 7)
        record = fastavro.schemaless_reader(
            io.BytesIO(message[FRAME_BYTES:]), fastavro.parse_schema(QUOTE_SCHEMA), None
        )
        assert record["symbol"] == row["symbol"].decode()
        assert record["sequence"] == row["sequence"]
        assert np.array_equal([record["bid"], record["ask"]], [row["bid"], row["ask"]], True)
        assert record["ts_recv"] is None
        assert record["venue"] == "SYNTH"


def test_a_symbol_always_goes_to_the_same_partition():
    """The partition depends on the symbol alone and all partitions are used."""
    chosen = partitions(ROWS, 3)
    assert set(chosen.tolist()) == {0, 1, 2}
    for symbol in np.unique(ROWS["symbol"]):
        assert np.unique(chosen[ROWS["symbol"] == symbol]).size == 1
    assert (partitions(ROWS[::-1], 3)[::-1] == chosen).all()
