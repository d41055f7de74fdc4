"""Dead letters: delivered in order, or on disk, or refused; never gone."""

from __future__ import annotations

import resource
import subprocess
from contextlib import contextmanager

import pytest
from confluent_kafka import Consumer, TopicPartition

from tests.daemons import until
from workers.broker.cluster import MockCluster
from workers.ingest.errors import SinkFull
from workers.ingest.kafka.dead_letter import PIECE, DeadLetter, DeadLetters

pytestmark = pytest.mark.broker
DOWN = {"bootstrap.servers": "127.0.0.1:9"}


def letter(number, value=b"v"):
    """A letter of some message."""
    return DeadLetter(
        "quotes",
        1,
        number,
        b"k%d" % number,
        value,
        [("trace", b"\xff"), ("none", None)],
        "body",
        "why",
        7,
    )


@pytest.fixture
def cluster():
    """Brokers with the topic."""
    one = MockCluster()
    one.create_topic("dead", 1)
    yield one
    one.close()


def dead_letters(options, path, *, limit=4 << 20, **more):
    """Dead letters with a short time out."""
    return DeadLetters(options, "dead", path / "spool.jsonl", limit=limit, timeout_s=0.3, **more)


@contextmanager
def small_disk(path, kib):
    """A file system of its own with so much room; skips where none may be mounted."""
    path.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "spool", str(path)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        pytest.skip(f"a small disk needs the right to mount one: {made.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def delivered(cluster, count):
    """What is in the topic."""
    consumer = Consumer({"bootstrap.servers": cluster.bootstrap_servers, "group.id": "x"})
    consumer.assign([TopicPartition("dead", 0, 0)])
    got = []
    until("letters", lambda: got.extend(consumer.consume(100, 0.1)) or len(got) >= count)
    consumer.close()
    return got


def test_a_letter_keeps_key_value_and_headers_and_says_why(cluster, tmp_path):
    """The message's own headers come first; Kafka Connect's and ours say what was wrong."""
    one = dead_letters({"bootstrap.servers": cluster.bootstrap_servers}, tmp_path)
    one.store([letter(5, None)])
    assert one.spooled == 0
    found = delivered(cluster, 1)[0]
    headers = found.headers()
    assert headers[:2] == [("trace", b"\xff"), ("none", None)]
    named = dict(headers)
    assert (found.key(), found.value()) == (b"k5", None)
    assert named["__connect.errors.topic"] == b"quotes"
    assert named["__connect.errors.partition"] == b"1"
    assert named["__connect.errors.offset"] == b"5"
    assert named["__connect.errors.exception.message"] == b"why"
    assert named["mesh.error.class"] == b"body"
    assert named["mesh.schema.id"] == b"7"


def test_the_spool_survives_a_torn_line_and_goes_out_in_order(cluster, tmp_path):
    """No broker: on disk. A crash cuts the last line; what comes after it is whole."""
    first = dead_letters(DOWN, tmp_path)
    first.store([letter(n) for n in range(3)])
    first.close()
    with (tmp_path / "spool.jsonl").open("a") as file:
        file.write('["quotes", 1, 99, "')
    second = dead_letters({"bootstrap.servers": cluster.bootstrap_servers}, tmp_path)
    assert second.spooled == 3
    second.store([letter(n) for n in range(3, 6)])
    assert second.spooled == 6
    until("drained", lambda: second.drain() or second.spooled == 0)
    assert [m.key() for m in delivered(cluster, 6)] == [b"k%d" % n for n in range(6)]
    assert (tmp_path / "spool.jsonl").read_text() == ""


def test_nobody_waits_for_a_broker_that_is_away(tmp_path):
    """The first failure costs the time out; letters after it go straight to the spool."""
    now = [0.0]
    one = dead_letters(DOWN, tmp_path, clock=lambda: now[0])
    one.store([letter(0)])
    for number in range(1, 50):
        one.drain()
        one.store([letter(number)])
    assert one.spooled == 50
    assert one.last_error


def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path):
    """Beyond its limit nothing is taken, and nothing is lost of what was."""
    one = dead_letters(DOWN, tmp_path, limit=600)
    one.store([letter(0), letter(1)])
    with pytest.raises(SinkFull, match="spool_bytes"):
        one.store([letter(n) for n in range(2, 9)])
    one.close()
    assert dead_letters(DOWN, tmp_path).spooled == 2


def test_a_full_disk_is_a_full_spool_and_leaves_no_half_line(tmp_path):
    """What does not fit is refused as a whole; what was there and what comes later stays whole."""
    one = dead_letters(DOWN, tmp_path)
    one.store([letter(0)])
    spool = tmp_path / "spool.jsonl"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (spool.stat().st_size + 10, before[1]))
    try:
        with pytest.raises(SinkFull, match="make room"):
            one.store([letter(1)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    one.store([letter(2)])
    one.close()
    assert dead_letters(DOWN, tmp_path).spooled == 2
    assert len(spool.read_text().splitlines()) == 2


def test_a_spool_of_many_pieces_goes_out_once_and_in_order(cluster, tmp_path):
    """Letters that come while a piece is under way stay behind it."""
    first = dead_letters(DOWN, tmp_path)
    first.store([letter(n) for n in range(2 * PIECE)])
    first.close()
    second = dead_letters({"bootstrap.servers": cluster.bootstrap_servers}, tmp_path)
    second.drain()
    second.store([letter(2 * PIECE)])
    until("drained", lambda: second.drain() or second.spooled == 0)
    found = [m.key() for m in delivered(cluster, 2 * PIECE + 1)]
    assert found == [b"k%d" % n for n in range(2 * PIECE + 1)]


def test_a_letter_too_large_for_the_topic_is_shortened(cluster, tmp_path):
    """Where the topic takes less than the message has, its beginning is kept and its size said."""
    options = {"bootstrap.servers": cluster.bootstrap_servers, "message.max.bytes": 20_000}
    one = dead_letters(options, tmp_path)
    one.store([letter(0, b"x" * 50_000), letter(1)])
    until("drained", lambda: one.drain() or one.spooled == 0)
    found = {m.key(): m for m in delivered(cluster, 2)}
    assert found[b"k0"].value() == b"x" * 12_500
    assert dict(found[b"k0"].headers())["mesh.value.bytes"] == b"50000"
    assert found[b"k1"].value() == b"v"


def test_a_full_disk_does_not_stop_the_drain(cluster, tmp_path):
    """No room to take a delivered piece out of the spool: it is stepped over, and gone out once."""
    with small_disk(tmp_path / "disk", 768) as disk:
        first = dead_letters(DOWN, disk)
        first.store([letter(n) for n in range(2 * PIECE)])
        room = 768 * 1024 - (disk / "spool.jsonl").stat().st_size
        with pytest.raises(SinkFull, match="make room") as full:
            first.store([letter(1, b"x" * room)])
        assert full.value.letters == 1
        first.close()
        (disk / "ballast").write_bytes(b"x" * (room - (48 << 10)))
        second = dead_letters({"bootstrap.servers": cluster.bootstrap_servers}, disk)
        until("stepped over", lambda: second.drain() or second.spooled == PIECE)
        assert "make room" in second.last_error
        assert not (disk / "spool.tmp").exists()
        second.store([letter(2 * PIECE)])
        until("drained", lambda: second.drain() or second.spooled == 0)
        assert (disk / "spool.jsonl").stat().st_size == 0
        second.close()
    found = [m.key() for m in delivered(cluster, 2 * PIECE + 1)]
    assert found == [b"k%d" % n for n in range(2 * PIECE + 1)]


def test_what_was_delivered_before_the_spool_was_full_is_not_delivered_again(cluster, tmp_path):
    """The topic takes one letter and not the next, nor does the disk: the first goes out once."""
    options = {"bootstrap.servers": cluster.bootstrap_servers, "message.max.bytes": 20_000}
    one = dead_letters(options, tmp_path, limit=1000)
    both = [letter(0), letter(1, b"x" * 50_000)]
    for _ in range(3):
        with pytest.raises(SinkFull) as full:
            one.store(both)
        assert full.value.letters == 1
    one.store([letter(2)])
    assert [m.key() for m in delivered(cluster, 2)] == [b"k0", b"k2"]


def test_letters_that_may_be_repetitions_say_so(cluster, tmp_path):
    """After a kill the beginning of the spool may have gone out before; topic and offset tell."""
    first = dead_letters(DOWN, tmp_path)
    first.store([letter(n) for n in range(2)])
    first.close()
    options = {"bootstrap.servers": cluster.bootstrap_servers}
    second = dead_letters(options, tmp_path, in_doubt=True)
    until("drained", lambda: second.drain() or second.spooled == 0)
    second.store([letter(5)])
    assert second.repeated == 2
    marks = [dict(m.headers()).get("mesh.redelivery") for m in delivered(cluster, 3)]
    assert marks == [b"possible", b"possible", None]
