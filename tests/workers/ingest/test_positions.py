"""Positions of a session: what was read, what was set, and what a batch commits of both."""

from __future__ import annotations

import msgspec
import numpy as np

from workers.ingest.positions import Positions


class Reader:
    """What positions need of a reader of three partitions."""

    def __init__(self):
        self.starts_resolved = 0
        self.offsets = [10, 20, 0]

    def next_offsets(self):
        """The next offset of each partition."""
        return self.offsets


def test_set_positions_hold_for_the_coming_batch_and_are_committed_with_it():
    """A rewind counts where it goes back; a batch commits what was read and what was set."""
    positions = Positions(Reader())
    assert positions.move({1: 5}) == 1
    assert positions.move({0: 15}) == 0
    following = positions.before()
    assert following.tolist() == [15, 5, 0]
    assert positions.committed.tolist() == [10, 20, 0]
    assert positions.changed(following) == {0, 1}
    positions.commit(following)
    assert positions.committed.tolist() == [15, 5, 0]
    assert not positions.moved


def test_recovered_positions_hold_after_the_batch_unless_they_are_set_again():
    """Recovery concerns the batch under way; an operator's request after it wins."""
    positions = Positions(Reader())
    assert positions.recover({1: 3, 2: 7}) == 1
    assert positions.before().tolist() == [10, 20, 0]
    assert positions.changed(np.array([10, 20, 0])) == {1, 2}
    positions.move({1: 20})
    assert positions.recovered == {2: 7}


def test_counts_are_plain_numbers():
    """They go into the status, which msgpack encodes."""
    assert msgspec.msgpack.encode(Positions(Reader()).move({1: 5})) == b"\x01"


def test_starts_that_were_looked_up_replace_what_was_committed():
    """A partition that this host was assigned begins where its last owner has come to."""
    reader = Reader()
    positions = Positions(reader)
    reader.offsets, reader.starts_resolved = [10, 20, 900], 1
    assert positions.before().tolist() == [10, 20, 900]
