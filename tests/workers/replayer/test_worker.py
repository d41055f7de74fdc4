"""The replayer under the daemon: every row once, and on after a kill."""

from __future__ import annotations

import io
import os
from collections import Counter
from pathlib import Path

import fastavro
import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.daemons import daemon, until
from workers.contract.quote_schema import FRAME_BYTES, QUOTE_SCHEMA

pytestmark = [pytest.mark.broker, pytest.mark.crash]
LEAN = Path(__file__).parents[3].parent / "shared" / "data" / "lean"
TWO = """
[workers.broker]
worker = "workers.broker.worker:BrokerWorker"
[workers.replayer]
worker = "workers.replayer.worker:ReplayerWorker"
depends_on = ["broker"]
"""


INGEST = """
[workers.ingest]
worker = "workers.ingest.worker:IngestWorker"
depends_on = ["broker"]
"""


def status(one, name="replayer"):
    """A status as others see it."""
    return one.mesh.attach(f"status/{name}").read()[1]


def consume(one, partitions, enough):
    """Values of all partitions, each from its beginning, until `enough(values)`."""
    _, address = one.mesh.attach("broker").read()
    consumer = Consumer({"bootstrap.servers": address["bootstrap_servers"], "group.id": "t"})
    consumer.assign([TopicPartition("quotes", p, 0) for p in range(partitions)])
    got = []
    until("messages", lambda: got.extend(consumer.consume(1000, 0.1)) or enough(got))
    consumer.close()
    return got


@pytest.mark.skipif(not LEAN.exists(), reason="the recorded market data is not beside the project")
def test_recorded_rows_are_sent_once_and_then_it_is_finished(tmp_path):
    """The smallest recorded day: rows read = produced = what a consumer finds."""
    extra = f"""
[replayer]
data = "{LEAN}"
date = "20151228"
speed = 0.0
loop = false
follow = ""
max_ahead = 1000000
"""
    with daemon(tmp_path, TWO, extra) as one:
        until("finished", lambda: status(one)["finished"])
        found = status(one)
        assert found["rows_read"] == found["produced"] > 500
        assert found["failed"] == 0
        got = consume(one, 2, lambda got: len(got) >= found["produced"])
        assert len(got) == found["produced"]


def test_killed_replayer_sends_every_row_at_least_once(tmp_path):
    """SIGKILL again and again: no row is missing, at most a batch a kill is there twice."""
    batch, total, kills = 100, 6000, 5
    extra = f'[replayer]\nspeed = 0.0\nfollow = ""\nbatch = {batch}\nrows = {total}\n'
    workers = TWO + "restart = { base_delay_s = 0.01, intensity = 100 }\n"
    with daemon(tmp_path, workers, extra) as one:
        pid = one.running("replayer")
        for kill in range(1, kills + 1):
            enough = kill * total // (kills + 3)
            until("messages", lambda enough=enough: status(one)["produced"] > enough)
            os.kill(pid, 9)
            pid = one.running("replayer", other_than=pid)
        until("finished", lambda: status(one)["finished"])
        found = status(one)
        assert found["rows_read"] == found["position"] == total
        seen = consume(one, 2, lambda got: len({sequence(m.value()) for m in got}) >= total)
        sequences = Counter(sequence(message.value()) for message in seen)
        assert sorted(sequences) == list(range(total))
        assert len(seen) - total <= kills * batch


def sequence(value):
    """The publisher's sequence in a message."""
    body = io.BytesIO(value[FRAME_BYTES:])
    return fastavro.schemaless_reader(body, fastavro.parse_schema(QUOTE_SCHEMA), None)["sequence"]


def test_a_loop_goes_on_later_by_whole_days(tmp_path):
    """Data of three days begins again behind its end: time never steps back."""
    table = tmp_path / "table.csv"
    day = 86_400
    table.write_text("symbol,timestamp,bid\n" + "".join(f"A,{d * day + 7},1\n" for d in range(3)))
    extra = f'[replayer]\ndata = "{table}"\nspeed = 0.0\nfollow = ""\nrows = 7\n'
    with daemon(tmp_path, TWO, extra) as one:
        until("finished", lambda: status(one)["finished"])
        found = status(one)
        assert (found["rows_read"], found["loops"], found["position"]) == (7, 2, 1)
        assert found["market_time_ns"] == (6 * day + 7) * 10**9
        assert found["source"] == "table.csv"


def test_every_fault_is_seen_by_ingest(tmp_path):
    """Clean data with every fault: poison in the dead letters by class, the rest in the gates."""
    table = tmp_path / "clean.csv"
    lines = [
        f"S{i % 50},{1_700_000_000_000_000_000 + i},{i % 7 + 1}.5,{i % 7 + 2}.5,2"
        for i in range(5000)
    ]
    table.write_text("symbol,timestamp,bid,ask,last\n" + "\n".join(lines) + "\n")
    extra = f"""
[replayer]
data = "{table}"
speed = 0.0
loop = false
[replayer.faults]
poison = 0.05
duplicate = 0.02
crossed = 0.02
nan = 0.02
least = 0.02
evolve_every = 1000
"""
    with daemon(tmp_path, TWO + INGEST, extra) as one:
        until("finished", lambda: status(one)["finished"])
        sent = status(one)
        poisons = sum(n for kind, n in sent["faults"].items() if kind.startswith("poison."))
        assert sent["rows_read"] == 5000
        assert sent["produced"] == 5000 + poisons + sent["faults"]["duplicate"]
        ingest = until("all of it", lambda: consumed(one, sent["produced"]))
        assert ingest["dead_lettered"] == poisons > 200
        frames = sum(sent["faults"][f"poison.{k}"] for k in ("empty", "magic", "tombstone"))
        bodies = sum(sent["faults"][f"poison.{k}"] for k in ("truncated", "garbage"))
        assert ingest["errors"]["frame"] == frames
        assert ingest["errors"]["body"] == bodies
        assert ingest["errors"]["schema_unknown"] == sent["faults"]["poison.unknown_id"]
        assert ingest["gates"]["crossed"] == sent["faults"]["crossed"]
        assert ingest["gates"]["duplicate"] == sent["faults"]["duplicate"]
        assert ingest["published"] == 5000 + sent["faults"]["duplicate"]


def test_every_reordered_row_is_seen_by_ingest(tmp_path):
    """Rows that change places within their symbol: as many clocks that run backwards."""
    table = tmp_path / "clean.csv"
    start = 1_700_000_000_000_000_000
    lines = [f"S{i % 50},{start + i},{i % 7 + 1}.5,{i % 7 + 2}.5\n" for i in range(4000)]
    table.write_text("symbol,timestamp,bid,ask\n" + "".join(lines))
    extra = f'[replayer]\ndata = "{table}"\nspeed = 0.0\nloop = false\n'
    with daemon(tmp_path, TWO + INGEST, extra + "faults = { reorder = 0.05 }\n") as one:
        until("finished", lambda: status(one)["finished"])
        found = until("all of it", lambda: consumed(one, 4000))
        assert found["gates"]["backwards"] == status(one)["faults"]["reorder"] > 100
        assert found["published"] == 4000


def consumed(one, enough):
    """Status of ingest once it has consumed so many."""
    found = status(one, "ingest")
    return found if found["consumed"] >= enough else None


def test_missing_data_is_a_readable_reason(tmp_path):
    """A path that is not there: nothing is sent, the status says which and what to do."""
    workers = TWO + "restart = { base_delay_s = 0.01, intensity = 1 }\n"
    with daemon(tmp_path, workers, '[replayer]\ndata = "/nowhere"') as one:
        until("quarantine", lambda: one.worker("replayer")["state"] == "quarantined")
        reason = one.worker("replayer")["reason"]
        assert "/nowhere: no such file or folder; expected" in reason
        assert "set replayer.data" in reason


def test_data_that_breaks_in_the_middle_is_sent_up_to_there(tmp_path):
    """A broken line behind good ones: those are published, the reason names the line."""
    table = tmp_path / "table.csv"
    good = "".join(f"A,{1_700_000_000 + i},1\n" for i in range(40_000))
    table.write_text("symbol,timestamp,bid\n" + good + "A,soon,1\n")
    extra = f'[replayer]\ndata = "{table}"\nspeed = 0.0\nfollow = ""\n'
    with daemon(tmp_path, TWO, extra) as one:
        until("quarantine", lambda: one.worker("replayer")["state"] == "quarantined")
        assert "line 40002: time 'soon'" in one.worker("replayer")["reason"]
        assert 16_384 <= status(one)["produced"] == status(one)["position"] <= 40_000
