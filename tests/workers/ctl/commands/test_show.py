"""`meshctl show`: every kind of segment, by the schema it carries."""

from __future__ import annotations

import json

import numpy as np
import pytest


def shown(meshctl, *words):
    """Head and content of a segment as JSON."""
    code, out, _ = meshctl("show", *words, "--format", "json")
    assert code == 0
    found = json.loads(out)
    return found["head"], found["content"]


@pytest.mark.parametrize(
    "name",
    ["supervisor", "status/ingest", "ticks", "quotes", "policy/td3-0", "journal", "heartbeats"],
)
def test_every_kind_has_a_screen(meshctl, name):
    """A head with kind and writer, then the content."""
    code, out, _ = meshctl("show", name)
    assert code == 0
    assert out.splitlines()[0].split() == ["segment", name]
    assert out.partition("\n\n")[2].strip()


def test_a_cell(meshctl):
    """A Struct is shown by name without the code that defines it."""
    assert shown(meshctl, "status/ingest")[1]["value"]["consumed"] == 11


def test_a_ring_shows_its_newest(meshctl):
    """-n records, the newest last; what is absent is null."""
    head, records = shown(meshctl, "ticks", "-n", "2")
    assert (head["kind"], [r["bid"] for r in records]) == ("ring", [3.0, 4.0])
    assert records[0]["ask"] is None


def test_a_table_by_key(meshctl):
    """One row, or the first n with how many are left."""
    assert shown(meshctl, "quotes", "--key", "OTHER")[1]["OTHER"]["bid"] == 1.0
    assert "1 more row" in meshctl("show", "quotes", "-n", "1")[1]
    code, _, err = meshctl("show", "quotes", "--key", "none")
    assert (code, "no key 'none'" in err) == (64, True)


def test_tensors_by_form_and_spread(meshctl):
    """Large arrays are described by shape and statistics, small ones by value."""
    version, arrays = shown(meshctl, "policy/td3-0")[1].values()
    assert version == 1
    assert (arrays["w0"]["shape"], arrays["w0"]["mean"]) == ([4, 10], 19.5)
    assert arrays["updates"]["values"] == 40


def test_a_lock(loop, meshctl):
    """Free, or held by whom."""
    assert "free" in meshctl("show", "journal")[1]
    with loop.lock:
        assert shown(meshctl, "journal")[1]["owner"] == "keeper"


def test_the_schema(meshctl):
    """--schema prints what the segment carries."""
    assert "dtype" in json.loads(meshctl("show", "ticks", "--schema")[1])


def test_a_cell_before_its_first_value(loop, meshctl):
    """A cell without a value is reported as such and is no error."""
    from workers.contract.statuses import FeederStatus  # noqa: PLC0415 - for this test alone

    cell = loop.mesh.cell("status/later", FeederStatus, create=True)
    code, out, _ = meshctl("show", "status/later")
    assert (code, "no value was written yet" in out) == (0, True)
    cell.close()


def test_a_ring_of_plain_numbers(loop, meshctl):
    """Records without fields are shown and followed too."""
    ring = loop.mesh.ring("plain", np.dtype("<i8"), capacity=8, create=True)
    ring.publish(np.arange(3))
    assert meshctl("show", "plain")[1].splitlines()[-1].split() == ["2", "2"]
    assert meshctl("tail", "plain", "-n", "1", "--no-follow")[1].split() == ["2", "2"]
    out = meshctl("tail", "plain", "-n", "1", "--no-follow", "--format", "json")[1]
    assert json.loads(out) == {"sequence": 2, "record": 2}
    ring.close()
