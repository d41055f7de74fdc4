"""Faults: every one counted, the same for a seed, and nothing else is touched."""

from __future__ import annotations

from collections import Counter

import numpy as np

from config.replayer import ReplayerFaults
from workers.contract.quote_schema import EVOLVED_SCHEMA, FRAME, FRAME_BYTES, MINIMAL_SCHEMA
from workers.replayer.encoder import Encoder
from workers.replayer.faults import UNKNOWN_ID, Faults, Writers, poison
from workers.replayer.synthetic import SyntheticMarket

ROWS = SyntheticMarket(1, "2026-01-05T14:30:00+00:00").read(0, 10_000)
WRITERS = Writers(Encoder(1), Encoder(2, EVOLVED_SCHEMA), Encoder(3, MINIMAL_SCHEMA))
PLAIN = WRITERS.plain.encode(ROWS)


def made(position=0, rows=ROWS, seed=1, **faults):
    """What is sent for rows with these faults."""
    return Faults(ReplayerFaults(**faults), seed).messages(rows.copy(), position, WRITERS)


def test_without_faults_nothing_is_changed():
    """One message a row, in order."""
    out = made()
    assert out.values == PLAIN
    assert out.keys == ROWS["symbol"].tolist()
    assert not +out.faults


def test_poison_is_added_and_each_kind_counted():
    """A tenth of the rows is followed by a message that is none; the good ones are all there."""
    out = made(poison=0.1)
    good = [value for value in out.values if value in set(PLAIN)]
    assert good == PLAIN
    assert sum(out.faults.values()) == len(out.values) - len(PLAIN)
    assert 900 < sum(out.faults.values()) < 1100
    assert len(+out.faults) == 6
    assert out.faults["poison.tombstone"] == out.values.count(None)
    assert out.faults["poison.empty"] == out.values.count(b"")


def test_each_poison_is_wrong_in_its_own_way():
    """Magic byte, schema id, length: what stands in front tells which it is."""
    good = PLAIN[0]
    assert poison("magic", good)[0] == 1
    assert FRAME.unpack(poison("unknown_id", good)[:FRAME_BYTES])[1] == UNKNOWN_ID
    assert good.startswith(poison("truncated", good))
    assert poison("garbage", good)[:FRAME_BYTES] == good[:FRAME_BYTES]


def test_duplicates_follow_their_original():
    """Sent twice, nothing lost."""
    out = made(duplicate=0.2)
    assert Counter(out.values) - Counter(PLAIN) == Counter(
        value for value, count in Counter(out.values).items() if count == 2
    )
    assert len(out.values) - len(PLAIN) == out.faults["duplicate"]


def test_reordered_rows_change_places_with_the_next_of_their_symbol():
    """The same messages; every symbol's are out of order as often as it is counted."""
    out = made(reorder=0.05)
    assert Counter(out.values) == Counter(PLAIN)
    position = {value: index for index, value in enumerate(PLAIN)}
    newest: dict[bytes, int] = {}
    backwards = 0
    for key, value in zip(out.keys, out.values, strict=True):
        backwards += position[value] < newest.get(key, -1)
        newest[key] = position[value]
    assert backwards == out.faults["reorder"] > 100


def test_values_are_spoilt_as_counted():
    """NaN prices and crossed quotes in the rows that are encoded."""
    rows = ROWS.copy()
    config = ReplayerFaults(nan=0.1, crossed=0.1)
    out = Faults(config, 1).messages(rows, 0, WRITERS)
    spoilt = np.isnan(rows["last"]) & ~np.isnan(ROWS["last"])
    assert spoilt.sum() == out.faults["nan"] > 800
    crossed = (rows["bid"] > rows["ask"]) & (rows["bid"] == rows["ask"] * 1.05)
    assert crossed.sum() == out.faults["crossed"] > 700


def test_the_writer_changes_its_schema_on_the_fly():
    """Every thousand rows to the evolved schema and back; some rows with the least of all."""
    out = made(evolve_every=1000, least=0.01)
    ids = Counter(FRAME.unpack(value[:FRAME_BYTES])[1] for value in out.values)
    assert ids[2] == out.faults["evolved"]
    assert ids[3] == out.faults["least"] > 50
    assert FRAME.unpack(out.values[999][:FRAME_BYTES])[1] != 2
    assert 4900 < ids[2] <= 5000


def test_the_same_rows_are_hit_in_any_batches():
    """A row's faults depend on seed and position: read in other portions they are the same."""
    faults = {"poison": 0.05, "duplicate": 0.05, "nan": 0.05, "crossed": 0.05, "least": 0.05}
    whole = made(**faults)
    values = []
    for begin in range(0, ROWS.size, 777):
        values += made(begin, ROWS[begin : begin + 777], **faults).values
    assert values == whole.values
    assert made(seed=2, **faults).values != whole.values
