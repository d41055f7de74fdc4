"""What is thrown at ingest, and what becomes of it: each row of the table in docs/ingest.md."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal

import pytest

from tests.daemons import until
from tests.workers.ingest.test_dead_letter import small_disk
from tests.workers.ingest.world import GOOD, ROWS, observe, world
from workers.contract.quote_schema import QUOTE_SCHEMA_TEXT, frame
from workers.replayer.encoder import Encoder

pytestmark = [pytest.mark.broker, pytest.mark.crash]
POISONS = [b"", b"\x01\x00\x00\x00\x01xx", frame(999, b"xx"), frame(1, b"\xff\xff"), None]
CLASSES = {"frame": 3, "schema_unknown": 1, "body": 1}
AUTHORIZATION_FAILED = 29


def with_poison(values, every):
    """The values with every n-th one replaced, the poisons by turns; and how many there are."""
    poisoned = list(values)
    places = range(every - 1, len(values), every)
    for number, at in enumerate(places):
        poisoned[at] = POISONS[number % len(POISONS)]
    return poisoned, len(places)


def is_complete(one, but=frozenset()):
    """Every offset sent is in the ring once and in order, but the (partition, offset) of `but`."""
    found = one.offsets()
    total = sum(len(offsets) for offsets in found.values())
    for partition, offsets in found.items():
        last = max([o for p, o in but if p == partition] + offsets[-1:])
        wanted = [o for o in range(last + 1) if (partition, o) not in but]
        assert offsets == wanted, f"partition {partition}"
    assert total + len(but) == one.sent


def test_poison_is_dead_lettered_and_every_good_message_published(tmp_path):
    """One in ten, then one in a thousand, of five kinds: each with class, key and headers."""
    with world(tmp_path) as one:
        first, some = with_poison(GOOD[:1000], 10)
        one.send(first)
        status = one.consumed(1000)
        assert (status["published"], status["dead_lettered"]) == (900, some)
        assert {k: v for k, v in status["errors"].items() if k in CLASSES} == {
            "frame": 60,
            "schema_unknown": 20,
            "body": 20,
        }
        observe(
            "poison, 1 message in 10, of five kinds (1,000 messages)",
            "900 of 900 good published, 100 of 100 dead-lettered with class, key and headers",
        )
        second, few = with_poison(GOOD[:3000], 1000)
        one.send(second)
        status = one.consumed(4000)
        assert (status["published"], status["dead_lettered"]) == (900 + 2997, some + few)
        observe(
            "poison, 1 message in 1,000 (3,000 messages)",
            "2,997 of 2,997 good published, 3 of 3 dead-lettered",
        )
        bad = {(n % 3, n // 3) for n, value in enumerate(first) if value in POISONS}
        bad |= {
            (n % 3, [334, 333, 333][n % 3] + n // 3)
            for n, value in enumerate(second)
            if value in POISONS
        }
        is_complete(one, bad)
        letters = one.letters(some + few)
        assert len(letters) == some + few
        for letter in letters:
            headers = dict(letter.headers())
            assert headers["__connect.errors.topic"] == b"quotes"
            where = (
                int(headers["__connect.errors.partition"]),
                int(headers["__connect.errors.offset"]),
            )
            bad.remove(where)
            assert headers["mesh.error.class"].decode() in CLASSES
            assert headers["__connect.errors.exception.message"]
            assert letter.key().startswith(b"k")
            assert letter.value() in POISONS
        assert not bad
        assert one.registry.asked.count(999) == 1
        one.unhurt()


def test_each_class_of_a_message_is_counted_under_its_name(tmp_path):
    """One message of every class that the page has, among good ones: counter, letter, order."""
    rows = ROWS[-3:].copy()
    rows["symbol"][0] = b""
    rows["bid"][1] = -5.0
    without_symbol, negative, _ = Encoder(1).encode(rows)
    bad = {
        "frame": b"\x07",
        "schema_unknown": frame(999, b"xx"),
        "schema_incompatible": frame(2, b"\x02"),
        "body": frame(1, b"\xff\xff"),
        "value": without_symbol,
        "gate": negative,
    }
    with world(tmp_path, '[ingest]\ngates = { negative = "dead_letter" }\n') as one:
        one.registry.schemas[2] = json.dumps(
            {"type": "record", "name": "Quote", "fields": [{"name": "symbol", "type": "long"}]}
        )
        one.send([*GOOD[:300], *bad.values(), *GOOD[300:600]], partition=0)
        status = one.consumed(606)
        assert (status["published"], status["dead_lettered"]) == (600, 6)
        assert {kind: status["errors"].get(kind) for kind in bad} == dict.fromkeys(bad, 1)
        found = {
            dict(letter.headers())["mesh.error.class"].decode(): letter.value()
            for letter in one.letters(6)
        }
        assert found == bad
        one.unhurt()
        observe(
            "one message of each class: `frame`, `schema_unknown`, `schema_incompatible`, `body`, "
            "`value`, `gate`",
            "each counted under its name and dead-lettered with it; 600 of 600 good published",
        )


def test_unknown_ids_cost_one_request_each_and_interval(tmp_path):
    """Fifty messages of each of three unknown ids: three requests; later ids may be known."""
    with world(tmp_path, "[ingest]\nunknown_schema_s = 2.0\n") as one:
        one.send([frame(700 + n % 3, b"xx") for n in range(150)])
        assert one.consumed(150)["errors"]["schema_unknown"] == 150
        assert sorted(i for i in one.registry.asked if i != 1) == [700, 701, 702]
        one.registry.schemas[700] = QUOTE_SCHEMA_TEXT
        select.select([], [], [], 2.0)  # the interval itself
        one.send([frame(700, GOOD[0][5:])])
        assert one.consumed(151)["published"] == 1
        assert one.registry.asked.count(700) == 2
        observe(
            "50 messages of each of 3 unknown schema ids",
            "150 dead-lettered, 3 requests to the registry; registered later, the id is read",
        )


def test_registry_down_at_start_without_cache_loses_nothing(tmp_path):
    """Nothing can be decoded: nothing is dead-lettered, all is published once it answers."""
    with world(tmp_path, start=False) as one:
        one.registry.mood = "503"
        one.daemon.start()
        one.daemon.running("ingest")
        one.send(GOOD[:300])
        until("degraded", lambda: one.status()["state"] == "degraded: registry")
        assert one.status()["consumed"] == 0
        one.registry.mood = "ok"
        status = one.consumed(300)
        assert (status["published"], status["dead_lettered"]) == (300, 0)
        until("well again", lambda: one.status()["state"] == "running")
        is_complete(one)
        one.unhurt()
        observe(
            "registry down at start, no disk cache",
            "waits, 0 dead-lettered; all 300 published when it is back",
        )


def test_registry_down_at_start_with_cache_is_not_missed(tmp_path):
    """The schema is on disk: a restart asks nobody."""
    with world(tmp_path) as one:
        one.send(GOOD[:100])
        one.consumed(100)
        assert one.daemon.stop() == 0
        one.registry.mood = "503"
        before = len(one.registry.asked)
        one.daemon.start()
        one.daemon.running("ingest")
        one.send(GOOD[:200])
        assert one.consumed(300)["published"] == 300
        assert len(one.registry.asked) == before
        is_complete(one)
        observe(
            "registry down at start, schema in the disk cache",
            "all published at once, 0 requests",
        )


@pytest.mark.parametrize(
    "moods", [("503", "500", "429", "garbage"), ("slow", "drip", "huge", "empty")]
)
def test_a_sick_registry_holds_up_only_who_needs_it(tmp_path, moods):
    """A new id in partition 0: the others run on; once it is well, partition 0 goes on in order."""
    with world(tmp_path) as one:
        one.send(GOOD[:30])
        one.consumed(30)
        for number, mood in enumerate(moods):
            one.registry.mood = mood
            new = 2 + number
            one.registry.schemas[new] = QUOTE_SCHEMA_TEXT
            before = one.status()["consumed"]
            one.send([frame(new, GOOD[n][5:]) for n in range(20)], partition=0)
            one.send(GOOD[:40], partition=1)
            status = one.consumed(before + 40)
            assert status["consumed"] == before + 40
            until("said", lambda: one.status()["state"] == "degraded: registry")
            one.registry.mood = "ok"
            one.registry.released.set()
            one.consumed(before + 60)
            one.registry.released.clear()
        status = one.status()
        assert status["dead_lettered"] == 0
        assert status["errors"]["registry"] >= len(moods)
        is_complete(one)
        one.unhurt()
        names = {
            "429": "429 with Retry-After",
            "slow": "no answer",
            "drip": "an endless answer",
            "huge": "an answer of 5 MB",
            "empty": "an answer without a schema",
        }
        text = ", ".join(names.get(mood, mood) for mood in moods)
        observe(
            f"registry sick while a new id arrives ({text})",
            "only that partition waits, 0 dead-lettered, then in order; no restart",
        )


def test_broker_outages_are_waited_out(tmp_path):
    """Down for longer than the heartbeat deadline, back, flapping: no restart, no loss."""
    with world(tmp_path) as one:
        one.send(GOOD[:300])
        one.consumed(300)
        for outage in range(3):
            one.cluster.set_up(False)
            until("said", lambda: one.status()["state"] == "degraded: transport")
            one.cluster.set_up(True)
            one.send(GOOD[:300])
            one.consumed(300 * (outage + 2))
        until("well again", lambda: one.status()["state"] == "running")
        assert one.status()["errors"]["_TRANSPORT"] >= 3
        is_complete(one)
        one.unhurt()
        one.send(GOOD[:30])
        one.consumed(1230)
        one.cluster.set_up(False)
        until("said", lambda: one.status()["state"] == "degraded: transport")
        assert one.daemon.stop() == 0
        assert one.status()["state"] == "stopped", "killed, for it waited for the broker"
        observe(
            "broker down longer than the heartbeat deadline, back, 3 times",
            "`degraded: transport`, no restart, all 1,200 published once; "
            "stops in order while it is down",
        )


def set_topic_error(cluster, topic, code):
    """Let the brokers answer `code` for a topic (0: no longer)."""
    function = cluster._library.rd_kafka_mock_topic_set_error
    function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int], None
    function(cluster._cluster, topic.encode(), code)


def numbered(count, first=0):
    """Malformed values that differ from each other."""
    return [b"poison %d" % n for n in range(first, first + count)]


def test_dead_letters_are_spooled_and_drained_in_order(tmp_path):
    """The topic refuses: letters wait on disk, over a kill -9 too, and arrive in order."""
    with world(tmp_path, "[ingest]\ndead_letter_timeout_s = 0.5\n") as one:
        set_topic_error(one.cluster, "quotes.dead", AUTHORIZATION_FAILED)
        one.send(numbered(40), partition=0)
        status = one.consumed(40)
        until("spooled", lambda: one.status()["spooled"] == 40)
        one.send(GOOD[:90])
        one.send(numbered(40, 40), partition=0)
        status = one.consumed(170)
        assert (status["published"], status["dead_lettered"]) == (90, 80)
        assert "spooled" in one.status()["state"]
        pid = one.daemon.worker("ingest")["pid"]
        os.kill(pid, signal.SIGKILL)
        one.daemon.running("ingest", other_than=pid)
        one.send(numbered(20, 80), partition=0)
        one.consumed(190)
        set_topic_error(one.cluster, "quotes.dead", 0)
        until("drained", lambda: one.status()["spooled"] == 0)
        values = [letter.value() for letter in one.letters(100)]
        assert values == numbered(100)
        observe(
            "dead-letter topic refuses 100 letters, ingest killed meanwhile",
            "good ones published, letters spooled on disk, later delivered in order, once",
        )


def test_a_full_spool_blocks_and_loses_nothing(tmp_path):
    """Neither topic nor spool takes a letter: ingest stands still and says so, then goes on."""
    with world(tmp_path, "[ingest]\ndead_letter_timeout_s = 0.5\nspool_bytes = 4096\n") as one:
        set_topic_error(one.cluster, "quotes.dead", AUTHORIZATION_FAILED)
        for number in range(6):
            one.send(numbered(10, 10 * number), partition=0)
            until(
                "passed or stuck",
                lambda n=number: (
                    one.status()["consumed"] >= 10 * n + 10
                    or one.status()["state"] == "degraded: sink"
                ),
            )
        until("stuck", lambda: one.status()["state"] == "degraded: sink")
        stuck = one.status()
        assert stuck["errors"]["sink"] >= 1
        assert 0 < stuck["spooled"] == stuck["consumed"] < 60
        set_topic_error(one.cluster, "quotes.dead", 0)
        one.consumed(60)
        until("drained", lambda: one.status()["spooled"] == 0)
        assert [letter.value() for letter in one.letters(60)] == numbered(60)
        one.unhurt()
        observe(
            "dead-letter topic refuses and the spool is full",
            "`degraded: sink`, nothing is passed; later all delivered in order",
        )


@pytest.mark.parametrize("sink_full", ["wait", "drop"])
def test_a_full_disk_is_no_crash(tmp_path, sink_full):
    """The spool's disk has no room and the topic refuses: wait, or lose letters and count them."""
    extra = f'[ingest]\ndead_letter_timeout_s = 0.5\nsink_full = "{sink_full}"\n'
    with small_disk(tmp_path / "run" / "ingest", 16), world(tmp_path, extra) as one:
        one.send(GOOD[:30], partition=0)
        one.consumed(30)
        set_topic_error(one.cluster, "quotes.dead", AUTHORIZATION_FAILED)
        for number in range(8):
            one.send([*numbered(20, 20 * number), GOOD[number]], partition=0)
            until(
                "passed or stuck",
                lambda n=number: (
                    one.status()["consumed"] >= 30 + 21 * (n + 1)
                    or one.status()["state"] == "degraded: sink"
                ),
            )
        until("said", lambda: one.status()["state"] == "degraded: sink")
        if sink_full == "wait":
            assert 30 < one.status()["consumed"] < 30 + 8 * 21
            assert one.status()["letters_lost"] == 0
        set_topic_error(one.cluster, "quotes.dead", 0)
        status = one.consumed(30 + 8 * 21)
        until("drained", lambda: one.status()["spooled"] == 0)
        lost = status["letters_lost"]
        assert (lost > 0) == (sink_full == "drop")
        assert (status["published"], status["dead_lettered"]) == (38, 160 - lost)
        values = [letter.value() for letter in one.letters(160 - lost)]
        assert values == [v for v in numbered(160) if v in set(values)]
        assert len(values) == 160 - lost
        one.unhurt()
        then = {
            "wait": "`degraded: sink`, nothing is passed; with room again all delivered in order",
            "drop": "good ones published, lost letters counted, `degraded: sink`, others delivered",
        }[sink_full]
        observe(
            f"the spool's disk is full and the dead-letter topic refuses, `{sink_full}`",
            f"{then}; no restart",
        )


def test_a_slow_broker_in_a_group_is_no_hang(tmp_path):
    """Every answer takes three times the heartbeat deadline while partitions are dealt out."""
    group = '[kafka]\ngroup = "hosts"\n'
    with world(tmp_path, start=False) as one:
        profile = one.daemon.profile.read_text().replace("[kafka]", group)
        one.daemon.profile.write_text(profile)
        one.cluster.set_rtt(600)
        one.daemon.start()
        one.daemon.running("ingest")
        until("begun", lambda: one.status()["rebalances"] and not one.status()["errors"])
        one.send(GOOD[:30])
        one.consumed(30)
        one.cluster.set_rtt(0)
        is_complete(one)
        one.unhurt()
        observe(
            "a consumer group whose brokers take 0.6 s an answer",
            "partitions begin when it is known where; no restart",
        )
