"""Partitions: where they begin, what is committed to Kafka, whether there are more of them."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext

import pytest
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition

from config.ingest import IngestConfig
from config.kafka import KafkaConfig
from tests.daemons import until
from tests.workers.ingest.secure_broker import SecureFront
from workers.broker.cluster import MockCluster
from workers.ingest.kafka.broker_errors import broker_error
from workers.ingest.kafka.consumer import BrokerUnavailable, PartitionReader, profile_options

pytestmark = pytest.mark.broker
JOIN_GROUP, LEAVE_GROUP = b"\x00\x0b", b"\x00\x0d"  # Kafka protocol: API keys


@pytest.fixture
def servers(servers_with_cluster):
    """Where the brokers of `servers_with_cluster` are."""
    return servers_with_cluster[1]


@pytest.fixture
def servers_with_cluster():
    """Brokers with ten messages in each of two partitions."""
    cluster = MockCluster()
    cluster.create_topic("quotes", 2)
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    for number in range(20):
        producer.produce("quotes", b"%d" % number, partition=number % 2)
    assert producer.flush(20) == 0
    yield cluster, cluster.bootstrap_servers
    cluster.close()


def reader(servers, positions, expect=nullcontext, **kafka):
    """A reader of `quotes`."""
    config = KafkaConfig(**{"connect_timeout_s": 5.0, **kafka})
    options = {**profile_options(IngestConfig()), "bootstrap.servers": servers}
    return PartitionReader(options, config, positions, expect=expect)


def offsets(one, count):
    """The first `count` messages as (partition, offset), sorted."""
    got = []
    until("messages", lambda: got.extend(one.read(100, 0.1)) or len(got) >= count)
    return sorted((m.partition(), m.offset()) for m in got)


def test_the_ring_decides_where_to_go_on(servers):
    """A position in the ring wins; without one Kafka's commit, else the oldest message."""
    first = reader(servers, {"quotes/0": 7, "quotes/1": 9})
    assert offsets(first, 4) == [(0, 7), (0, 8), (0, 9), (1, 9)]
    first.acknowledge({"quotes/0": 8, "quotes/1": 10})
    first.commit(wait=True)
    first.close()
    asked = Consumer({"bootstrap.servers": servers, "group.id": "tradingmesh"})
    committed = asked.committed([TopicPartition("quotes", p) for p in range(2)], timeout=10)
    assert [at.offset for at in committed] == [8, 10]
    asked.close()
    positions = {}
    cold = reader(servers, positions)
    assert positions == {"quotes/0": 8, "quotes/1": 10}
    assert offsets(cold, 2) == [(0, 8), (0, 9)]
    cold.close()
    other = reader(servers, {"quotes/1": 3}, commit_group="another")
    assert offsets(other, 17)[0] == (0, 0)
    assert other.next_offsets() == [0, 3]
    other.close()


def test_a_start_at_the_newest_leaves_the_old_ones_out(servers):
    """Nobody has a position, and the old messages are not wanted."""
    one = reader(servers, {}, start="newest")
    assert one.next_offsets() == [10, 10]
    one.close()


def test_added_partitions_are_seen(servers):
    """A reader that knows fewer partitions than there are says so."""
    one = reader(servers, {})
    assert not one.has_grown()
    one.partitions.pop()
    assert one.has_grown()
    one.close()


def test_no_broker_is_said():
    """It may be there later: worth another try."""
    with pytest.raises(BrokerUnavailable):
        reader("127.0.0.1:9", {}, connect_timeout_s=0.5)


def test_a_group_waits_for_slow_answers_where_it_is_announced():
    """Where partitions begin is asked outside the callback, for all of them at once, announced."""
    cluster = MockCluster()
    cluster.create_topic("quotes", 12)
    announced = []

    @contextmanager
    def expect(seconds):
        announced.append(seconds)
        yield

    one = reader(cluster.bootstrap_servers, {"quotes/3": 0}, group="hosts", expect=expect)
    until("assigned", lambda: one.read(10, 0.1) or one.rebalances)
    cluster.set_rtt(400)
    until("begun", lambda: one.read(10, 0.1) or one.starts_resolved)
    assert announced == [pytest.approx(11.0)]
    assert one.next_offsets() == [0] * 12
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    for number in range(24):
        producer.produce("quotes", b"", partition=number % 12)
    assert producer.flush(20) == 0
    assert offsets(one, 24) == [(p, n) for p in range(12) for n in range(2)]
    cluster.set_rtt(0)
    one.close()
    cluster.close()


def test_states_follow_what_is_done_with_a_partition(servers):
    """Deferred, read again when due, out of the broker's range, recovered: as `states` says."""
    one = reader(servers, {"quotes/0": 4, "quotes/1": 99})
    assert one.states() == {"quotes/0": "reading", "quotes/1": "reading"}
    one.defer(0, 6, 0.2)
    assert one.is_deferring

    def recovering():
        for event in one.read(10, 0.1):
            one.handle_event(event)
        return one.is_recovering

    until("out of range", recovering)
    assert one.states()["quotes/1"] == "recovering"
    assert one.recover() == {1: 0}
    assert one.lost == 0  # a log that ends before the position is another one
    assert one.states()["quotes/1"] == "reading"
    one.close()


def test_a_deferred_partition_continues_where_it_was_left(servers):
    """Paused and sought: it is read from the given offset on once its time is over."""
    one = reader(servers, {"quotes/0": 4, "quotes/1": 10})
    assert offsets(one, 6) == [(0, n) for n in range(4, 10)]
    one.defer(0, 7, 0.2)
    assert one.states()["quotes/0"] == "waiting"
    assert offsets(one, 3) == [(0, n) for n in range(7, 10)]
    assert one.states()["quotes/0"] == "reading"
    one.close()


def test_a_rewind_while_blocked_loses_nothing(servers):
    """A member of a group that reads nothing is rewound: no message is dropped meanwhile."""
    one = reader(servers, {"quotes/0": 10, "quotes/1": 10}, group="hosts")
    until("started", lambda: one.read(10, 0.1) or one.starts_resolved)
    one.idle()
    assert set(one.states().values()) == {"blocked"}
    assert one.seek(0, 3)
    enough = time.monotonic() + 0.5
    until("a while", lambda: one.idle() or time.monotonic() > enough)
    assert set(one.states().values()) == {"blocked"}
    assert offsets(one, 7) == [(0, n) for n in range(3, 10)]
    one.close()


@pytest.mark.parametrize("instance", ["", "host-a"])
def test_a_static_member_says_its_name_and_does_not_leave(instance):
    """The brokers get the name of the instance, and no leave when it closes: it comes back.

    The mock cluster ignores the name: what real brokers do with it is not tested here.
    """
    cluster = MockCluster()
    cluster.create_topic("quotes", 2)
    front = SecureFront(cluster)
    one = reader(front.bootstrap_servers, {}, group="hosts", instance=instance)
    until("begun", lambda: one.read(10, 0.1) or one.starts_resolved)
    one.close()
    joined = [frame for frame in frames(front.seen) if frame[:2] == JOIN_GROUP]
    left = [frame for frame in frames(front.seen) if frame[:2] == LEAVE_GROUP]
    assert all(b"cooperative-sticky" in frame for frame in joined)
    assert all((b"host-a" in frame) == bool(instance) for frame in joined)
    assert joined
    assert bool(left) != bool(instance)
    front.close()
    cluster.close()


def test_a_fenced_member_says_so_and_is_over(servers_with_cluster):
    """The brokers answer a heartbeat with FENCED_INSTANCE_ID, as where another host has the name:
    librdkafka gives nothing any more, which must not look like a market without messages.
    """
    cluster, servers = servers_with_cluster
    options = {"heartbeat.interval.ms": "100"}
    one = PartitionReader(
        {**profile_options(IngestConfig()), **options, "bootstrap.servers": servers},
        KafkaConfig(group="hosts", instance="host-a", connect_timeout_s=5.0),
        {},
    )

    def read_events():
        for event in one.read(10, 0.1):
            one.handle_event(event)

    until("begun", lambda: read_events() or one.starts_resolved)
    assert one.broker_error() is None
    cluster.push_request_errors("heartbeat", [KafkaError.FENCED_INSTANCE_ID])
    until("over", lambda: read_events() or one.health.is_over)
    kind, text = one.broker_error()
    assert kind == "fenced"
    assert "Static consumer fenced" in text
    assert "kafka.instance: give each host its own" in text
    until(
        "statistics", lambda: read_events() or one.health.brokers_up
    )  # that brokers are up changes nothing
    one.commit(wait=True)
    assert one.broker_error() == (kind, text)
    one.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (KafkaError(KafkaError.FENCED_INSTANCE_ID), "fenced"),
        (KafkaError(KafkaError.FENCED_INSTANCE_ID, fatal=True), "fenced"),
        (KafkaError(KafkaError._FATAL, KafkaError(KafkaError.FENCED_INSTANCE_ID).str()), "fenced"),
        (KafkaError(KafkaError._FATAL, "out of everything"), "fatal"),
        (KafkaError(KafkaError._AUTHENTICATION, "no"), "authentication"),
        (KafkaError(KafkaError._SSL, "no"), "tls"),
        (KafkaError(KafkaError._TRANSPORT, "no"), None),
        (KafkaError(KafkaError._ALL_BROKERS_DOWN, "no"), None),
        (KafkaError(KafkaError.REBALANCE_IN_PROGRESS), None),
        (KafkaError(KafkaError.ILLEGAL_GENERATION), None),
    ],
)
def test_errors_that_refuse_a_host_are_told_from_those_that_pass(error, kind):
    """librdkafka's own errors: kind, and a remedy; an outage or a rebalance is no refusal."""
    found = broker_error(error)
    assert (found and found.kind) == kind
    assert found is None or "; " in found.text


OIDC = {
    "security.protocol": "SASL_PLAINTEXT",
    "sasl.mechanisms": "OAUTHBEARER",
    "sasl.oauthbearer.method": "oidc",
    "sasl.oauthbearer.client.id": "desk",
    "sasl.oauthbearer.client.secret": "a-secret",
    "sasl.oauthbearer.token.endpoint.url": "http://127.0.0.1:9/token",
}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({**OIDC, "sasl.oauthbearer.manner": "oidc"}, "sasl.oauthbearer.manner"),
        ({**OIDC, "sasl.oauthbearer.method": "oidk"}, '"oidk".*sasl.oauthbearer.method'),
        ({**OIDC, "sasl.mechanisms": "OAUTHBEARR"}, "mechanism: OAUTHBEARR"),
        ({**OIDC, "security.protocol": "SASLSSL"}, '"SASLSSL".*security.protocol'),
        (
            {k: v for k, v in OIDC.items() if "token" not in k},
            "sasl.oauthbearer.token.endpoint.url.*mandatory",
        ),
        ({"ssl.ca.location": "/nowhere.pem", "security.protocol": "SSL"}, "ssl.ca.location"),
        ({"fetch.wait.max.ms": "soon"}, "fetch.wait.max.ms"),
        ({"session.timeout.ms": "soon"}, "session.timeout.ms"),
    ],
)
def test_options_that_librdkafka_does_not_take_are_named(options, words):
    """An unknown option, an impossible value, a missing one: of the kind `configuration`."""
    with pytest.raises(BrokerUnavailable, match=f"kafka.options: .*{words}") as caught:
        PartitionReader({"bootstrap.servers": "127.0.0.1:9", **options}, KafkaConfig(), {})
    assert caught.value.kind == "configuration"
    assert "a-secret" not in str(caught.value)


def test_a_token_that_cannot_be_had_is_a_matter_of_authentication():
    """OAUTHBEARER with OIDC is passed through; its endpoint does not answer: said, with why."""
    with pytest.raises(BrokerUnavailable, match=r"OAUTHBEARER token.*sasl\.oauth") as caught:
        PartitionReader(
            {"bootstrap.servers": "127.0.0.1:9", **OIDC}, KafkaConfig(connect_timeout_s=5.0), {}
        )
    assert caught.value.kind == "authentication"
    assert "a-secret" not in str(caught.value)


def frames(seen):
    """The requests in what clients sent over some connections, each from its API key on."""
    for sent in seen:
        at = 0
        while at < len(sent):
            size = int.from_bytes(sent[at : at + 4], "big")
            yield bytes(sent[at + 4 : at + 4 + size])
            at += 4 + size


@pytest.mark.parametrize(("asked", "waited"), [(0.0, 0), (0.2, 1), (1.0, 1), (10.0, 10)])
def test_a_fetch_waits_as_long_as_is_asked(asked, waited):
    """Whole milliseconds, and none at all where none is asked for."""
    assert profile_options(IngestConfig(latency_ms=asked))["fetch.wait.max.ms"] == waited
