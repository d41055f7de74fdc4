"""Checkpoints: whole or refused, the newest few kept."""

from __future__ import annotations

import numpy as np
import pytest

from workers.trainer.state import checkpoint


def test_newest_few_are_kept_and_come_back(tmp_path):
    """Five written, three kept, each as it was written."""
    for updates in range(5):
        checkpoint.write(tmp_path, updates, {"a": np.full(3, updates), "n": np.array(7)}, 3)
    found = checkpoint.paths(tmp_path)
    assert [int(p.name[-3:]) for p in found] == [4, 3, 2]
    arrays = checkpoint.read(found[0])
    assert arrays["a"].tolist() == [4, 4, 4]
    assert arrays["n"].shape == ()


def test_what_a_kill_leaves_is_overwritten(tmp_path):
    """A half written checkpoint takes its room once, however often that happens."""
    for updates in range(3):
        checkpoint.write(tmp_path, updates, {"a": np.arange(5)}, 3)
        (tmp_path / ".new").write_bytes(b"half")
    checkpoint.write(tmp_path, 3, {"a": np.arange(5)}, 3)
    assert sorted(tmp_path.iterdir()) == sorted(checkpoint.paths(tmp_path))


def test_any_flipped_byte_is_noticed(tmp_path):
    """A corrupt file, or one of another program, is refused by name."""
    path = checkpoint.write(tmp_path, 1, {"a": np.arange(5)}, 3)
    whole = path.read_bytes()
    for at in range(0, len(whole), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(checkpoint.BadCheckpoint, match="the one before"):
            checkpoint.read(path)
