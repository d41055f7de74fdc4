"""`meshctl segments`."""

from __future__ import annotations

import json
import os


def test_every_segment_is_listed(loop, meshctl):
    """Name, kind, counts and writer of each, and the sum of the sizes."""
    code, out, _ = meshctl("segments")
    assert code == 0
    names = {line.split()[0] for line in out.splitlines()[1:-1]}
    assert names == {info.name for info in loop.mesh.segments()}
    assert str(os.getpid()) in out
    (ticks,) = [
        s for s in json.loads(meshctl("segments", "--format", "json")[1]) if s["name"] == "ticks"
    ]
    assert (ticks["kind"], ticks["capacity"], ticks["published"]) == ("ring", 64, 5)
    assert ticks["writer"] == {"pid": os.getpid(), "alive": True}


def test_no_mesh_is_down(meshctl, tmp_path):
    """A directory that is not there: code 2 with the remedy."""
    code, out, err = meshctl("segments", "--mesh", str(tmp_path / "none"))
    assert (code, out) == (2, "")
    assert "--mesh DIR" in err
