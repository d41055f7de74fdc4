"""librdkafka's mock cluster: a Kafka-protocol broker on loopback, in this process.

It comes with the confluent-kafka wheel, so nothing has to be installed. Its limits are those of a
test broker and are said where they matter: memory only, 5 MiB a partition (the oldest messages
go), no static group membership, transactions not honoured.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

PARTITION_BYTES = 5 << 20
_PRODUCER = 0


class BrokerUnavailable(Exception):
    """The mock cluster could not be started."""


def _library() -> ctypes.CDLL:
    folder = Path(confluent_kafka.__file__).parent.parent / "confluent_kafka.libs"
    found = sorted(folder.glob("librdkafka*.so*"))
    if not found:
        raise BrokerUnavailable(
            f"no librdkafka in {folder}: install confluent-kafka from its wheel, not from source"
        )
    library = ctypes.CDLL(str(found[0]))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
        "rd_kafka_mock_broker_set_down": (number, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_broker_set_up": (number, [pointer, ctypes.c_int32]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class MockCluster:
    """One broker on an ephemeral loopback port; `bootstrap_servers` says which."""

    def __init__(self) -> None:
        """Start the cluster's thread. Raises BrokerUnavailable."""
        self._library = library = _library()
        error = ctypes.create_string_buffer(512)
        self._client = library.rd_kafka_new(_PRODUCER, library.rd_kafka_conf_new(), error, 512)
        if not self._client:
            raise BrokerUnavailable(f"librdkafka: {error.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            library.rd_kafka_destroy(self._client)
            raise BrokerUnavailable("librdkafka could not start its mock cluster: no free port?")
        self.bootstrap_servers: str = library.rd_kafka_mock_cluster_bootstraps(
            self._cluster
        ).decode()

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic. Raises BrokerUnavailable for a name that is taken or not allowed."""
        code = self._library.rd_kafka_mock_topic_create(self._cluster, name.encode(), partitions, 1)
        if code != 0:
            raise BrokerUnavailable(f"topic {name!r} with {partitions} partitions: error {code}")

    def set_up(self, up: bool) -> None:
        """Let the broker answer, or refuse every connection (for tests of an outage)."""
        switch = "rd_kafka_mock_broker_set_up" if up else "rd_kafka_mock_broker_set_down"
        getattr(self._library, switch)(self._cluster, 1)

    def close(self) -> None:
        """Stop the cluster and forget what it held."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
