"""`meshctl words`: names for completion."""

from __future__ import annotations


def test_names_of_a_kind(meshctl):
    """Workers from the daemon's status, segments from the directory."""
    assert meshctl("words", "workers")[1].split() == ["ingest", "feeder", "td3-0", "replayer"]
    assert meshctl("words", "rings")[1].split() == ["events", "experience", "ticks"]
    assert meshctl("words", "locks")[1].split() == ["journal"]
    assert "supervisor" in meshctl("words", "segments")[1].split()
