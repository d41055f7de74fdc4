"""The full circle on a real option chain: each of its rows accounted for, policies flow back."""

from __future__ import annotations

import zipfile
from collections import Counter

import numpy as np
import pytest

from tests.daemons import daemon, until
from tests.flow import LOOP, SMALL, TRAINERS, Sequence, reconciles, status

pytestmark = [pytest.mark.e2e, pytest.mark.broker]
CHAIN = "lean/option/usa/minute/goog/20151224_quote_american.zip"
UNDERLYING = "lean/equity/usa/minute/goog/20151224_quote.zip"
ROWS = 275_552  # of the chain, as its description says


def lines_of(path):
    """Number of lines of each member, read with nothing of ours (a last one may lack its end)."""
    with zipfile.ZipFile(path) as archive:
        return {name: len(archive.read(name).splitlines()) for name in archive.namelist()}


def occ(member):
    """The symbol a member's rows should travel under."""
    _, root, _, _, _, right, strike, expiry = member.removesuffix(".csv").split("_")
    return f"{root.upper():<6}{expiry[2:]}{right[0].upper()}{int(strike) // 10:08d}"


def test_every_row_of_the_real_chain_is_accounted_for(tmp_path, data):
    """275,552 rows and their underlying: produced, consumed, in the ring by contract; it acts."""
    members = lines_of(data / CHAIN)
    assert sum(members.values()) == ROWS
    expected = Counter({occ(name): count for name, count in members.items() if count})
    expected["GOOG"] = sum(lines_of(data / UNDERLYING).values())
    total = sum(expected.values())
    settings = (
        f'[replayer]\ndata = "{data / CHAIN}"\nspeed = 600.0\nloop = false\n'
        "[ingest]\nring_capacity = 300000\n" + SMALL
    )
    with daemon(tmp_path, LOOP, settings) as one:
        until("the replayer at its end", lambda: status(one, "replayer")["finished"], 240)
        found = until(
            "everything consumed",
            lambda: (s := status(one, "ingest"))["consumed"] >= total and s,
        )
        assert status(one, "replayer")["produced"] == total
        assert found["consumed"] == total
        assert found["lost"] == 0
        assert reconciles(found)
        assert found["published"] == total, "nothing of this chain is poison"
        ticks = Sequence(one.mesh.attach("ticks")).read_ticks()
        symbols, counts = np.unique(ticks["symbol"], return_counts=True)
        assert dict(zip((s.decode() for s in symbols), counts.tolist(), strict=True)) == expected
        feeder = status(one, "feeder")
        assert feeder["market_steps"] >= 200, "a state for each minute of the day, or nearly"
        assert feeder["acting_version"] > 0
        assert feeder["acting_trainer"] in TRAINERS
        assert all(status(one, name)["version"] > 0 for name in TRAINERS)
        assert one.status()["incidents"] == []
        assert one.stop() == 0
