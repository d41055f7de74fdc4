"""librdkafka's mock cluster: a Kafka-protocol broker on loopback, in this process.

It is part of the confluent-kafka wheel, so nothing else has to be installed. It has the limits of a
test broker: messages in memory only, 5 MiB per partition (the oldest messages are dropped), no
static group membership, no isolation of transactions.
"""

from __future__ import annotations

import ctypes
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

#: size of a partition; beyond it the oldest messages are dropped
PARTITION_BYTES: Final = 5 << 20
#: requests that can be answered with errors: name -> API key of the Kafka protocol
REQUESTS: Final = {"produce": 0, "fetch": 1, "list_offsets": 2, "metadata": 3, "heartbeat": 12}
_PRODUCER: Final = 0
#: Pause between two requests to the cluster's thread. Without it, a request just after the previous
#: answer waits a second (a lost wake-up in librdkafka 2.16; measured: 22 of 120 without a pause,
#: 0 of 120 with 0.3 ms or more).
SETTLE_S: Final = 0.002


class BrokerUnavailable(Exception):
    """The mock cluster could not be started."""


def _library() -> ctypes.CDLL:
    # the library is loaded without its Python binding, which would take three times as long
    spec = find_spec("confluent_kafka")
    folder = Path(str(spec.origin if spec else "")).parent.parent / "confluent_kafka.libs"
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
        "rd_kafka_mock_broker_set_rtt": (number, [pointer, ctypes.c_int32, number]),
        "rd_kafka_mock_topic_set_error": (None, [pointer, text, number]),
        "rd_kafka_mock_push_request_errors_array": (
            None,
            [pointer, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(number)],
        ),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
    }
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class MockCluster:
    """One broker on an ephemeral loopback port; `bootstrap_servers` holds its address."""

    def __init__(self) -> None:
        """Start the cluster's thread.

        Raises:
            BrokerUnavailable: librdkafka is missing or cannot start the cluster.
        """
        self._library = library = _library()
        error = ctypes.create_string_buffer(512)
        configuration = library.rd_kafka_conf_new()
        # hides the warning that this client has no brokers, which it does not need
        library.rd_kafka_conf_set(configuration, b"log_level", b"3", error, 512)
        self._client = library.rd_kafka_new(_PRODUCER, configuration, error, 512)
        if not self._client:
            raise BrokerUnavailable(f"librdkafka: {error.value.decode()}")
        self._cluster = library.rd_kafka_mock_cluster_new(self._client, 1)
        if not self._cluster:
            library.rd_kafka_destroy(self._client)
            raise BrokerUnavailable("librdkafka could not start its mock cluster: no free port?")
        self._ask("group_initial_rebalance_delay_ms", 0)
        self.bootstrap_servers: str = library.rd_kafka_mock_cluster_bootstraps(
            self._cluster
        ).decode()

    def create_topic(self, name: str, partitions: int) -> None:
        """Create a topic.

        Raises:
            BrokerUnavailable: The name exists or is not allowed.
        """
        code = self._ask("topic_create", name.encode(), partitions, 1)
        if code != 0:
            raise BrokerUnavailable(f"topic {name!r} with {partitions} partitions: error {code}")

    def set_up(self, up: bool) -> None:
        """Make the broker answer, or refuse every connection (for tests of an outage)."""
        self._ask("broker_set_up" if up else "broker_set_down", 1)

    def set_rtt(self, milliseconds: int) -> None:
        """Delay every answer by this time."""
        self._ask("broker_set_rtt", 1, milliseconds)

    def set_topic_error(self, topic: str, code: int) -> None:
        """Answer every request for a topic with a Kafka error code; 0 stops it."""
        self._ask("topic_set_error", topic.encode(), code)

    def push_request_errors(self, kind: str, codes: list[int]) -> None:
        """Answer the next requests of a kind with these Kafka error codes.

        Args:
            kind: A key of REQUESTS.
            codes: One code per request; 0 is no error.

        Raises:
            ValueError: The kind is unknown.
        """
        if kind not in REQUESTS:
            raise ValueError(f"requests of kind {kind!r}; known are {', '.join(REQUESTS)}")
        array = (ctypes.c_int * len(codes))(*codes)
        self._ask("push_request_errors_array", REQUESTS[kind], len(codes), array)

    def _ask(self, request: str, *arguments: Any) -> Any:
        """Send a request to the cluster's thread and wait for its result."""
        time.sleep(SETTLE_S)
        return getattr(self._library, f"rd_kafka_mock_{request}")(self._cluster, *arguments)

    def close(self) -> None:
        """Stop the cluster; its messages are lost."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
