"""Partitions: where they begin, what Kafka is told, whether there are more of them."""

from __future__ import annotations

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from config.ingest import IngestConfig
from config.kafka import KafkaConfig
from tests.daemons import until
from workers.broker.cluster import MockCluster
from workers.ingest.consumer import BrokerUnavailable, PartitionReader, profile_options

pytestmark = pytest.mark.broker


@pytest.fixture
def servers():
    """Brokers with ten messages in each of two partitions."""
    cluster = MockCluster()
    cluster.create_topic("quotes", 2)
    producer = Producer({"bootstrap.servers": cluster.bootstrap_servers})
    for number in range(20):
        producer.produce("quotes", b"%d" % number, partition=number % 2)
    assert producer.flush(20) == 0
    yield cluster.bootstrap_servers
    cluster.close()


def reader(servers, positions, **kafka):
    """A reader of `quotes`."""
    config = KafkaConfig(**{"connect_timeout_s": 5.0, **kafka})
    options = {**profile_options(IngestConfig()), "bootstrap.servers": servers}
    return PartitionReader(options, config, positions)


def offsets(one, count):
    """The first `count` messages as (partition, offset), sorted."""
    got = []
    until("messages", lambda: got.extend(one.read(100, 0.1)) or len(got) >= count)
    return sorted((m.partition(), m.offset()) for m in got)


def test_the_ring_decides_where_to_go_on(servers):
    """A position in the ring wins; without one Kafka's commit, else the oldest message."""
    first = reader(servers, {"quotes/0": 7, "quotes/1": 9})
    assert offsets(first, 4) == [(0, 7), (0, 8), (0, 9), (1, 9)]
    first.passed({"quotes/0": 8, "quotes/1": 10})
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
    assert other.following() == [0, 3]
    other.close()


def test_a_start_at_the_newest_leaves_the_old_ones_out(servers):
    """Nobody has a position, and the old messages are not wanted."""
    one = reader(servers, {}, start="newest")
    assert one.following() == [10, 10]
    one.close()


def test_added_partitions_are_seen(servers):
    """A reader that knows fewer partitions than there are says so."""
    one = reader(servers, {})
    assert not one.has_grown()
    one.places.pop()
    assert one.has_grown()
    one.close()


def test_no_broker_is_said():
    """It may be there later: worth another try."""
    with pytest.raises(BrokerUnavailable):
        reader("127.0.0.1:9", {}, connect_timeout_s=0.5)
