"""Replayer and broker: rows read a second and memory by family, messages encoded and published.

    make bench-replayer        all figures
    bench/bench_replayer.py FIGURE ...     some of: read synthetic encode publish broker

`read` needs the recorded data beside the project (../shared/data); each family is read in a process
of its own, whose peak memory is given above that of a process that has the readers imported. Peers:
fastavro (encode), the bare client given ready messages (publish).
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import fastavro
import numpy as np
from confluent_kafka import Producer
from pyarrow import csv

from workers.broker.cluster import MockCluster
from workers.contract.quote_schema import FRAME, MAGIC, QUOTE_SCHEMA
from workers.market_data.families import open_archive
from workers.replayer.encoder import Encoder, Partitions
from workers.replayer.faults import Outgoing
from workers.replayer.publisher import Publisher
from workers.replayer.synthetic import SyntheticMarket

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
START = "2026-01-05T14:30:00+00:00"
FAMILIES = {
    "lean option minutes, merged": "lean/option/usa/minute/goog/20151224_quote_american.zip",
    "lean option hours, merged": "lean/option/usa/hour/goog_2015_quote_american.zip",
    "lean equity ticks": "lean/equity/usa/tick/ibm",
    "lean forex ticks": "lean/forex/fxcm/tick/eurusd",
    "deribit history": "deribit/btc_eth_chains_202601.csv.gz",
    "binance lines": "hftbacktest/usdm_btcusdt_20240808.gz",
}
MESSAGES = 20_000


def show(bench: str, value: float, unit: str, peer: float | None = None, **more: object) -> None:
    """Print one figure."""
    line = {"bench": bench, "value": round(value, 3), "unit": unit}
    if peer:
        line |= {"peer": round(peer, 3), "ratio": round(value / peer, 3)}
    print(json.dumps({**line, **more}), flush=True)


def seconds(action: Callable[[], object]) -> float:
    """Median time of five calls."""
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        action()
        times.append(time.perf_counter() - begin)
    return median(times)


def peak_mib() -> float:
    """Largest resident set of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def read_one(path: str) -> None:
    """Read a path in this process and print what it took."""
    csv.read_csv(io.BytesIO(b"1,2\n"))  # the first use sets Arrow's memory up
    before = peak_mib()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as spill:
        archive = open_archive(Path(path), spill=Path(spill))
        rows = sum(block.size for block in archive.blocks())
    took = time.perf_counter() - begin
    print(json.dumps([rows, rows / took, peak_mib() - before]))


def read() -> None:
    """Rows a second and memory of each family."""
    for family, path in FAMILIES.items():
        if not (DATA / path).exists():
            print(json.dumps({"bench": f"read {family}", "skipped": f"{DATA / path} is not there"}))
            continue
        command = [sys.executable, __file__, "--read", str(DATA / path)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
        rows, rate, memory = json.loads(done.stdout)
        show(f"read {family}", rate, "rows/s", rows=rows, peak_mib_above_import=round(memory, 1))


def synthetic() -> None:
    """Rows of the synthetic market a second."""
    market = SyntheticMarket(7, START)
    positions = iter(range(0, 10**9, MESSAGES))
    show(
        "synthetic market",
        MESSAGES / seconds(lambda: market.read(next(positions), MESSAGES)),
        "rows/s",
    )


def encode() -> None:
    """Messages encoded a second, beside fastavro with the same bytes as result."""
    rows = SyntheticMarket(7, START).read(0, MESSAGES)
    encoder = Encoder(7)
    parsed = fastavro.parse_schema(QUOTE_SCHEMA)
    messages = encoder.encode(rows)
    records = [
        fastavro.schemaless_reader(io.BytesIO(message[5:]), parsed, None) for message in messages
    ]

    def with_fastavro() -> list[bytes]:
        found = []
        for record in records:
            buffer = io.BytesIO()
            buffer.write(FRAME.pack(MAGIC, 7))
            fastavro.schemaless_writer(buffer, parsed, record)
            found.append(buffer.getvalue())
        return found

    assert with_fastavro() == messages
    ours = MESSAGES / seconds(lambda: encoder.encode(rows))
    peer = MESSAGES / seconds(with_fastavro)
    size = float(np.mean([len(message) for message in messages]))
    show("encode", ours, "messages/s", peer, bytes_a_message=round(size, 1))


def publish() -> None:
    """Messages delivered to the embedded broker a second, from rows on; beside the bare client."""
    rows = SyntheticMarket(7, START).read(0, MESSAGES)
    encoder = Encoder(7)
    values, keys = encoder.encode(rows), rows["symbol"].tolist()
    partitions = Partitions(2)
    cluster = MockCluster()
    cluster.create_topic("quotes", 2)
    options = {"bootstrap.servers": cluster.bootstrap_servers, "log_level": "0"}
    publisher = Publisher(options, "quotes", 2, 10.0)
    bare = Producer({**options, "linger.ms": 5, "queue.buffering.max.messages": 1_000_000})

    def limit() -> None:
        for value, key in zip(values, keys, strict=True):
            bare.produce("quotes", value, key, partitions[key])
        bare.flush()

    def ours() -> None:
        out = Outgoing(list(encoder.encode(rows)), rows["symbol"].tolist())
        assert not publisher.send(out, lambda: True)

    limit()
    ours()
    pairs = [(seconds(ours), seconds(limit)) for _ in range(5)]
    took, least = (median(times) for times in zip(*pairs, strict=True))
    show("publish", MESSAGES / took, "messages/s", MESSAGES / least)
    cluster.close()


def broker() -> None:
    """Milliseconds until a cluster with its topics answers (the rest of a start is Python's)."""
    took = []
    for _ in range(10):
        begin = time.perf_counter()
        cluster = MockCluster()
        for topic in ("quotes", "quotes.dead"):
            cluster.create_topic(topic, 2)
        took.append(time.perf_counter() - begin)
        cluster.close()
    show("broker: cluster and topics", median(took) * 1e3, "ms", worst=round(max(took) * 1e3, 1))


FIGURES = {f.__name__: f for f in (read, synthetic, encode, publish, broker)}


def main() -> None:
    """Print the figures that are asked for, or all."""
    if sys.argv[1:2] == ["--read"]:
        read_one(sys.argv[2])
        return
    for name in sys.argv[1:] or FIGURES:
        FIGURES[name]()


if __name__ == "__main__":
    main()
